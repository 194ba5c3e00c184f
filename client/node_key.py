"""The key a department's node shows to the hub: made here, kept here.

Flower's node authentication takes NIST curves only, so this is a P-384 key of its own and none of the protocol's keys.
The private half is an OpenSSH file that only its owner may read; the public half is one line for the roster.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commonroot.common.errors import KeyFileError
from commonroot.files import Lock, read_private, storage_errors, write_private


def make_node_key(path: Path, *, lock: Lock | None = None) -> str:
    """Make a key at ``path`` (0600, sealed as ``files.write_private`` says) and return its public line.

    Raises  KeyFileError: there is a file already; StorageFull: it cannot be written
    """
    if path.exists():
        raise KeyFileError(f"{path} is there already", hint="a node key is made once")
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, content, lock=lock)
    return public_line(key)


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a node key.

    Raises  KeyFileError: missing, readable by others, not OpenSSH, or of another curve; SealedKey
    """
    content = read_private(path)
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no OpenSSH private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"{path} is no P-384 key", hint="node authentication takes NIST curves only")
    return key


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as one OpenSSH line without a comment: ``ecdsa-sha2-nistp384 AAAA…``."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode("ascii")
    )
