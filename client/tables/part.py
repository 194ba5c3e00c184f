"""What every fitted feature can do, and what fits one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.coded import Once

Arrays = Mapping[str, NDArray[Any]]
#: (rows of a table, (rows, width) to fill): encodes a stretch of a table to where it belongs.
Filler = Callable[[slice, NDArray[np.float32]], None]
#: Rows of a block that is encoded at a time take about this many bytes, which a core keeps at hand.
_BLOCK: Final = 1 << 20
#: Standardised values are clipped to ±this, so that a column that hardly varied in training cannot explode later.
STANDARD_LIMIT: Final = 5.0


class Part(Protocol):
    """A fitted feature: some columns of a table to numbers.  Instances are frozen."""

    kind: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns it reads."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its encoded columns, or of its channels."""

    def kinds(self) -> dict[str, str]:
        """Kind of each raw column, for whoever reads the next table."""

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[Any]:
        """Cleaned rows to (n, names), or to the shape of a sequence, an image or tokens.

        folder  what paths in the cells are relative to
        """

    def to_json(self) -> dict[str, Any]:
        """All of it that is no array; the inverse of ``from_json``."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it that is arrays."""

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        """The inverse of ``to_json`` and ``arrays``.  Raises KeyError, TypeError or ValueError for anything else."""


@runtime_checkable
class Filling(Protocol):
    """A feature whose rows are vectors and that can be encoded where it belongs, a stretch of rows at a time."""

    def filler(self, table: Columns, folder: Path) -> Filler:
        """What gives the same numbers as ``encode``."""


class Columns:
    """A table whose columns are brought once into the form that is asked for, however many of its rows are picked."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self._once: dict[str, Once | None] = {}
        self._pieces: dict[str, Pieces] = {}

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, name: str) -> pl.Series:
        return self.frame[name]

    def once(self, name: str) -> Once | None:
        """A column by its different values, as of ``Once.of``."""
        if name not in self._once:
            self._once[name] = Once.of(self.frame[name])
        return self._once[name]

    def numbers(self, name: str) -> Pieces:
        """A column of float64, NaN for a gap."""
        if name not in self._pieces:
            self._pieces[name] = Pieces(self.frame[name])
        return self._pieces[name]


class Picked:
    """Some rows of a table; a column of them is made when somebody asks for it."""

    def __init__(self, table: Columns, at: NDArray[np.int64]) -> None:
        """``at``: positions, ascending, each once; one at least."""
        self._table, self._at = table, at
        self._within = slice(int(at[0]), int(at[-1]) + 1)
        self._all = len(at) == self._within.stop - self._within.start

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Positions in the stretch of the table in which the rows lie."""
        return self._at - self._within.start

    @cached_property
    def _mask(self) -> pl.Series:
        mask = np.zeros(self._within.stop - self._within.start, dtype=np.bool_)
        mask[self._places] = True
        return pl.Series(mask)

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, name: str) -> pl.Series:
        column = self._table.frame[name][self._within]
        return column if self._all else column.filter(self._mask)

    def every(self, step: int) -> pl.DataFrame:
        """The first row and every so many after it."""
        return self._table.frame[self._at[::step]]

    def once(self, name: str) -> Once | None:
        """A column by its different values, as of ``Once.of``."""
        once = self._table.once(name)
        return None if once is None else once.picked(self._at)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(n,) float64 of a column, NaN for a gap."""
        column = self._table.numbers(name)[self._within]
        return column if self._all else column.take(self._places)


class Fitter(Protocol):
    """Sees the training rows once, in batches."""

    def add(self, frame: pl.DataFrame | Picked) -> None:
        """A batch of cleaned training rows."""

    def faults(self) -> list[tuple[str, str, str, str]]:
        """(column, found, expected, fix) of what the training rows lack."""

    def notes(self) -> list[str]:
        """What is worth knowing."""

    def done(self) -> Part:
        """The fitted feature."""


def number_column(series: pl.Series) -> NDArray[np.float64]:
    """(n,) float64, NaN for a gap; the table's own memory where it has none."""
    return np.asarray(series.to_numpy(), dtype=np.float64)


class Pieces:
    """A column (n,) of float64 in the pieces in which it lies, NaN for a gap; a stretch of rows is copied only where it
    lies in more than one."""

    def __init__(self, series: pl.Series) -> None:
        self._pieces = [number_column(chunk) for chunk in series.get_chunks()]
        self._ends: list[int] = np.cumsum([len(piece) for piece in self._pieces]).tolist()

    @cached_property
    def sound(self) -> bool:
        """Is every value finite?  A sum that is no number has one among its terms, or infinity."""
        return all(bool(np.isfinite(piece.sum())) for piece in self._pieces)

    def __getitem__(self, rows: slice) -> NDArray[np.float64]:
        at = bisect_right(self._ends, rows.start)
        begin = self._ends[at - 1] if at else 0
        stop = min(rows.stop, self._ends[-1])
        found = self._pieces[at][rows.start - begin : stop - begin]
        while len(found) < stop - rows.start:
            at += 1
            begin = self._ends[at - 1]
            found = np.concatenate([found, self._pieces[at][: stop - begin]])
        return found


def once_of(frame: pl.DataFrame | Picked, name: str) -> Once | None:
    """A column by its different values, as of ``Once.of``."""
    return frame.once(name) if isinstance(frame, Picked) else Once.of(frame[name])


def columns_of(frame: pl.DataFrame | Picked, names: Sequence[str]) -> Iterator[NDArray[np.float64]]:
    """(n,) float64 of each column, one after the other."""
    return (frame.numbers(name) if isinstance(frame, Picked) else number_column(frame[name]) for name in names)


def block_rows(width: int) -> int:
    """How many rows are encoded at a time."""
    return max(256, min(32_768, _BLOCK // (4 * max(1, width))))


def filler_of(part: Part, table: Columns, folder: Path) -> Filler:
    """Of any feature whose rows are vectors."""
    if isinstance(part, Filling):
        return part.filler(table, folder)
    block = part.encode(table.frame, folder)

    def fill(rows: slice, out: NDArray[np.float32]) -> None:
        out[...] = block[rows]

    return fill


def filled(filler: Filler, rows: int, width: int) -> NDArray[np.float32]:
    """(rows, width) of a whole table."""
    out = np.empty((rows, width), dtype=np.float32)
    step = block_rows(width)
    for at in range(0, rows, step):
        filler(slice(at, at + step), out[at : at + step])
    return out
