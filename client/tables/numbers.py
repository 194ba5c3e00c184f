"""Numbers: standardised by training statistics; a gap is the training mean, and a column of its own says so.

Statistics come from one pass over batches, merged as in Chan, Golub, LeVeque, 1979, "Updating formulae and a pairwise
algorithm for computing sample variances"; one batch gives NumPy's own mean and standard deviation, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.cells import LARGEST
from commonroot.client.tables.part import STANDARD_LIMIT, Arrays, Columns, Filler, Picked, Pieces, columns_of, filled

#: No value is beyond LARGEST where neither the mean nor the sum of squared deviations is beyond this.
_SURELY: Final = 1e90
Scaling = Literal["columns", "table", "none"]
_LOW, _HIGH = np.float32(-STANDARD_LIMIT), np.float32(STANDARD_LIMIT)


@dataclass(frozen=True, slots=True)
class Scaler:
    """(x - centre) / scale, clipped to ±STANDARD_LIMIT; with a spread per column, one that never varied becomes 0.

    centre, scale  (columns,) float64 statistics of the training rows
    """

    centre: NDArray[np.float64] = field(repr=False)
    scale: NDArray[np.float64] = field(repr=False)

    @classmethod
    def fitted(cls, x: NDArray[np.float64], *, scaling: Scaling = "columns") -> Scaler:
        """To training rows; ``scaling`` as in ``DataConfig``."""
        return cls.of_moments(x.mean(axis=0), x.std(axis=0), scaling=scaling)

    @classmethod
    def of_moments(cls, centre: NDArray[np.float64], spread: NDArray[np.float64], *, scaling: Scaling) -> Scaler:
        """To means and standard deviations."""
        if scaling == "none":
            return cls(np.zeros_like(centre), np.ones_like(spread))
        constant = is_constant(centre, spread)
        if scaling == "table":
            whole = float(np.sqrt(np.square(spread[~constant]).mean())) if not constant.all() else np.inf
            return cls(centre, np.full_like(spread, whole))
        return cls(centre, np.where(constant, np.inf, spread))

    def with_shared(self, names: tuple[str, ...], shared: SharedStatistics) -> Scaler:
        """The same with the statistics of all departments' rows for the columns that they know."""
        centre, scale = self.centre.copy(), self.scale.copy()
        for at, name in enumerate(names):
            if shared.is_number(name):
                centre[at], spread = shared.standardise(name)
                scale[at] = spread if spread > 0 else np.inf
        return Scaler(centre, scale)

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, columns) float64 to standardised float32; NaN stays NaN."""
        out = x - self.centre
        out /= self.scale
        np.clip(out, -STANDARD_LIMIT, STANDARD_LIMIT, out=out)
        return out.astype(np.float32)


def _moments(x: NDArray[np.float64], room: NDArray[np.float64]) -> tuple[int, float, float]:
    """Count, mean and sum of squared deviations of the values of a column that are numbers.

    room  (n,) to be written over
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.mean()
        squares = np.square(np.subtract(x, mean, out=room), out=room).sum()
    if abs(mean) <= _SURELY and squares <= _SURELY:  # then the sum of all squares is less than that of LARGEST alone
        return len(x), float(mean), float(squares)
    known = x[np.abs(x) <= LARGEST]
    if not len(known):
        return 0, 0.0, 0.0
    mean = known.mean()
    return len(known), float(mean), float(np.square(known - mean).sum())


def is_constant(centre: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A spread that is rounding noise of a constant column counts as none."""
    return np.asarray(spread <= 1e-12 * np.maximum(np.abs(centre), 1e-300))


class Moments:
    """Count, mean and sum of squared deviations of columns, over batches; NaN is no value."""

    def __init__(self, width: int) -> None:
        self.count = np.zeros(width, dtype=np.int64)
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)

    def add(self, x: NDArray[np.float64]) -> None:
        """A batch (n, width)."""
        if not len(x):
            return
        gaps = ~(np.abs(x) <= LARGEST)  # beyond that a cell is a problem, told elsewhere
        if gaps.any():
            count = len(x) - gaps.sum(axis=0)
            some = np.maximum(count, 1)
            mean = np.where(gaps, 0.0, x).sum(axis=0) / some
            squares = np.square(np.where(gaps, 0.0, np.where(gaps, 0.0, x) - mean)).sum(axis=0)
        else:
            count = np.full(x.shape[1], len(x))
            mean = x.mean(axis=0)
            squares = np.square(x - mean).sum(axis=0)
        self.merge(count, mean, squares)

    def add_columns(self, columns: Iterable[NDArray[np.float64]]) -> None:
        """A batch as columns (n,), each summed on its own: as ``add`` to the last digits, and several times faster."""
        width = len(self.count)
        count, mean, squares = np.zeros(width, dtype=np.int64), np.zeros(width), np.zeros(width)
        room = np.empty(0)
        for at, x in enumerate(columns):
            if not len(x):
                continue
            if len(room) != len(x):
                room = np.empty(len(x))
            count[at], mean[at], squares[at] = _moments(x, room)
        if count.any():
            self.merge(count, mean, squares)

    def merge(self, count: NDArray[np.int64], mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """The moments of other rows."""
        if not self.count.any():
            self.count, self.mean, self.squares = count.astype(np.int64), mean, squares
            return
        total = self.count + count
        some = np.maximum(total, 1)
        step = mean - self.mean
        self.squares = self.squares + squares + np.square(step) * (self.count * (count / some))
        self.mean = self.mean + step * (count / some)
        self.count = total

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviations (divided by the count)."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Number columns, standardised; after them one 0/1 column for each that has gaps to tell of.

    gaps  positions in ``columns`` of those
    """

    kind: ClassVar[str] = "number"

    columns: tuple[str, ...]
    scaler: Scaler
    gaps: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.columns, *(f"{self.columns[at]} missing" for at in self.gaps))

    @property
    def plain(self) -> bool:
        """Are numbers told as they are?"""
        return not self.scaler.centre.any() and bool((self.scaler.scale == 1.0).all())

    def kinds(self) -> dict[str, str]:
        return dict.fromkeys(self.columns, "number")

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        return filled(self.filler(Columns(frame), folder), len(frame), len(self.names))

    def encode_matrix(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, columns) float64 to (n, names) float32."""
        return filled(self._filler([Pieces(pl.Series(column)) for column in raw.T]), len(raw), len(self.names))

    def filler(self, table: Columns, folder: Path) -> Filler:
        return self._filler([table.numbers(name) for name in self.columns])

    def _filler(self, columns: Sequence[Pieces]) -> Filler:
        centre, scale = self.scaler.centre.tolist(), self.scaler.scale[:, None]
        # infinity over a scale of infinity is no number either
        some = [at for at, column in enumerate(columns) if not column.sound]
        told = {at: len(columns) + place for place, at in enumerate(self.gaps)}
        room = np.empty((0, 0))

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            nonlocal room
            if room.shape[1] != len(out):
                room = np.zeros((len(columns) + len(told), len(out)))  # columns as rows: each lies together
            values = room[: len(columns)]
            with np.errstate(over="ignore", invalid="ignore"):  # what is too large is clipped
                for at, column in enumerate(columns):
                    np.subtract(column[rows], centre[at], out=room[at])
                values /= scale
            for at in some:
                gaps = np.isnan(room[at])
                np.copyto(room[at], 0.0, where=gaps)
                if at in told:
                    room[told[at]] = gaps
            out[...] = np.clip(room, -STANDARD_LIMIT, STANDARD_LIMIT, out=room).T

        return fill

    def to_json(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "gaps": list(self.gaps)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"centre": self.scaler.centre, "scale": self.scaler.scale}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        columns = tuple(map(str, record["columns"]))
        scaler = Scaler(arrays["centre"], arrays["scale"])
        if scaler.centre.shape != (len(columns),) or scaler.scale.shape != (len(columns),):
            raise ValueError("statistics of other columns")
        return cls(columns, scaler, tuple(map(int, record["gaps"])))


class NumbersFitter:
    """Moments and gaps of number columns.

    telling  which columns get a column of their own for gaps, where training rows have any
    shared   statistics of all departments' rows, which go before this department's own
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        telling: frozenset[str],
        scaling: Scaling,
        shared: SharedStatistics | None = None,
    ) -> None:
        self._columns, self._telling, self._scaling, self._shared = columns, telling, scaling, shared
        self._moments = Moments(len(columns))
        self._rows = 0

    def add(self, frame: pl.DataFrame | Picked) -> None:
        self._rows += len(frame)
        self._moments.add_columns(columns_of(frame, self._columns))

    def faults(self) -> list[tuple[str, str, str, str]]:
        fix = "leave the column out of `features`"
        counted = zip(self._columns, self._moments.count, strict=True)
        empty = [name for name, count in counted if not count and not self._is_shared(name)]
        return [(name, "no value at all", "numbers", fix) for name in empty]

    def notes(self) -> list[str]:
        constant = is_constant(self._moments.mean, self._moments.spread)
        named = [name for name, still in zip(self._columns, constant, strict=True) if still]
        more = "" if len(named) <= 10 else f" and {len(named) - 10} more"
        return [f"constant in the training rows: {', '.join(map(repr, named[:10]))}{more}"] if named else []

    def done(self) -> Numbers:
        scaler = Scaler.of_moments(self._moments.mean, self._moments.spread, scaling=self._scaling)
        if self._shared is not None:
            scaler = scaler.with_shared(self._columns, self._shared)
        gaps = tuple(at for at, name in enumerate(self._columns) if name in self._telling and self._has_gaps(at))
        return Numbers(self._columns, scaler, gaps)

    def _is_shared(self, name: str) -> bool:
        return self._shared is not None and self._shared.is_number(name)

    def _has_gaps(self, at: int) -> bool:
        """Anywhere, where that is known: then every department has the same columns."""
        name = self._columns[at]
        if self._shared is not None and self._shared.is_number(name):
            return self._shared.known(name) < self._shared.count
        return bool(self._moments.count[at] < self._rows)
