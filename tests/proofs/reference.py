"""The secure sum once more: slowly, from the documents, sharing no line of arithmetic with the program.

Python integers instead of arrays, HMAC instead of an HKDF library, one AES block at a time instead of a keystream,
carry-less multiplication instead of tables, GHASH by hand instead of AES-GCM.  Only AES itself, SHA-256, HMAC and
Ed25519 are taken from libraries.  Complete graph, everyone on the opening committee.

Sources  docs/adr/0004 and 0010; RFC 5869 (HKDF); NIST SP 800-38A (CTR, CFB), SP 800-38D (GCM); Shamir, 1979
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

PREFIX = b"commonroot/1/"
#: Does an upload's signature cover its body in pieces, or whole?
PIECEWISE = find_spec("commonroot.common.secure_sum.pieces") is not None


# -- hashes and keys -------------------------------------------------------------------------------------------------


def tagged_hash(label: str, *parts: bytes) -> bytes:
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.sha256(PREFIX + label.encode() + b"\0" + framed).digest()


def derive(secret: bytes, label: str, context: bytes = b"", salt: bytes = b"") -> bytes:
    """HKDF-SHA-256, 32 bytes: extract, then the first and only block of expand."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(key, PREFIX + label.encode() + b"\0" + context + b"\1", "sha256")


def body_hash(body: bytes) -> bytes:
    """What a department signs for the body of its upload."""
    if not PIECEWISE:
        return hashlib.sha256(body).digest()
    pieces = [body[at : at + 5 * 2**20] for at in range(0, len(body), 5 * 2**20)]
    return tagged_hash("body", *(hashlib.sha256(b"ArrayChunk  %d\0" % len(p) + p).digest() for p in pieces))


def chain_at(block: bytes, chain: bytes, round: int) -> bytes:
    """The chain of a round from what is held at round 0: the next block's key and this block's chain."""
    if round >= 256:
        for _ in range(round // 256 - 1):
            block = derive(block, "next block")
        chain = derive(block, "rounds")
    for _ in range(round % 256):
        chain = derive(chain, "next")
    return chain


def pair_secret(chain: bytes, transcript: bytes) -> bytes:
    return derive(chain, "mask", transcript)


def commit_self(transcript: bytes, department: int, secret: bytes) -> bytes:
    return tagged_hash("b", transcript, department.to_bytes(2, "big"), secret)


def commit_pair(transcript: bytes, secret: bytes) -> bytes:
    return tagged_hash("p", transcript, secret)


# -- masks -----------------------------------------------------------------------------------------------------------


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(AES256(key), ECB()).encryptor().update(block)


def keystream(secret: bytes, size: int) -> bytes:
    """Block j is AES-256 of counter j, xored with counter j + 1; counter j is j in 8 bytes, twice."""
    key, counters = derive(secret, "keystream mask"), [at.to_bytes(8, "little") * 2 for at in range(size // 16 + 2)]
    blocks = (
        bytes(x ^ c for x, c in zip(aes(key, at), after, strict=True)) for at, after in itertools.pairwise(counters)
    )
    return b"".join(blocks)[:size]


def begins(bulk: int) -> tuple[int, int]:
    """Where in a stream the masks of both kinds of lanes begin, by the bulk's bytes: exact ones at a whole block."""
    return 0, -(-bulk // 16) * 16


def words(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def add_mask(lanes: Sequence[int], width: int, begin: int, sign: int, secret: bytes) -> list[int]:
    """Lanes of ``width`` bytes with one secret's keystream, from byte ``begin`` on, added (+1) or subtracted (-1)."""
    stream = words(keystream(secret, begin + width * len(lanes))[begin:], width)
    return [(lane + sign * noise) % 2 ** (8 * width) for lane, noise in zip(lanes, stream, strict=True)]


def pair_sign(me: int, peer: int) -> int:
    return 1 if me < peer else -1


# -- sharing ---------------------------------------------------------------------------------------------------------


def carryless(left: int, right: int, modulus: int, degree: int) -> int:
    """The product of two polynomials over GF(2) modulo a third."""
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        if left >> degree:
            left ^= modulus
        right >>= 1
    return product


def times(left: int, right: int) -> int:
    """In the field of AES: x^8 + x^4 + x^3 + x + 1."""
    return carryless(left, right, 0x11B, 8)


def inverse(value: int) -> int:
    """value^254, by multiplying it 253 times."""
    out = value
    for _ in range(253):
        out = times(out, value)
    return out


def deal(secret: bytes, coefficients: Sequence[bytes], point: int) -> bytes:
    """The value at ``point`` of secret + c_1 x + c_2 x² + …; coefficients with the highest power first."""
    out = bytearray(len(secret))
    for at, constant in enumerate(secret):
        power, value = 1, constant
        for coefficient in reversed(coefficients):
            power = times(power, point)
            value ^= times(coefficient[at], power)
        out[at] = value
    return bytes(out)


def join(shares: Mapping[int, bytes]) -> bytes:
    """The value at 0 of the polynomial through shares by point."""
    size = len(next(iter(shares.values())))
    out = bytearray(size)
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = times(weight, times(other, inverse(other ^ x)))
        for at in range(size):
            out[at] ^= times(weight, share[at])
    return bytes(out)


# -- boxes -----------------------------------------------------------------------------------------------------------


def gcm(key: bytes, text: bytes, bound_to: bytes) -> bytes:
    """AES-256-GCM with a nonce of twelve zeros: ciphertext, then the tag."""
    counters = b"".join(at.to_bytes(16, "big") for at in range(1, 2 + -(-len(text) // 16)))
    stream = aes(key, counters)
    sealed = bytes(a ^ b for a, b in zip(text, stream[16:], strict=False))
    point = int(f"{int.from_bytes(aes(key, bytes(16)), 'big'):0128b}"[::-1], 2)
    value = 0
    lengths = (8 * len(bound_to)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
    hashed = bound_to + bytes(-len(bound_to) % 16) + sealed + bytes(-len(sealed) % 16) + lengths
    for at in range(0, len(hashed), 16):
        block = int(f"{int.from_bytes(hashed[at : at + 16], 'big'):0128b}"[::-1], 2)
        value = carryless(value ^ block, point, 1 << 128 | 0x87, 128)
    tag = int(f"{value:0128b}"[::-1], 2) ^ int.from_bytes(stream[:16], "big")
    return sealed + tag.to_bytes(16, "big")


def box(chain: bytes, transcript: bytes, sender: int, member: int, salt: bytes, text: bytes) -> bytes:
    bound_to = transcript + sender.to_bytes(2, "big") + member.to_bytes(2, "big")
    return salt + gcm(derive(chain, "box", bound_to, salt=salt), text, bound_to)
