"""The few cryptographic operations everything else is built from.

All derivations carry a versioned label, all signatures are bound to the kind of thing they sign, and randomness is an
argument of whoever needs it.  Primitives are those of the `cryptography` package: Ed25519 (RFC 8032), X25519
(RFC 7748), HKDF-SHA-256 (RFC 5869), AES-256-GCM (NIST SP 800-38D).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from commonroot.common.errors import BadBox, BadSignature, KeyFileError

#: A source of random bytes: ``os.urandom`` in deployment, a seeded generator in a simulation.
Random = Callable[[int], bytes]

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_LABEL = b"commonroot/1/"


def sha256(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of the parts, one after the other, without copying them together."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def tagged_hash(label: str, *parts: bytes) -> bytes:
    """SHA-256 bound to a label, with each part's length in front so that parts cannot slide into one another."""
    digest = hashlib.sha256(_LABEL + label.encode() + b"\0")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


#: RFC 2104: byte for byte, a key xored with the inner and the outer pad.
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


#: HMAC-SHA-256 under the empty key, both halves begun: what HKDF extracts with where there is no salt.
_UNSALTED = tuple(hashlib.sha256(bytes(64).translate(pad)) for pad in (_INNER, _OUTER))


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 by its definition: for a message this short the library takes longer to begin than to compute."""
    if len(key) > 64:
        return hmac.digest(key, message, "sha256")
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(key.translate(_INNER) + message).digest()
    return hashlib.sha256(key.translate(_OUTER) + inner).digest()


def _extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF's first step."""
    if salt:
        return _hmac(salt, secret)
    inner, outer = (begun.copy() for begun in _UNSALTED)
    inner.update(secret)
    outer.update(inner.digest())
    return outer.digest()


def derive(secret: bytes, label: str, context: bytes = b"", *, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA-256 with ``info = label ‖ 0 ‖ context``."""
    info = _LABEL + label.encode() + b"\0" + context
    if 0 < length <= KEY_BYTES:  # RFC 5869 for one block, in a third of the time: there are thousands of these
        return _hmac(_extract(salt, secret), info + b"\1")[:length]
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt or None, info=info).derive(secret)


def same(left: bytes, right: bytes) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(left, right)


class Identity:
    """An Ed25519 signing key.  It is made where it is used and has no representation that shows it."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise KeyFileError(f"an identity key is {KEY_BYTES} bytes, not {len(seed)}")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: Random) -> Identity:
        """A fresh identity."""
        return cls(random(KEY_BYTES))

    def sign(self, label: str, message: bytes) -> bytes:
        """64 bytes over ``label`` and ``message``; a signature made for one label is void for every other."""
        return self._private.sign(_LABEL + label.encode() + b"\0" + message)

    def secret_bytes(self) -> bytes:
        """The 32-byte seed, for the key file alone."""
        return self._private.private_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:12]}…)"


def verify(public: bytes, label: str, message: bytes, signature: bytes, *, who: str) -> None:
    """Raise BadSignature, naming ``who``, unless the signature is ``public``'s for this label and message."""
    try:
        _public(public).verify(signature, _LABEL + label.encode() + b"\0" + message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the {label} signature of {who} does not verify") from error


@lru_cache(maxsize=1024)
def _public(key: bytes) -> Ed25519PublicKey:
    """A department signs three times a round, and the coordinator everything."""
    return Ed25519PublicKey.from_public_bytes(key)


def agreement_public(private: bytes) -> bytes:
    """The X25519 public key of a 32-byte private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, peer_public: bytes) -> bytes:
    """The X25519 shared secret.  Raises KeyFileError for a peer key of small order."""
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        raise KeyFileError("an agreement key in the roster is not a valid X25519 key") from error


def seal(key: bytes, plaintext: bytes, bound_to: bytes) -> bytes:
    """AES-256-GCM under a key that seals exactly one box, so the nonce may be fixed.  16 bytes longer than the text."""
    return AESGCM(key).encrypt(bytes(12), plaintext, bound_to)


def unseal(key: bytes, box: bytes, bound_to: bytes, *, who: str) -> bytes:
    """The text of a box, or BadBox naming its sender."""
    try:
        return AESGCM(key).decrypt(bytes(12), box, bound_to)
    except InvalidTag as error:
        raise BadBox(f"the box of {who} does not open under this round's transcript") from error
