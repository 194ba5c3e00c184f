"""Shamir's secret sharing over GF(2^8), for many 32-byte secrets at once.

Shamir, 1979, "How to share a secret".  Every byte of a secret is the constant term of its own random polynomial of
degree threshold - 1; a share is the polynomials' values at the holder's point.  The field is that of AES: bytes modulo
x^8 + x^4 + x^3 + x + 1.  Fewer than ``threshold`` shares say nothing about the secret, whatever the adversary computes.

Arithmetic is by table look-up and is not constant-time: shares are dealt and joined on machines that hold the secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import Random

Bytes2 = NDArray[np.uint8]
Bytes3 = NDArray[np.uint8]

SECRET_BYTES: Final = 32


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


def inverse(value: int) -> int:
    """1 / value."""
    if value == 0:
        raise ConfigError("0 has no inverse")
    return int(EXP[255 - LOG[value]])


def point(department: int) -> int:
    """The point at which a department's shares are taken: its number plus one, since 0 is the secret's."""
    return department + 1


def split(secrets: Bytes2, points: Sequence[int], threshold: int, random: Random) -> Bytes3:
    """Deal shares.

    Parameters  secrets: (k, 32) bytes; points: distinct, in 1..255; threshold: shares that recover a secret;
                random: called once, for (threshold - 1)·k·32 bytes of coefficients, the highest degree first
    Returns     (len(points), k, 32) bytes
    """
    _check(points, threshold)
    if secrets.ndim != 2 or secrets.shape[1] != SECRET_BYTES:
        raise ConfigError(f"secrets are rows of {SECRET_BYTES} bytes, not {secrets.shape}")
    drawn = np.frombuffer(random((threshold - 1) * secrets.size), dtype=np.uint8)
    coefficients = drawn.reshape(threshold - 1, *secrets.shape)
    shares = np.empty((len(points), *secrets.shape), dtype=np.uint8)
    for row, x in zip(shares, points, strict=True):
        times_x = PRODUCT[x]
        value = np.zeros_like(secrets)
        for coefficient in coefficients:  # Horner's rule
            value = times_x[value ^ coefficient]
        np.bitwise_xor(value, secrets, out=row)
    return shares


def interpolate(points: Sequence[int], shares: Bytes3, at: int = 0) -> Bytes2:
    """The values at ``at`` of the polynomials of degree < len(points) through the given shares; at 0, the secrets.

    Parameters  points: distinct; shares: (len(points), k, 32)
    Returns     (k, 32) bytes
    """
    if len(set(points)) != len(points) or shares.shape[0] != len(points):
        raise ConfigError("interpolation needs distinct points and one share for each")
    total = np.zeros(shares.shape[1:], dtype=np.uint8)
    for weight, share in zip(_weights(points, at), shares, strict=True):
        total ^= PRODUCT[weight][share]
    return total


def _weights(points: Sequence[int], at: int) -> list[int]:
    """Lagrange's: w_i = Π_{j≠i} (at - x_j) / (x_i - x_j); minus is exclusive or."""
    weights = []
    for x in points:
        top = bottom = 1
        for other in points:
            if other != x:
                top = int(PRODUCT[top, at ^ other])
                bottom = int(PRODUCT[bottom, x ^ other])
        weights.append(int(PRODUCT[top, inverse(bottom)]))
    return weights


def _check(points: Sequence[int], threshold: int) -> None:
    if len(set(points)) != len(points) or not all(0 < x < 256 for x in points):
        raise ConfigError("shares are taken at distinct points in 1..255")
    if not 1 <= threshold <= len(points):
        raise ConfigError(f"a threshold of {threshold} cannot be met by {len(points)} shares")
