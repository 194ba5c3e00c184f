"""Columns of few different values: what is a function of a cell is computed once per value.

A coded column of text is an ordinary polars Categorical, so rows are cut, filtered and joined as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.lookup import Lookup

#: A column of more different values than this is not worth a table of them.
FEW: Final = 16_384
#: Whole numbers beyond this are left to others: nothing here may overflow.
_LARGE: Final = 1 << 62
#: That many cells are tried before a whole column is coded.
_TRIED: Final = 4_096
#: That many values are few enough to compare every cell with each.
_HANDFUL: Final = 8
#: That few values among those that were tried are likely all there are.
_LISTED: Final = 64
#: A text cell longer than this is a quoting mistake.
LONGEST: Final = 1_000_000


class Codes:
    """The codes of one table's columns, kept so that its batches can be joined."""

    def __init__(self, names: Iterable[str], *, whole: bool = False) -> None:
        """``names``: of the columns that may be coded; ``whole``: each comes once, with all its rows."""
        self._open, self._whole = set(names), whole
        self._known: dict[str, pl.Categories] = {}

    def coded(self, cells: pl.Series, *, bare: bool = True) -> pl.Series | None:
        """The column as codes; None where it is no text or whole numbers, or has too many or too long values.

        bare  only where no cell is empty or has blanks around it
        """
        name = cells.name
        if name not in self._open:
            return None
        found = cells if is_coded(cells.dtype) else self._cast(cells)
        once = None if found is None else Once.of(found)
        if found is None or once is None:
            self._open.discard(name)
            return None
        texts = once.every if self._whole else once.values
        longest = texts.str.len_bytes().max()
        if isinstance(longest, int) and longest > LONGEST:
            return None
        return found if not bare or ((texts == texts.str.strip_chars()) & (texts != "")).all() else None

    def _cast(self, cells: pl.Series) -> pl.Series | None:
        if cells.dtype.is_integer():
            once = None if cells.null_count() or self._whole else Once.of(cells)  # one column is a code as it is
            if once is None:
                return None
            kind = pl.Categorical(self._known.setdefault(cells.name, pl.Categories.random()))
            texts = once.values.cast(pl.String).cast(kind)  # held until the column is: polars forgets unused codes
            place = texts.to_physical().to_numpy()
            return pl.Series(cells.name, once.spread(place, gap=0)).cat.to(kind)
        if not isinstance(cells.dtype, pl.String):
            return None
        if cells.name not in self._known:
            tried = cells.gather_every(max(1, len(cells) // _TRIED))
            different = tried.unique()
            if len(tried) >= _TRIED and len(different) > _TRIED * 3 // 4:
                return None
            found = _listed(cells, different) if self._whole else None
            if found is not None:
                return found
            self._known[cells.name] = pl.Categories.random()
        return cells.cast(pl.Categorical(self._known[cells.name]))


def _listed(cells: pl.Series, different: pl.Series) -> pl.Series | None:
    """Codes of one byte of a column that holds these few values and no others."""
    values = different.drop_nulls().sort()
    if not 0 < len(values) <= _LISTED:
        return None
    kind = pl.Enum(values)
    if len(values) > _HANDFUL:
        try:
            return cells.cast(kind)
        except pl.exceptions.InvalidOperationError:  # there are others
            return None
    cell, chain = pl.col(cells.name), pl  # comparing with a handful is faster than looking up
    for value in values.to_list():
        chain = chain.when(cell == pl.lit(value)).then(pl.lit(value, dtype=kind))  # type: ignore[assignment]
    coded = cells.to_frame().select(chain.alias(cells.name)).to_series()  # type: ignore[attr-defined]
    return coded if coded.null_count() == cells.null_count() else None


def counts_of(codes: NDArray[Any], size: int) -> NDArray[np.int64]:
    """(size,) rows of each code in 0 … size - 1; of a handful of codes of a byte, each is counted on its own."""
    if size <= 2 * _HANDFUL and codes.dtype == np.uint8:
        return np.array([np.count_nonzero(codes == code) for code in range(size)], dtype=np.int64)
    return np.bincount(codes, minlength=size).astype(np.int64, copy=False)


def is_coded(dtype: pl.DataType) -> bool:
    """Does a column of this type hold codes?"""
    return isinstance(dtype, pl.Categorical | pl.Enum)


#: The largest number of one byte.
_BYTE: Final = 255
#: Whole numbers of few bits, and those that NumPy does not count by.
_SMALL: Final = (pl.Int8, pl.Int16)
_UNCOUNTED: Final = (pl.UInt64, pl.Int128, pl.UInt128)


class Once:
    """A column by its different values."""

    def __init__(self, codes: NDArray[Any], every: pl.Series) -> None:
        """``codes``: (n,) positions in ``every``, the place after its last for a gap."""
        self._codes, self.every, self._size = codes, every, len(every)

    @classmethod
    def of(cls, column: pl.Series) -> Once | None:
        """None where a column is neither codes nor days nor whole numbers, or its values lie far apart or are huge."""
        dtype = column.dtype
        if not (is_coded(dtype) or isinstance(dtype, pl.Date) or dtype.is_integer()):
            return None
        stored = column.to_physical()
        ends = stored.min(), stored.max()
        low, high = (int(end) if isinstance(end, int) else 0 - place for place, end in enumerate(ends))
        if high - low >= FEW or high >= _LARGE or low < -_LARGE:
            return None
        if is_coded(dtype) and high < FEW:
            low = 0  # nothing to subtract
        full = stored.dtype == pl.UInt8 and high == _BYTE
        if isinstance(stored.dtype, _SMALL) or full:  # what stands for a gap, or a difference, might not fit
            stored = stored.cast(pl.Int32)
        elif isinstance(stored.dtype, _UNCOUNTED):
            stored = stored.cast(pl.Int64)
        if low:
            stored = stored - low
        elif high < _BYTE and stored.dtype != pl.UInt8:
            stored = stored.cast(pl.UInt8)
        codes = stored.fill_null(high - low + 1).to_numpy()
        return cls(codes, _valued(column, np.arange(low, high + 1)))

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Rows of every code, the last of which stands for a gap."""
        return counts_of(self._codes, self._size + 1)

    @cached_property
    def at(self) -> NDArray[np.int64]:
        """(k,) positions in ``every`` of those values that are there."""
        return np.flatnonzero(self._counts[:-1])

    @cached_property
    def values(self) -> pl.Series:
        """(k,) those that are there, in no order; text where the column is coded."""
        return self.every if len(self.at) == self._size else self.every.gather(self.at)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(k,) rows of each value."""
        return self._counts[self.at]

    @property
    def gaps(self) -> int:
        """Rows without a value."""
        return int(self._counts[self._size])

    def spread(self, found: NDArray[Any], *, gap: Any) -> NDArray[Any]:
        """(n, …) at every row what was found for its value, (k, …); ``gap`` where there is none."""
        table = np.empty((self._size + 1, *found.shape[1:]), dtype=found.dtype)
        table[self.at], table[self._size] = found, gap
        if table.dtype == self._codes.dtype and np.array_equal(table[:-1], np.arange(self._size)) and not self.gaps:
            return self._codes  # each code stands for itself
        return table.take(self._codes, axis=0)

    def picked(self, at: NDArray[np.int64]) -> Once:
        """Some rows of the column."""
        return Once(self._codes.take(at), self.every)

    def filler(self, found: NDArray[np.float32], gap: NDArray[np.float32]) -> Lookup:
        """What writes, for a stretch of rows, the row of numbers that was found for each one's value.

        found  (codes, width) for ``every`` code
        gap    (width,) for a gap
        """
        return Lookup(self._codes, np.concatenate([found, gap[None]]))


def _valued(column: pl.Series, stored: NDArray[np.int64]) -> pl.Series:
    """What numbers stand for, as which a column's values are stored; text where it is coded."""
    dtype, values = column.dtype, pl.Series(column.name, stored)
    if is_coded(dtype):
        return values.cast(pl.UInt32).cat.to(dtype).cast(pl.String)
    return values.cast(pl.Int32).cast(dtype) if isinstance(dtype, pl.Date) else values.cast(dtype)
