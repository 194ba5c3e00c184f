"""Real numbers ↔ ring elements whose sum cannot wrap.

fixed16   x in [-B, B], B published per round, becomes a level q in [0, L]:  v = (x/B + 1)·L/2,  q = ⌊v + u⌋ with u
          uniform in [0, 1) from an AES keystream, so E[q] = v: no bias beyond that of float32.
          L is even, so 0 is a level and exact.  n·L ≤ 15/16 · 2^16 < 2^16: n departments cannot wrap a lane.
fixed64   q = round(x · 2^f) in two's complement, with f chosen per term so that n·bound·2^f < 2^60: cannot wrap, and
          integers within the bound and their sums are exact as long as n·bound ≤ 2^53.

The reserve makes garbage visible.  A uniformly random 16-bit lane passes ``sum16 ≤ |U|·L`` with probability at most
15/16, so d random lanes all pass with probability (15/16)^d: 0.0016 for 100 lanes, e^-64 for 1,000.  A random 64-bit
lane passes with probability at most 1/8.  Garbage shaped to stay inside the range is not detected: the check protects
against faults, not against a department that lies about its own data.

Beside the manifest's terms, the codec adds scalars of its own to the 64-bit segment, under the same masks: for every
fixed16 term the mean of (x/B)² over the department's clipped values, and one clipped share, the fraction of its
fixed16 elements that lay outside their bound.  They set the next round's bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commonroot.common.errors import ConfigError, ManifestError, OutsideCharter, SumRejected, TooFewDepartments
from commonroot.common.manifest import FloatArray, Manifest, Term
from commonroot.common.roster import FEWEST_DEPARTMENTS
from commonroot.common.secure_sum.masks import Keystream

Lanes16 = NDArray[np.uint16]
Lanes64 = NDArray[np.uint64]
Bounds = NDArray[np.float32]

#: n·bound·2^f stays below this power of two.
_ROOM: Final = 60
#: Elements per step: 256 KiB of float32, which stays in a core's cache.
_CHUNK: Final = 1 << 16
#: Bounds outside these make float32 arithmetic under- or overflow.
_LEAST, _MOST = 1e-20, 1e20
#: A round's bound is this many root mean squares of the last one, and never less than this part of the term's bound.
_SPREAD, _FLOOR = 10.0, 1e-7
#: Slack of the float32 arithmetic in ``encode``, in steps: three roundings at 2^-24 of up to 2^14, and 2^-16.
_SLACK16 = 2.0**-8


@dataclass(frozen=True)
class Opened:
    """What one round reveals, decoded.

    values          sums over the survivors by term name, float64, in the term's shape
    next_bounds     float32 per fixed16 term: the bounds that the next round may publish
    clipped_share   mean over survivors of the fraction of fixed16 elements that were clipped; 0 without such terms
    """

    values: dict[str, FloatArray]
    next_bounds: Bounds
    clipped_share: float


class SumCodec:
    """The encoding of one manifest for up to ``departments`` contributions.

    Parameters  manifest: the terms; departments: the roster's size, an upper limit on contributions in one sum
    Raises      TooFewDepartments below three; ConfigError beyond what 16-bit lanes carry; ManifestError for a bound
                that has no fixed-point form
    """

    def __init__(self, manifest: Manifest, departments: int) -> None:
        if departments < FEWEST_DEPARTMENTS:
            raise TooFewDepartments(f"a sum over {departments} departments was asked for")
        self.manifest = manifest
        self.departments = departments
        #: L, even: the highest level of a 16-bit lane.
        self.levels: int = (0xFFFF * 15 // 16 // departments) & ~1
        if self.levels < 16:
            raise ConfigError(f"{departments} departments leave {self.levels} levels in a 16-bit lane")
        self._bulk = manifest.lane("fixed16")
        self._exact = [_Exact.of(t.name, t.shape, t.bound, departments) for t in manifest.lane("fixed64")]
        self._exact += [_Exact.of(name, (), 1.0, departments) for name in _own_names(self._bulk)]
        for term in self._bulk:
            if not _LEAST <= term.bound <= _MOST:
                raise ManifestError(f"term {term.name!r}: a fixed16 bound must lie in [{_LEAST}, {_MOST}]")
        if departments * self.levels > 0xFFFF or any(departments * term.most >= 1 << 63 for term in self._exact):
            raise ConfigError("the lanes of this manifest could wrap")

    @property
    def length16(self) -> int:
        """Number of uint16 lanes."""
        return sum(term.size for term in self._bulk)

    @property
    def length64(self) -> int:
        """Number of uint64 lanes, the codec's own scalars included."""
        return sum(term.size for term in self._exact)

    def initial_bounds(self) -> Bounds:
        """Each fixed16 term's manifest bound: what a first round publishes."""
        return np.array([_down32(term.bound) for term in self._bulk], dtype=np.float32)

    def check_bounds(self, bounds: ArrayLike) -> Bounds:
        """The bounds of a round's header as float32 (one per fixed16 term).

        Raises OutsideCharter unless each is finite, at most its term's bound and not below the floor of 1e-7 of it.
        """
        found = np.asarray(bounds, dtype=np.float32)
        if found.shape != (len(self._bulk),):
            raise OutsideCharter(f"expected {len(self._bulk)} bounds, found shape {found.shape}")
        for term, bound in zip(self._bulk, found.tolist(), strict=True):
            if not (math.isfinite(bound) and term.bound * _FLOOR * 0.5 <= bound <= term.bound):
                raise OutsideCharter(f"term {term.name!r}: bound {bound} is not in ({_FLOOR} .. 1) · {term.bound}")
        return found

    def error_bound(self, survivors: int, bounds: ArrayLike) -> dict[str, float]:
        """For every term, a strict bound on |opened sum - sum of the clipped values| of any element.

        fixed16: survivors · step with step = 2B/L, plus 1/256 of it for float32 arithmetic.
        fixed64: survivors · (step/2 + bound·2^-52) with step = 2^-f, the second part for float64 arithmetic.
        """
        found = self.check_bounds(bounds).tolist()
        out = {t.name: survivors * 2 * b / self.levels * (1 + _SLACK16) for t, b in zip(self._bulk, found, strict=True)}
        for exact in self._exact:
            out[exact.name] = survivors * (math.ldexp(0.5, -exact.bits) + exact.bound * 2.0**-52)
        return {term.name: out[term.name] for term in self.manifest.terms}

    # -- encoding --------------------------------------------------------------------------------------------------

    def encode(
        self, values: Mapping[str, NDArray[Any]], bounds: ArrayLike, rounding_key: bytes
    ) -> tuple[Lanes16, Lanes64]:
        """One department's terms as lanes; the two arrays lie next to each other in one fresh buffer.

        Parameters  values: every term of the manifest, real numbers in the term's shape; bounds: float32 per fixed16
                    term; rounding_key: 32 secret bytes; one key rounds one contribution, and always in the same way
        Raises      ManifestError for names, shapes or numbers that do not fit, and for a fixed64 value beyond its
                    bound (fixed16 values are clipped); OutsideCharter for bounds that do not fit
        """
        limits = self.check_bounds(bounds)
        arrays = self._checked(values)
        buffer = np.empty(2 * self.length16 + 8 * self.length64, dtype=np.uint8)
        lanes16 = buffer[: 2 * self.length16].view("<u2")
        lanes64 = buffer[2 * self.length16 :].view("<u8")
        uniforms = Keystream(rounding_key, "rounding")
        own: list[float] = []
        at = clipped = 0
        for term, limit in zip(self._bulk, limits, strict=True):
            square, beyond = self._encode16(term, arrays[term.name], limit, uniforms, lanes16[at : at + term.size])
            own.append(square)
            clipped += beyond
            at += term.size
        if own:
            own.append(clipped / self.length16)
        at = 0
        arrays.update(zip(_own_names(self._bulk), map(np.asarray, own), strict=True))
        for exact in self._exact:
            lanes64[at : at + exact.size] = _encode64(exact, arrays[exact.name])
            at += exact.size
        return lanes16, lanes64

    def _checked(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        known = {term.name for term in self.manifest.terms}
        for name in values:
            if name not in known:
                raise ManifestError(f"{name!r} is not in the manifest, so it may not be sent")
        out: dict[str, NDArray[Any]] = {}
        for term in self.manifest.terms:
            if term.name not in values:
                raise ManifestError(f"term {term.name!r} is missing")
            array = np.asarray(values[term.name])
            if array.dtype.kind not in "fiu":
                raise ManifestError(f"term {term.name!r}: expected real numbers, found {array.dtype}")
            if array.shape != term.shape:
                raise ManifestError(f"term {term.name!r}: expected shape {term.shape}, found {array.shape}")
            out[term.name] = array
        return out

    def _encode16(
        self, term: Term, values: NDArray[Any], limit: np.float32, uniforms: Keystream, out: Lanes16
    ) -> tuple[float, int]:
        """Fill ``out``; return the mean of (x/B)² after clipping and the number of clipped elements.

        All arithmetic is in 2^-16 of a level.  The factor is rounded down to float32, so |x| ≤ B gives |product| ≤ L/2
        and, with any uniform below one level, 0 ≤ q ≤ L without a further comparison.
        """
        flat = values.reshape(-1)
        half = self.levels << 15
        factor = np.float32(_down32(half / float(limit)))
        size = min(_CHUNK, term.size)
        work = np.empty(size, dtype=np.float32)
        fixed = np.empty(size, dtype=np.int32)
        noise = np.empty(size, dtype="<u2")
        squares, beyond = 0.0, 0
        for start in range(0, term.size, _CHUNK):
            x = flat[start : start + _CHUNK]
            w, q, u = work[: x.size], fixed[: x.size], noise[: x.size]
            if not np.isfinite(x).all():
                raise ManifestError(f"term {term.name!r} holds values that are not finite numbers")
            np.clip(x, -limit, limit, out=w, casting="unsafe")
            beyond += x.size - int(np.count_nonzero(np.abs(x) <= limit))
            np.multiply(w, factor, out=w)
            squares += float(np.dot(w, w))
            uniforms.fill(u.view(np.uint8))
            np.copyto(q, w, casting="unsafe")
            np.add(q, u, out=q)
            np.add(q, np.int32(half), out=q)
            np.right_shift(q, 16, out=q)
            np.copyto(out[start : start + x.size], q, casting="unsafe")
        return min(1.0, squares / (term.size * float(half) ** 2)), beyond

    # -- decoding --------------------------------------------------------------------------------------------------

    def decode(self, sum16: Lanes16, sum64: Lanes64, survivors: int, bounds: ArrayLike) -> Opened:
        """The sums over ``survivors`` contributions that were all encoded with ``bounds``.

        Raises SumRejected where a lane lies outside what honest departments can produce; ConfigError for lanes of
        another length or a number of survivors this codec was not made for.
        """
        limits = self.check_bounds(bounds)
        if sum16.shape != (self.length16,) or sum64.shape != (self.length64,):
            raise ConfigError(f"expected {self.length16} + {self.length64} lanes, found {sum16.size} + {sum64.size}")
        if not 1 <= survivors <= self.departments:
            raise ConfigError(f"a sum over {survivors} of {self.departments} departments")
        if sum16.size and int(sum16.max()) > survivors * self.levels:
            raise SumRejected("a 16-bit lane of the opened sum is out of range")
        found = self._decode64(sum64, survivors)
        at = 0
        for term, limit in zip(self._bulk, limits.tolist(), strict=True):
            lanes = sum16[at : at + term.size].astype(np.float64)
            lanes -= survivors * (self.levels // 2)
            lanes *= 2.0 * limit / self.levels
            found[term.name] = lanes.reshape(term.shape)
            at += term.size
        values = {term.name: found[term.name] for term in self.manifest.terms}
        own = [float(found[name]) for name in _own_names(self._bulk)]
        return Opened(values, self._next_bounds(limits, own, survivors), own[-1] / survivors if own else 0.0)

    def _decode64(self, sum64: Lanes64, survivors: int) -> dict[str, FloatArray]:
        signed = sum64.astype("<u8", copy=False).view("<i8")
        out: dict[str, FloatArray] = {}
        at = 0
        for term in self._exact:
            lanes = signed[at : at + term.size]
            if int(lanes.max()) > survivors * term.most or int(lanes.min()) < -survivors * term.most:
                raise SumRejected(f"term {term.name!r} of the opened sum is out of range")
            out[term.name] = np.ldexp(lanes.astype(np.float64), -term.bits).reshape(term.shape)
            at += term.size
        return out

    def _next_bounds(self, limits: Bounds, own: list[float], survivors: int) -> Bounds:
        """min(term bound, max(floor, 10 · root mean square)), in float32 and never above the term's bound."""
        out = np.empty(len(self._bulk), dtype=np.float32)
        for at, (term, limit) in enumerate(zip(self._bulk, limits.tolist(), strict=True)):
            rms = limit * math.sqrt(max(0.0, own[at]) / survivors)
            out[at] = _down32(min(term.bound, max(term.bound * _FLOOR, _SPREAD * rms)))
        return out


@dataclass(frozen=True, slots=True)
class _Exact:
    """One term of the 64-bit segment: its bound, its fractional bits f, and round(bound · 2^f)."""

    name: str
    shape: tuple[int, ...]
    bound: float
    bits: int
    most: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], bound: float, departments: int) -> _Exact:
        """With the largest f such that departments · bound · 2^f < 2^60."""
        exponent = math.frexp(departments * bound)[1]  # departments · bound < 2^exponent
        bits = _ROOM - exponent
        if not -900 <= bits <= 900:
            raise ManifestError(f"term {name!r}: the bound {bound} has no 64-bit fixed-point form")
        return cls(name, shape, bound, bits, round(math.ldexp(bound, bits)))

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _own_names(bulk: tuple[Term, ...]) -> list[str]:
    """The codec's own scalars; their names hold a character that no manifest accepts, so none can clash."""
    return [f"square:{term.name}" for term in bulk] + ["clipped:"] if bulk else []


def _encode64(term: _Exact, values: NDArray[Any]) -> Lanes64:
    flat = values.reshape(-1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise ManifestError(f"term {term.name!r} holds values that are not finite numbers")
    if np.abs(flat).max() > term.bound:
        raise ManifestError(f"term {term.name!r} holds a value beyond its bound of {term.bound}")
    return np.rint(np.ldexp(flat, term.bits)).astype("<i8").view("<u8")


def _down32(value: float) -> float:
    """The largest float32 that is not above ``value``."""
    near = np.float32(value)
    return float(near if float(near) <= value else np.nextafter(near, np.float32(-np.inf)))
