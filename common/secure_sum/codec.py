"""Real numbers ↔ ring elements whose sum cannot wrap.

fixed16   bulk.  x in [-B, B], B published per round, becomes a level q in [0, L] by stochastic rounding, with
          E[q] = (x/B + 1)·L/2 (``rounding``).  L is even, so 0 is a level and exact.  Levels travel in the lanes that
          the charter names (``lanes``): fields of 16, 21 or 32 bits, with n·L ≤ 15/16 of a field: cannot wrap.
fixed64   q = round(x · 2^f) in two's complement, with f chosen per term so that n·bound·2^f < 2^60: cannot wrap, and
          integers within the bound and their sums are exact as long as n·bound ≤ 2^53.

The reserve makes garbage visible.  A uniformly random field passes ``sum ≤ |U|·L`` with probability at most 15/16, so
d random fields all pass with probability (15/16)^d: 0.0016 for 100, e^-64 for 1,000.  A random 64-bit word of the exact
segment passes with probability at most 1/8.  Garbage shaped to stay inside the range is not detected: the check
protects against faults, not against a department that lies about its own data.

Beside the manifest's terms, the codec adds scalars of its own to the exact segment, under the same masks: for every
fixed16 term the mean of (x/B)² over the department's clipped values, and one clipped share, the fraction of its
fixed16 elements that lay outside their bound, those left out that rounding took back in.  They set the next round's
bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError, ManifestError, OutsideCharter, SumRejected, TooFewDepartments
from commonroot.common.manifest import FloatArray, Manifest, Term
from commonroot.common.roster import FEWEST_DEPARTMENTS, Roster
from commonroot.common.secure_sum.lanes import STEP, UINT16, Lanes, Layout, Words, Words64, choose
from commonroot.common.secure_sum.rounding import Rounder, down32, slack

Bounds = NDArray[np.float32]

#: n·bound·2^f stays below this power of two.
_ROOM: Final = 60
#: Bounds outside these make float32 arithmetic under- or overflow.
_LEAST, _MOST = 1e-20, 1e20
#: A round's bound is this many root mean squares of the last one, and never less than this part of the term's bound.
_SPREAD, _FLOOR = 10.0, 1e-7


@dataclass(frozen=True)
class Opened:
    """What one round reveals, decoded.

    values          sums over the survivors by term name, float64, in the term's shape
    next_bounds     float32 per fixed16 term: the bounds that the next round may publish
    clipped_share   mean over survivors of the fraction of fixed16 elements that were clipped; 0 without such terms
    """

    values: dict[str, FloatArray] = field(repr=False)
    next_bounds: Bounds
    clipped_share: float


class SumCodec:
    """The encoding of one manifest for up to ``departments`` contributions.

    Parameters  manifest: the terms; departments: the cohort's size, an upper limit on contributions in one sum;
                lanes: of the fixed16 terms
    Raises      TooFewDepartments below three; ConfigError beyond what the lanes carry; ManifestError for a bound that
                has no fixed-point form
    """

    def __init__(self, manifest: Manifest, departments: int, lanes: Lanes = UINT16) -> None:
        if departments < FEWEST_DEPARTMENTS:
            raise TooFewDepartments(f"a sum over {departments} departments was asked for")
        self.manifest = manifest
        self.departments = departments
        self.lanes = lanes
        #: L, even: the highest level of a lane.
        self.levels: int = lanes.levels(departments)
        self._bulk = manifest.lane("fixed16")
        self._elements = sum(term.size for term in self._bulk)
        self._stated = manifest.lane("fixed64")
        self._exact = [_Exact.of(t.name, t.shape, t.bound, departments) for t in self._stated]
        self._exact += [_Exact.of(name, (), 1.0, departments) for name in _own_names(self._bulk)]
        for term in self._bulk:
            if not _LEAST <= term.bound <= _MOST:
                raise ManifestError(f"term {term.name!r}: a fixed16 bound must lie in [{_LEAST}, {_MOST}]")
        if any(departments * term.most >= 1 << 63 for term in self._exact):
            raise ConfigError("the exact lanes of this manifest could wrap")
        #: Where everything lies in an upload; the codec's own scalars included.
        self.layout = Layout(lanes.word, lanes.words(self._elements), sum(term.size for term in self._exact))

    @staticmethod
    def of_round(charter: Charter, roster: Roster, departments: int) -> SumCodec:
        """The codec of a round with a cohort of ``departments``; the lanes depend on charter and roster alone."""
        return _codec(charter.manifest, departments, choose(charter.lanes, len(roster.departments)))

    def initial_bounds(self) -> Bounds:
        """Each fixed16 term's manifest bound: what a first round publishes."""
        return np.array([down32(term.bound) for term in self._bulk], dtype=np.float32)

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

        fixed16: survivors · step with step = 2B/L, and a little for float32 arithmetic (``rounding.slack``).
        fixed64: survivors · (step/2 + bound·2^-52) with step = 2^-f, the second part for float64 arithmetic.
        """
        found = self.check_bounds(bounds).tolist()
        steps = survivors * (1 + slack(self.levels))
        out = {t.name: steps * 2 * b / self.levels for t, b in zip(self._bulk, found, strict=True)}
        for exact in self._exact:
            out[exact.name] = survivors * (math.ldexp(0.5, -exact.bits) + exact.bound * 2.0**-52)
        return {term.name: out[term.name] for term in self.manifest.terms}

    # -- encoding --------------------------------------------------------------------------------------------------

    def encode(
        self, values: Mapping[str, NDArray[Any]], bounds: ArrayLike, rounding_key: bytes
    ) -> tuple[Words, Words64]:
        """One department's terms as words; the two arrays lie next to each other in one fresh buffer.

        Parameters  values: every term of the manifest, real numbers in the term's shape; bounds: float32 per fixed16
                    term; rounding_key: 32 secret bytes; one key rounds one contribution, and always in the same way
        Raises      ManifestError for names, shapes or numbers that do not fit, and for a fixed64 value beyond its
                    bound (fixed16 values are clipped); OutsideCharter for bounds that do not fit
        """
        limits = self.check_bounds(bounds)
        arrays = self._checked(values)
        bulk, exact = self.layout.empty()
        own = self._encode_bulk(arrays, limits, rounding_key, bulk)
        at = 0
        values64: list[NDArray[Any] | float] = [*(arrays[term.name] for term in self._stated), *own]
        for term, value in zip(self._exact, values64, strict=True):
            exact[at : at + term.size] = _encode64(term, value)
            at += term.size
        return bulk, exact

    def _encode_bulk(
        self, arrays: Mapping[str, NDArray[Any]], limits: Bounds, rounding_key: bytes, bulk: Words
    ) -> list[float]:
        """Fill ``bulk``; the codec's own scalars."""
        if not self._bulk:
            return []
        flat = [arrays[term.name].reshape(-1) for term in self._bulk]
        rounder = Rounder(self.levels, rounding_key, self._elements)
        factors = [rounder.factor(limit) for limit in limits.tolist()]
        squares = [0.0] * len(flat)
        clipped = 0
        spare = np.empty(min(STEP, bulk.size), dtype=np.uint64) if self.lanes.fields > 1 else np.empty(0, np.uint64)
        with np.errstate(over="ignore", invalid="ignore"):  # seen in the levels and their squares
            for steps in self._walk:
                found = rounder.round([(flat[one.term][one.begin : one.end], factors[one.term]) for one in steps])
                for one, (signed, square) in zip(steps, found, strict=True):
                    words = bulk[one.word : one.word + signed.size]
                    if not (math.isfinite(square) and self.lanes.put(signed, self.levels, words, one.field, spare)):
                        x, at = flat[one.term][one.begin : one.end], one.start - steps[0].start
                        again = rounder.clipped(x, limits[one.term], factors[one.term], at)
                        if again is None:
                            name = self._bulk[one.term].name
                            raise ManifestError(f"term {name!r} holds values that are not finite numbers")
                        signed, square, beyond = again
                        clipped += beyond
                        self.lanes.put(signed, self.levels, words, one.field, spare)
                    squares[one.term] += square
        means = [rounder.mean_square(s, t.size) for s, t in zip(squares, self._bulk, strict=True)]
        return [*means, clipped / self._elements]

    @cached_property
    def _walk(self) -> tuple[tuple[_Step, ...], ...]:
        """The walk over all fixed16 elements, in stretches that are rounded at once."""
        at, first = 0, 0  # the term, and the number of its first element among all
        stretches = []
        for piece in self.lanes.pieces(self._elements):
            start, steps = piece.start, []
            while start < piece.stop:
                end = first + self._bulk[at].size
                if start >= end:
                    at, first = at + 1, end
                    continue
                stop = min(piece.stop, end)
                steps.append(
                    _Step(at, start, start - first, stop - first, piece.word + start - piece.start, piece.field)
                )
                start = stop
            stretches.append(tuple(steps))
        return tuple(stretches)

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

    # -- decoding --------------------------------------------------------------------------------------------------

    def decode(self, bulk: Words, exact: Words64, survivors: int, bounds: ArrayLike) -> Opened:
        """The sums over ``survivors`` contributions that were all encoded with ``bounds``.

        Raises SumRejected where a lane lies outside what honest departments can produce; ConfigError for words of
        another length or a number of survivors this codec was not made for.
        """
        limits = self.check_bounds(bounds)
        if not self.layout.fits(bulk, exact):
            raise ConfigError(f"expected {self.layout.bulk} + {self.layout.exact} words of {self.lanes.name}")
        if not 1 <= survivors <= self.departments:
            raise ConfigError(f"a sum over {survivors} of {self.departments} departments")
        flat = self._decode_bulk(bulk, survivors, limits)
        found = self._decode64(exact, survivors)
        at = 0
        for term in self._bulk:
            found[term.name] = flat[at : at + term.size].reshape(term.shape)
            at += term.size
        values = {term.name: found[term.name] for term in self.manifest.terms}
        own = [float(found[name]) for name in _own_names(self._bulk)]
        return Opened(values, self._next_bounds(limits, own, survivors), own[-1] / survivors if own else 0.0)

    def _decode_bulk(self, bulk: Words, survivors: int, limits: Bounds) -> NDArray[np.float64]:
        """The sums of all fixed16 elements, in order."""
        self.lanes.check_padding(bulk, self._elements)
        out = np.empty(self._elements, dtype=np.float64)
        zero, most = float(survivors * (self.levels // 2)), survivors * self.levels
        steps = [2.0 * limit / self.levels for limit in limits.tolist()]
        for one in itertools.chain.from_iterable(self._walk):
            part = out[one.start : one.start + one.end - one.begin]
            self.lanes.take(bulk[one.word : one.word + part.size], one.field, most, part)
            np.subtract(part, zero, out=part)
            np.multiply(part, steps[one.term], out=part)
        return out

    def _decode64(self, sum64: Words64, survivors: int) -> dict[str, FloatArray]:
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
            out[at] = down32(min(term.bound, max(term.bound * _FLOOR, _SPREAD * rms)))
        return out


@lru_cache(maxsize=4)
def _codec(manifest: Manifest, departments: int, lanes: Lanes) -> SumCodec:
    """The same one for the same arguments: it is asked for several times a round, and nothing about it changes."""
    return SumCodec(manifest, departments, lanes)


class _Step(NamedTuple):
    """Elements of one term that lie in a row in one field of the words.

    term, begin, end  which of its elements
    start             the number of the first of them among all
    word, field       where that one lies
    """

    term: int
    start: int
    begin: int
    end: int
    word: int
    field: int


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


def _encode64(term: _Exact, values: NDArray[Any] | float) -> Words64 | int:
    flat: NDArray[np.float64] | None = None
    if isinstance(values, float) or values.ndim == 0:  # most are, and one number needs no array
        value = float(values)
        most = abs(value)
    else:
        flat = values.reshape(-1).astype(np.float64)
        most = float(np.abs(flat).max())
    if not math.isfinite(most):
        raise ManifestError(f"term {term.name!r} holds values that are not finite numbers")
    if most > term.bound:
        raise ManifestError(f"term {term.name!r} holds a value beyond its bound of {term.bound}")
    if flat is None:
        return round(math.ldexp(value, term.bits)) % (1 << 64)
    return np.rint(np.ldexp(flat, term.bits)).astype("<i8").view("<u8")
