"""Agreeing on one secret per pair of departments: X25519 and ML-KEM-768 side by side, for one epoch.

Whoever wants a pair's root must break both: the elliptic curve (RFC 7748) and the lattice (FIPS 203).  The
lower-numbered end encapsulates to the higher-numbered one, and both derive

    root_ij = HKDF(X25519 secret ‖ ML-KEM secret, salt = roster digest, info = "pair" ‖ lo ‖ hi ‖ H(ciphertext))

All public keys stand in the roster, so the salt binds them; the ciphertext is bound by its hash.  ML-KEM's own
encapsulation draws its randomness inside the library, the one place where randomness is not an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from commonroot.common.errors import KeyFileError, Malformed
from commonroot.common.secure_sum.primitives import KEY_BYTES, Random, agree, agreement_public, derive, tagged_hash

#: ML-KEM-768's sizes: the seed a private key is made from, a public key, a ciphertext.
SEED_BYTES: Final = 64
KEM_PUBLIC_BYTES: Final = 1184
CIPHERTEXT_BYTES: Final = 1088
PRIVATE_BYTES: Final = KEY_BYTES + SEED_BYTES


@dataclass(frozen=True, slots=True)
class AgreementKey:
    """The private halves of one department's agreement keys for one epoch: 32 bytes X25519, 64 bytes ML-KEM seed."""

    curve: bytes = field(repr=False)
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if (len(self.curve), len(self.seed)) != (KEY_BYTES, SEED_BYTES):
            raise KeyFileError(f"an agreement key is {KEY_BYTES} and {SEED_BYTES} bytes")

    @classmethod
    def generate(cls, random: Random) -> AgreementKey:
        """Fresh keys."""
        return cls(random(KEY_BYTES), random(SEED_BYTES))

    @property
    def public(self) -> tuple[bytes, bytes]:
        """The public halves, as the roster lists them: X25519 (32 bytes) and ML-KEM-768 (1184 bytes)."""
        return agreement_public(self.curve), kem_public(self.seed)

    def to_bytes(self) -> bytes:
        """96 bytes, for the key file alone."""
        return self.curve + self.seed

    @classmethod
    def from_bytes(cls, data: bytes) -> AgreementKey:
        """The inverse of ``to_bytes``."""
        return cls(data[:KEY_BYTES], data[KEY_BYTES:])


def kem_public(seed: bytes) -> bytes:
    """The ML-KEM-768 public key that a seed makes."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def check_public(curve: bytes, kem: bytes, *, who: str) -> None:
    """Raise Malformed, naming ``who``, for public keys that nobody can agree with: small order, or no lattice key."""
    try:
        agree(bytes(KEY_BYTES - 1) + b"\x40", curve)
        MLKEM768PublicKey.from_public_bytes(kem)
    except (KeyFileError, ValueError) as error:
        raise Malformed(f"the agreement keys of {who} are not valid X25519 and ML-KEM-768 keys") from error


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """A fresh 32-byte secret for the owner of an ML-KEM key, and the ciphertext that tells it: (secret, ciphertext)."""
    return MLKEM768PublicKey.from_public_bytes(public).encapsulate()


def decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The secret in a ciphertext of the right length; another's ciphertext gives a secret that nobody else has."""
    if len(ciphertext) != CIPHERTEXT_BYTES:
        raise Malformed(f"an ML-KEM-768 ciphertext is {CIPHERTEXT_BYTES} bytes, not {len(ciphertext)}")
    return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


def ciphertext_digest(ciphertext: bytes) -> bytes:
    """What a greeting signs in a ciphertext's place, and what goes into the pair's root."""
    return tagged_hash("ciphertext", ciphertext)


def pair_root(curve_secret: bytes, kem_secret: bytes, ciphertext: bytes, *, roster: bytes, lo: int, hi: int) -> bytes:
    """The root of a pair's key chain, 32 bytes, the same at both ends.

    Parameters  curve_secret, kem_secret: 32 bytes each; ciphertext: as it travelled; roster: its digest;
                lo, hi: the two departments' numbers
    """
    ends = lo.to_bytes(2, "big") + hi.to_bytes(2, "big")
    return derive(curve_secret + kem_secret, "pair", ends + ciphertext_digest(ciphertext), salt=roster)
