"""Certificates and node keys: made once, readable by their owner, refused by name when they are wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from commonroot.client.node_key import load_node_key, make_node_key, public_line
from commonroot.common.errors import ConfigError, KeyFileError
from commonroot.server import pki


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    ca, ca_key = pki.make_authority(tmp_path, "acme")
    certificate, key = pki.make_server_certificate(tmp_path, ["hub.acme"], ca_certificate=ca, ca_key=ca_key)
    make_node_key(tmp_path / "node.key")
    assert [mode(path) for path in (ca_key, key, tmp_path / "node.key")] == [0o600] * 3
    assert [mode(path) for path in (ca, certificate)] == [0o644] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ca.key",
        "ca.pem",
        "node.key",
        "server.key",
        "server.pem",
    ]


def test_the_server_certificate_is_for_the_names_given_and_signed_by_the_authority(tmp_path: Path) -> None:
    ca, ca_key = pki.make_authority(tmp_path, "acme")
    names = ["hub.acme.example", "10.1.2.3", "::1"]
    certificate, _ = pki.make_server_certificate(tmp_path, names, ca_certificate=ca, ca_key=ca_key)
    assert pki.certificate_names(certificate) == names
    authority = x509.load_pem_x509_certificate(ca.read_bytes())
    x509.load_pem_x509_certificate(certificate.read_bytes()).verify_directly_issued_by(authority)
    assert pki.expires(certificate) < pki.expires(ca)
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    assert len(context.get_ca_certs()) == 1


def test_there_is_one_authority(tmp_path: Path) -> None:
    pki.make_authority(tmp_path, "acme")
    with pytest.raises(KeyFileError, match="there already"):
        pki.make_authority(tmp_path, "acme")


def test_a_renewed_certificate_replaces_the_old_one(tmp_path: Path) -> None:
    ca, ca_key = pki.make_authority(tmp_path, "acme")
    first, _ = pki.make_server_certificate(tmp_path, ["a.example"], ca_certificate=ca, ca_key=ca_key)
    pki.make_server_certificate(tmp_path, ["b.example"], ca_certificate=ca, ca_key=ca_key)
    assert pki.certificate_names(first) == ["b.example"]


@pytest.mark.parametrize("names", [[], ["bücher.example"]])
def test_names_no_certificate_can_be_for(tmp_path: Path, names: list[str]) -> None:
    ca, ca_key = pki.make_authority(tmp_path, "acme")
    with pytest.raises(ConfigError):
        pki.make_server_certificate(tmp_path, names, ca_certificate=ca, ca_key=ca_key)


def test_a_key_of_another_authority_signs_nothing(tmp_path: Path) -> None:
    ca, _ = pki.make_authority(tmp_path / "a", "a")
    _, other = pki.make_authority(tmp_path / "b", "b")
    with pytest.raises(KeyFileError):
        pki.make_server_certificate(tmp_path, ["x"], ca_certificate=ca, ca_key=other)


def test_a_node_key_is_a_p384_key_with_a_line_without_a_comment(tmp_path: Path) -> None:
    line = make_node_key(tmp_path / "node.key")
    kind, data = line.split(" ")
    assert kind == "ecdsa-sha2-nistp384"
    assert data.startswith("AAAA")
    assert public_line(load_node_key(tmp_path / "node.key")) == line
    assert (tmp_path / "node.key").read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_a_node_key_is_never_replaced(tmp_path: Path) -> None:
    line = make_node_key(tmp_path / "node.key")
    with pytest.raises(KeyFileError):
        make_node_key(tmp_path / "node.key")
    assert public_line(load_node_key(tmp_path / "node.key")) == line


def written(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> Path:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("fault", ["missing", "readable", "garbage", "pem", "ed25519", "p256"])
def test_a_node_key_that_cannot_be_used_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "node.key"
    if fault == "readable":
        make_node_key(path)
        path.chmod(0o640)
    elif fault == "garbage":
        path.write_bytes(b"garbage")
        path.chmod(0o600)
    elif fault == "pem":
        pki.write_private(
            path,
            ec.generate_private_key(ec.SECP384R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    elif fault == "ed25519":
        written(path, ed25519.Ed25519PrivateKey.generate())
    elif fault == "p256":
        written(path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(KeyFileError, match=r"node\.key"):
        load_node_key(path)
