"""Real numbers to levels, by stochastic rounding, in as few passes over memory as NumPy allows.

x in [-B, B] has v = x/B · L/2, and its level is q = ⌊v + u⌋ with u uniform in [0, 1) from an AES keystream, so
E[q] = v: no bias beyond that of float32.  v is held in units of 2^-b as int32; b is at most 16, and smaller where L
needs the bits, but b + log2 L is never less than 30, which is more than the 24 bits of a float32.

One step: scale, square, convert, draw, widen, add, shift.  Nothing is clipped at first.  A value beyond its bound shows
when its level turns out to lie outside [0, L] (``Lanes.put``), one that is not finite in the sum of squares; then the
step is done once more with the same uniforms, after the clip.  What rounds to level 0 or L from just outside is as if
it had been clipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.secure_sum.lanes import STEP
from commonroot.common.secure_sum.masks import Keystream

_NOISE_BITS: Final = 16


class Rounder:
    """Rounds the elements of one contribution, in order, with one stream of uniforms and one set of buffers.

    Parameters  levels: L, even, at most 2^24; key: 32 secret bytes; elements: at most this many in one step
    """

    def __init__(self, levels: int, key: bytes, elements: int) -> None:
        self._bits = noise_bits(levels)
        #: (L/2) · 2^b: what the bound becomes.
        self._half = (levels << self._bits) // 2
        self._uniforms = Keystream(key, "rounding")
        size = min(STEP, elements)
        self._work = np.empty(size, dtype=np.float32)
        self._fixed = np.empty(size, dtype=np.int32)
        self._noise = np.empty(size, dtype="<u2")

    def factor(self, limit: float) -> np.float32:
        """(L/2) · 2^b / B, rounded down: with |x| ≤ B no product exceeds (L/2) · 2^b, so no level exceeds L."""
        return np.float32(down32(self._half / limit))

    def mean_square(self, squares: float, elements: int) -> float:
        """The mean of (x/B)² from the sum of ``round``'s squares; at most 1."""
        return min(1.0, squares / (elements * float(self._half) ** 2))

    def round(self, parts: Sequence[tuple[NDArray[Any], np.float32]]) -> list[tuple[NDArray[np.int32], float]]:
        """Of each part, which is elements and their factor: levels minus L/2, and the sum of squares of scaled values.

        The levels lie in a buffer that the next call overwrites.  They mean something only if the sum is finite, and
        only those in [-L/2, L/2]; the others are outside of it too.  NumPy's warnings of overflow are the caller's.
        """
        size = sum(x.size for x, _ in parts)
        u = self._noise[:size]
        self._uniforms.fill(u.view(np.uint8))
        if self._bits < _NOISE_BITS:
            np.right_shift(u, np.uint16(_NOISE_BITS - self._bits), out=u)
        squares, at = [], 0
        for x, factor in parts:
            w = self._work[at : at + x.size]
            if x.dtype == np.float32:
                np.multiply(x, factor, out=w)
            else:
                np.copyto(w, x, casting="unsafe")
                np.multiply(w, factor, out=w)
            squares.append(float(np.dot(w, w)))
            at += x.size
        q = self._levels(self._work[:size], u)
        ends = itertools.accumulate(x.size for x, _ in parts)
        return [(q[end - x.size : end], square) for (x, _), square, end in zip(parts, squares, ends, strict=True)]

    def clipped(
        self, x: NDArray[Any], limit: np.float32, factor: np.float32, at: int
    ) -> tuple[NDArray[np.int32], float, int] | None:
        """One of ``round``'s parts once more, after a clip, and how many values it changed.  None where a value is not
        finite.  ``at``: the number of its first element among those of ``round``."""
        if not np.isfinite(x).all():
            return None
        w = self._work[at : at + x.size]
        beyond = x.size - int(np.count_nonzero(np.abs(x) <= float(limit)))
        np.clip(x, -limit, limit, out=w, casting="unsafe")
        np.multiply(w, factor, out=w)
        square = float(np.dot(w, w))
        return self._levels(w, self._noise[at : at + x.size], at), square, beyond

    def _levels(self, w: NDArray[np.float32], u: NDArray[np.uint16], at: int = 0) -> NDArray[np.int32]:
        q = self._fixed[at : at + w.size]
        np.copyto(q, w, casting="unsafe")  # what does not fit becomes the least or the greatest number
        wide = w.view(np.int32)  # w is done with
        np.copyto(wide, u)
        np.add(q, wide, out=q)
        np.right_shift(q, self._bits, out=q)
        return q


def noise_bits(levels: int) -> int:
    """b: (L/2) · 2^b stays below 2^30, so that v + u fits into an int32."""
    return min(_NOISE_BITS, 31 - levels.bit_length())


def slack(levels: int) -> float:
    """What float32 arithmetic and b bits add to an error of one step, in steps: three roundings at 2^-24 and 2^-b."""
    return levels * 2.0**-23 + 2.0 ** -noise_bits(levels)


def down32(value: float) -> float:
    """The largest float32 that is not above ``value``."""
    near = np.float32(value)
    return float(near if float(near) <= value else np.nextafter(near, np.float32(-math.inf)))
