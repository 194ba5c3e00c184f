"""The federation's own certificate authority: one CA, one server certificate for the coordinator.

A department trusts this CA and no other, so the certificate needs nobody outside the enterprise.  Curve P-384
throughout, because Flower's node authentication is of the same family and TLS libraries speak it everywhere.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from commonroot.common.errors import ConfigError, KeyFileError
from commonroot.files import Lock, atomic_write, read_private, write_private

CA_CERT: Final = "ca.pem"
CA_KEY: Final = "ca.key"
SERVER_CERT: Final = "server.pem"
SERVER_KEY: Final = "server.key"

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 825
#: Certificates are valid from a little earlier than now: the departments' clocks are not ours.
_BACKDATED: Final = datetime.timedelta(hours=1)


def make_authority(
    folder: Path, federation: str, *, days: int = CA_DAYS, lock: Lock | None = None
) -> tuple[Path, Path]:
    """Make the CA of a federation in ``folder``; its key is sealed under ``lock``, and the listener's as it is.

    Returns the paths of the certificate, which every department gets, and of the key (0600), which stays.
    Raises  KeyFileError: there is a CA already; making another one would lock every department out
    """
    certificate, key_file = folder / CA_CERT, folder / CA_KEY
    for path in (certificate, key_file):
        if path.exists():
            raise KeyFileError(f"{path} is there already", hint="a second CA would lock every department out")
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} certificate authority"[:64])])
    public = key.public_key()
    built = (
        _started(name, name, public, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA384())
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_private(key_file, _pem_key(key), lock=lock)
    write_public(certificate, built.public_bytes(serialization.Encoding.PEM))
    return certificate, key_file


def make_server_certificate(
    folder: Path, names: Sequence[str], *, ca_certificate: Path, ca_key: Path, days: int = SERVER_DAYS
) -> tuple[Path, Path]:
    """Make the coordinator's certificate for these host names and addresses, signed by the federation's CA.

    An earlier one is replaced, which is how it is renewed.  Returns the paths of the certificate and of the key (0600).
    Raises  ConfigError: no name, or one that is none; KeyFileError: the CA cannot be read
    """
    if not names:
        raise ConfigError("a server certificate needs at least one host name or address")
    authority, authority_key = _load_authority(ca_certificate, ca_key)
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    built = (
        _started(subject, authority.subject, public, days)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key_file = folder / SERVER_CERT, folder / SERVER_KEY
    write_private(key_file, _pem_key(key))
    write_public(certificate, built.public_bytes(serialization.Encoding.PEM))
    return certificate, key_file


def certificate_names(certificate: Path) -> list[str]:
    """The host names and addresses a certificate is for, as a person would write them."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise KeyFileError(f"{certificate}: {_why(error)}") from error
    return [str(name.value) for name in names]


def pin(pem: bytes) -> bytes:
    """SHA-256 of a certificate in DER: what tokens hold of the federation's CA."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())


def expires(certificate: Path) -> datetime.datetime:
    """When a certificate ends, in UTC."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{certificate}: {_why(error)}") from error


def mismatch(certificate: Path, key_file: Path, ca: Path) -> str:
    """Why these three do not belong together; empty if they do.  Raises KeyFileError for what cannot be read."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(ca.read_bytes())
        key = serialization.load_pem_private_key(read_private(key_file), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"{certificate}, {key_file} or {ca}: {_why(error)}") from error
    if key.public_key() != found.public_key():
        return f"{key_file.name} is not the key of {certificate.name}"
    try:
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return f"{certificate.name} was not issued by {ca.name}"
    return ""


def write_public(path: Path, content: bytes) -> None:
    """Write a file anybody may read; it is complete or it is not there."""
    atomic_write(path, content)


def _started(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} is neither a host name nor an address", hint="write it in ASCII") from error


def _load_authority(certificate: Path, key_file: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = serialization.load_pem_private_key(read_private(key_file), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"{certificate} or {key_file}: {_why(error)}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != found.public_key():
        raise KeyFileError(f"{key_file} is not the key of {certificate}")
    return found, key


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _why(error: Exception) -> str:
    """The reason without the path, which the caller names, and without any content."""
    return (error.strerror or "cannot be used") if isinstance(error, OSError) else "not what it should be"
