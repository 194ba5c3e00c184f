"""Nodes' public keys, between the OpenSSH line of a roster and the PEM that the hub keeps."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from commonroot.common.errors import KeyFileError


def check_node_key(line: str) -> None:
    """Raise KeyFileError unless this is the line of a key that the hub can register, as the hub itself writes it."""
    if _line_of(_loaded(line)) != line:
        raise KeyFileError("a node key is one OpenSSH line without a comment")


def as_line(pem: bytes) -> str:
    """A public key in PEM as one OpenSSH line without a comment."""
    return _line_of(serialization.load_pem_public_key(pem))


def as_pem(line: str) -> bytes:
    """One OpenSSH line as the hub stores it.  Raises KeyFileError: not a NIST curve key in OpenSSH form."""
    return _loaded(line).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _loaded(line: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_ssh_public_key(line.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:  # UnicodeEncodeError is a ValueError
        raise KeyFileError("this is no OpenSSH public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError("node authentication takes NIST curves only")
    return key


def _line_of(key: PublicKeyTypes) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")
