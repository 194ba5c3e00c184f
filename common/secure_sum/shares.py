"""Shamir's secret sharing over GF(2^8), for thousands of 32-byte secrets at once.

Shamir, 1979, "How to share a secret".  Every byte of a secret is the constant term of its own random polynomial of
degree threshold - 1; a share is the polynomials' values at the holder's point.  The field is that of AES: bytes modulo
x^8 + x^4 + x^3 + x + 1.  Fewer than ``threshold`` shares say nothing about the secret, whatever the adversary computes.

More than 32 holders are served by an additive Fourier transform (Lin, Chung, Han, 2014, arXiv:1404.3458): the points
0..2^L - 1 are a subspace of the field over GF(2), and a polynomial of degree < 2^L is evaluated at all of them with
L·2^(L-1) multiplications by constants rather than threshold · holders.  Its coefficients are then those of the basis
X_i = Π ŝ_j over the bits j of i, where ŝ_j vanishes at the points below 2^j and is 1 at 2^j.  X_i has degree i and
X_i(0) = 0 for i > 0, so random coefficients of X_1 … X_(threshold - 1) are random polynomials with the given constant
term, exactly as random coefficients of x … x^(threshold - 1) are.

A product by a constant is a translation of bytes by a table: the fastest one there is without compiled code of our own.
Arithmetic is by table look-up and is not constant-time: shares are dealt and joined on machines that hold the secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import Random

Bytes1 = NDArray[np.uint8]
Bytes2 = NDArray[np.uint8]
Bytes3 = NDArray[np.uint8]

SECRET_BYTES: Final = 32
#: For more holders than this, dealing is by transform.
_FEW: Final = 32


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Powers of the generator 3 (twice around, so that a sum of two logarithms needs no reduction) and logarithms."""
    exp = np.zeros(510, dtype=np.uint8)
    log = np.zeros(256, dtype=np.int64)
    value = 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        value ^= value << 1  # times 3
        if value & 0x100:
            value ^= 0x11B
    return exp, log


EXP, LOG = _tables()
#: PRODUCT[a, b] = a · b in the field; a row is the table "times a".
PRODUCT: Final = np.zeros((256, 256), dtype=np.uint8)
PRODUCT[1:, 1:] = EXP[LOG[1:, None] + LOG[None, 1:]]
_TIMES: Final = tuple(row.tobytes() for row in PRODUCT)


def _skews() -> NDArray[np.uint8]:
    """ŝ_j(x) for j < 8 and all x: s_0 = x, s_(j+1)(x) = s_j(x)·(s_j(x) + s_j(2^j)), ŝ_j = s_j / s_j(2^j)."""
    out = np.empty((8, 256), dtype=np.uint8)
    values = np.arange(256, dtype=np.uint8)
    for j in range(8):
        unit = values[1 << j]
        out[j] = PRODUCT[inverse(int(unit)), values]
        values = PRODUCT[values, values ^ unit]
    return out


def inverse(value: int) -> int:
    """1 / value."""
    if value == 0:
        raise ConfigError("0 has no inverse")
    return int(EXP[255 - LOG[value]])


_SKEW: Final = _skews()


def times(value: int, block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``value`` times every byte of a contiguous block, in its shape; not to be written to."""
    return np.frombuffer(block.tobytes().translate(_TIMES[value]), dtype=np.uint8).reshape(block.shape)


def split(secrets: Bytes2, points: Sequence[int], threshold: int, random: Random) -> Bytes3:
    """Deal shares.

    Parameters  secrets: (k, 32) bytes; points: distinct, in 1..255; threshold: shares that recover a secret;
                random: called once, for (threshold - 1)·k·32 bytes of coefficients: of powers of x, the highest first,
                and for more than 32 holders of X_1, X_2, …
    Returns     (len(points), k, 32) bytes
    """
    _check(points, threshold)
    if secrets.ndim != 2 or secrets.shape[1] != SECRET_BYTES:
        raise ConfigError(f"secrets are rows of {SECRET_BYTES} bytes, not {secrets.shape}")
    drawn = np.frombuffer(random((threshold - 1) * secrets.size), dtype=np.uint8)
    coefficients = drawn.reshape(threshold - 1, *secrets.shape)
    if len(points) > _FEW:
        return _transform(secrets, coefficients, max(points))[list(points)]
    shares = np.empty((len(points), *secrets.shape), dtype=np.uint8)
    for row, x in zip(shares, points, strict=True):
        value = np.zeros_like(secrets)
        for coefficient in coefficients:  # Horner's rule
            value = times(x, value ^ coefficient)
        np.bitwise_xor(value, secrets, out=row)
    return shares


def _transform(secrets: Bytes2, coefficients: Bytes3, last: int) -> Bytes3:
    """The values at 0, 1, 2, … (a power of two of them, ``last`` included) of secret + Σ coefficient · X_i."""
    levels = max(last, len(coefficients)).bit_length()
    rows = np.zeros((1 << levels, *secrets.shape), dtype=np.uint8)
    rows[0] = secrets
    rows[1 : 1 + len(coefficients)] = coefficients
    for j in reversed(range(levels)):
        half = 1 << j
        for start in range(0, len(rows), 2 * half):
            low, high = rows[start : start + half], rows[start + half : start + 2 * half]
            if skew := int(_SKEW[j, start]):
                low ^= times(skew, high)
            high ^= low
    return rows


def interpolate(points: Sequence[int], shares: Bytes3, at: int = 0) -> Bytes2:
    """The values at ``at`` of the polynomials of degree < len(points) through the given shares; at 0, the secrets.

    Parameters  points: distinct; shares: (len(points), k, 32)
    Returns     (k, 32) bytes
    """
    if len(set(points)) != len(points) or shares.shape[0] != len(points):
        raise ConfigError("interpolation needs distinct points and one share for each")
    total = np.zeros(shares.shape[1:], dtype=np.uint8)
    for weight, share in zip(_weights(points, at), shares, strict=True):
        if weight:
            total ^= times(weight, share)
    return total


def _weights(points: Sequence[int], at: int) -> list[int]:
    """Lagrange's: w_i = Π_{j≠i} (at - x_j) / (x_i - x_j); minus is exclusive or."""
    if at in points:
        return [int(x == at) for x in points]
    x = np.asarray(points, dtype=np.int64)
    top = LOG[at ^ x]
    bottom = LOG[x[:, None] ^ x[None, :]]  # the diagonal is LOG[0] = 0: it multiplies by 1
    return [int(EXP[power]) for power in (top.sum() - top - bottom.sum(axis=1)) % 255]


def _check(points: Sequence[int], threshold: int) -> None:
    if len(set(points)) != len(points) or not all(0 < x < 256 for x in points):
        raise ConfigError("shares are taken at distinct points in 1..255")
    if not 1 <= threshold <= len(points):
        raise ConfigError(f"a threshold of {threshold} cannot be met by {len(points)} shares")
