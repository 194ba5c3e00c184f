"""Statistics of columns that departments have in common, from one sum and exact: as if all rows lay in one table.

    count            rows
    present          rows with a value, per column
    sum, squares     Σ z and Σ z² per number or date, z = (x - middle) / unit in [-1, 1]
    histogram        rows per bin, all such columns one after another
    categories       rows per label or bucket, all categories one after another
    documents        rows whose text holds a word of the bucket, all texts one after another

Everything is a whole number, so nothing is rounded in the sum.  z and z² become multiples of 2^-48, once, in every row
(``fixed``), and travel as six digits of eight bits, each digit summed by itself: sums of whole numbers below 2^53 are
exact in any order, in one department or in many.  The state is the sums themselves, each as three float32 digits of
24 bits (``parts``).

Only one round is run.  A second one would contribute the same numbers again, and where a department dropped out in
between, the difference of both sums would be that department's statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from commonroot.common.backbone.factors import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.common.schema import CategoryColumn, Column, DatetimeColumn, NumberColumn, Ranged, TextColumn
from commonroot.strategies.base import Gathered, Sums, Tensors

#: z and z² are multiples of 2^-BITS.
BITS: Final = 48
#: … in this many digits of this many bits; the first carries the sign and may be ± 256.
DIGITS: Final = 6
DIGIT_BITS: Final = BITS // DIGITS
#: Sums are exact for up to this many departments of up to 2^30 rows each: 2^14 · 2^30 · 2^8 = 2^52.
_MOST_DEPARTMENTS: Final = 1 << 14
#: Exact sums as float32: three digits in base 2^24, the first with the sign.
PARTS: Final = 3
_BASE: Final = 1 << 24


class Statistics(BaseModel):
    """Counts, sums, squares, category counts, document frequencies and histograms of the charter's ``[[columns]]``.

    most_rows  a department with more training rows cannot take part; bounds every count

    ``gather`` reads, for the column at position k, ``data[str(k)]``: float64 with NaN where there is no value
    (numbers, dates), int64 slots with -1 likewise (categories), or (pairs, 2) int64, every different (row, bucket)
    (texts); and ``data["count"]``, the number of rows.

    Guarantees
    ----------
    * equal to the same statistics of all rows in one table, to the last bit, whoever holds which row
    * what a department contributes does not depend on what it received, so a made-up broadcast asks it nothing
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str] = "statistics"

    most_rows: Annotated[int, Field(ge=1, le=1 << 30)] = 1_000_000

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """One term per kind of statistic; those without a column of their kind are left out."""
        if not draft.columns:
            raise ConfigError(
                "the charter lists no [[columns]]", hint="list what the departments' tables have in common"
            )
        if draft.rounds != 1:
            raise ConfigError("statistics take one round; a second would repeat the first", hint="rounds = 1")
        ranged, rows = _ranged(draft.columns), float(self.most_rows)
        digits = rows * 2**DIGIT_BITS
        sizes = {kind: sum(_slots(c) for c in draft.columns if isinstance(c, kind)) for kind in _COUNTED}
        found = [Term("count", (), "fixed64", rows), Term("present", (len(draft.columns),), "fixed64", rows)]
        if ranged:
            found += [Term(name, (len(ranged), DIGITS), "fixed64", digits) for name in ("sum", "squares")]
            found += [Term("histogram", (sum(column.bins for column in ranged),), "fixed64", rows)]
        found += [Term(_COUNTED[kind], (size,), "fixed64", rows) for kind, size in sizes.items() if size]
        return tuple(found)

    def broadcast(self, draft: Draft) -> Shapes:
        """The sums, each as three float32 digits: every term's shape and a last axis of 3."""
        return tuple((term.name, (*term.shape, PARTS)) for term in self.terms(draft))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """No rows yet."""
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in self.broadcast(draft)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless the numbers can be statistics of some rows.

        Nothing more can be told from them: a coordinator may hand out statistics of its own making.  It learns nothing
        by that, for contributions do not depend on them; what it can do is spoil the departments' standardisation.
        """
        if version == 0:
            if any(array.any() for array in received.values()):
                raise OutsideCharter("version 0 of statistics is not empty")
            return
        problem = _impossible(draft, {name: whole(array) for name, array in received.items()})
        if problem:
            raise OutsideCharter(f"what was received are no statistics of any rows: {problem}")

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """One department's statistics.  Raises DataError for too many rows or a value beyond its column's range."""
        rows = int(data["count"])
        problems = [f"{rows} rows; the charter admits {self.most_rows}"] if rows > self.most_rows else []
        problems += [p for at, c in enumerate(draft.columns) if (p := _outside(c, data[str(at)]))]
        if problems:
            raise DataError("the rows do not keep to the charter: " + "; ".join(problems))
        present, parts = np.zeros(len(draft.columns)), _Collected()
        for at, column in enumerate(draft.columns):
            present[at] = parts.add(column, data[str(at)])
        found: dict[str, NDArray[np.floating]] = {"count": np.asarray(float(rows)), "present": present}
        return Gathered({**found, **parts.terms()}, {})

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The sums, to the last bit.  Raises SumRejected where they are statistics of no rows."""
        if not any(np.any(sums[name]) for name in state):
            return {name: np.array(array, dtype=np.float32) for name, array in state.items()}
        totals = {name: np.asarray(sums[name], dtype=np.float64) for name in state}
        if any((total != np.rint(total)).any() for total in totals.values()):
            raise SumRejected("the opened statistics are not whole numbers")
        problem = _impossible(draft, totals)
        if problem:
            raise SumRejected(f"the opened sums are no statistics of any rows: {problem}")
        return {name: parts_of(total) for name, total in totals.items()}


# -- exact numbers -----------------------------------------------------------------------------------------------------


def fixed(z: NDArray[np.float64]) -> NDArray[np.int64]:
    """z in [-1, 1] to the nearest multiple of 2^-BITS, as a whole number of them."""
    return np.rint(np.ldexp(z, BITS)).astype(np.int64)


def digits_of(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) whole numbers to the sums of their digits, (DIGITS,), most significant first; only that one is signed."""
    low = (1 << DIGIT_BITS) - 1
    found = [values >> (DIGIT_BITS * (DIGITS - 1))]
    found += [(values >> (DIGIT_BITS * at)) & low for at in range(DIGITS - 2, -1, -1)]
    return np.array([int(digit.sum()) for digit in found], dtype=np.float64)


def value_of(digits: Sequence[float] | NDArray[np.float64]) -> int:
    """Sums of digits as one whole number of 2^-BITS, however large."""
    total = 0
    for digit in digits:
        total = (total << DIGIT_BITS) + int(digit)
    return total


def parts_of(totals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Whole numbers below 2^53 in absolute value to three float32 each, on a new last axis; nothing is lost."""
    exact = totals.astype(np.int64)
    return np.stack([exact >> 48, (exact >> 24) & (_BASE - 1), exact & (_BASE - 1)], axis=-1).astype(np.float32)


def whole(parts: NDArray[np.float32]) -> NDArray[np.float64]:
    """The inverse of ``parts_of``.  NaN where the parts are none that it makes."""
    wide = parts.astype(np.float64)
    good = (wide == np.rint(wide)).all(axis=-1) & (np.abs(wide[..., 0]) <= 32)
    good &= ((wide[..., 1:] >= 0) & (wide[..., 1:] < _BASE)).all(axis=-1)
    total = (wide[..., 0] * _BASE + wide[..., 1]) * _BASE + wide[..., 2]
    return np.where(good, total, np.nan)


def bins_of(column: Ranged, x: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each value; the last one holds the upper end too."""
    share = (x - column.start) / (column.end - column.start)
    return np.clip(np.floor(share * column.bins).astype(np.int64), 0, column.bins - 1)


# -- inside ------------------------------------------------------------------------------------------------------------

_COUNTED: Final[dict[type[CategoryColumn] | type[TextColumn], str]] = {
    CategoryColumn: "categories",
    TextColumn: "documents",
}


def _ranged(columns: Sequence[Column]) -> list[Ranged]:
    return [column for column in columns if isinstance(column, NumberColumn | DatetimeColumn)]


def _slots(column: Column) -> int:
    if isinstance(column, CategoryColumn):
        return column.slots
    return column.buckets if isinstance(column, TextColumn) else column.bins


class _Collected:
    """Terms under way: each kind's columns one after another."""

    def __init__(self) -> None:
        self._sums: dict[str, list[NDArray[np.float64]]] = {"sum": [], "squares": []}
        self._counts: dict[str, list[NDArray[np.int64]]] = {"histogram": [], "categories": [], "documents": []}

    def add(self, column: Column, values: NDArray[Any]) -> int:
        """A column's values; how many there are."""
        if isinstance(column, TextColumn):
            self._counts["documents"].append(np.bincount(values[:, 1], minlength=column.buckets))
            return int(np.unique(values[:, 0]).size)
        if isinstance(column, CategoryColumn):
            known = values[values >= 0]
            self._counts["categories"].append(np.bincount(known, minlength=column.slots))
            return int(known.size)
        known = values[~np.isnan(values)]
        z = (known - column.middle) / column.unit
        self._sums["sum"].append(digits_of(fixed(z)))
        self._sums["squares"].append(digits_of(fixed(z * z)))
        self._counts["histogram"].append(np.bincount(bins_of(column, known), minlength=column.bins))
        return int(known.size)

    def terms(self) -> dict[str, NDArray[np.floating]]:
        """All but the counts of rows."""
        found: dict[str, NDArray[np.floating]] = {n: np.stack(one) for n, one in self._sums.items() if one}
        return found | {n: np.concatenate(one).astype(np.float64) for n, one in self._counts.items() if one}


def _outside(column: Column, values: NDArray[Any]) -> str:
    """What keeps a column's values from being summed, in words; empty where nothing does."""
    if isinstance(column, CategoryColumn | TextColumn):
        return ""
    beyond = int(np.count_nonzero((values < column.start) | (values > column.end)))
    if not beyond:
        return ""
    return f"column {column.name!r}: {beyond} value(s) outside the charter's range from {column.low} to {column.high}"


def _impossible(draft: Draft, totals: Mapping[str, NDArray[np.float64]]) -> str:
    """Why these are statistics of no rows at all; empty where they could be."""
    if any(np.isnan(total).any() for total in totals.values()):
        return "they are not whole numbers"
    counts = [name for name in totals if name not in ("sum", "squares")]
    if any((totals[name] < 0).any() for name in counts):
        return "a count is negative"
    rows, present = float(totals["count"]), totals["present"]
    if (present > rows).any():
        return "a column has more values than there are rows"
    number = 0
    starts = dict.fromkeys(("histogram", "categories", "documents"), 0)
    for at, column in enumerate(draft.columns):
        kind = _COUNTED.get(type(column), "histogram")  # type: ignore[arg-type]
        part = totals[kind][starts[kind] : starts[kind] + _slots(column)]
        starts[kind] += _slots(column)
        if kind == "documents":
            if (part > present[at]).any():
                return f"more texts of {column.name!r} hold a word than there are texts"
            continue
        if part.sum() != present[at]:
            return f"the counts of {column.name!r} do not add up to its values"
        if kind == "histogram":
            total, squares = (value_of(totals[name][number]) for name in ("sum", "squares"))
            number += 1
            n = int(present[at])
            # each z was rounded to a multiple of 2^-48, which the inequality of Cauchy and Schwarz knows nothing of
            if not 0 <= squares <= n << BITS or abs(total) > n << BITS:
                return f"the sums of {column.name!r} are beyond its range"
            if total * total > n * ((squares + n) << BITS) + (3 * n * n << BITS):
                return f"the squares of {column.name!r} are less than its mean allows"
    return ""


def mean_and_scale(column: Ranged, n: int, total: int, squares: int) -> tuple[float, float]:
    """Mean and standard deviation of n values from their exact sums, in the column's own units; (middle, 0) for none.

    n²·Var(z) = n·Σz² - (Σz)² in whole numbers, so that nothing cancels; only the last steps round.
    """
    if n == 0:
        return column.middle, 0.0
    spread = n * (squares << BITS) - total * total
    mean = column.middle + column.unit * math.ldexp(total / n, -BITS)
    return mean, column.unit * math.ldexp(math.sqrt(max(spread, 0)) / n, -BITS)
