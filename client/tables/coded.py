"""Columns of few different values: what is a function of a cell is computed once per value.

A coded column of text is an ordinary polars Categorical, so rows are cut, filtered and joined as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: A column of more different values than this is not worth a table of them.
FEW: Final = 16_384
#: Whole numbers beyond this are left to others: nothing here may overflow.
_LARGE: Final = 1 << 62
#: That many cells are tried before a whole column is coded.
_TRIED: Final = 4_096


class Codes:
    """The codes of one table's columns, kept so that its batches can be joined."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names``: of the columns that may be coded."""
        self._open = set(names)
        self._known: dict[str, pl.Categories] = {}

    def coded(self, cells: pl.Series, *, bare: bool = True) -> pl.Series | None:
        """The column as codes; None where it is no text or whole numbers, or has too many different values.

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
        texts = once.values
        return found if not bare or ((texts == texts.str.strip_chars()) & (texts != "")).all() else None

    def _cast(self, cells: pl.Series) -> pl.Series | None:
        if cells.dtype.is_integer():
            once = None if cells.null_count() else Once.of(cells)
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
            if len(tried) >= _TRIED and tried.n_unique() > _TRIED * 3 // 4:
                return None
            self._known[cells.name] = pl.Categories.random()
        return cells.cast(pl.Categorical(self._known[cells.name]))


def is_coded(dtype: pl.DataType) -> bool:
    """Does a column of this type hold codes?"""
    return isinstance(dtype, pl.Categorical | pl.Enum)


class Once:
    """A column by its different values.

    values  (k,) those that are there, in no order; text where the column is coded
    """

    def __init__(self, values: pl.Series, counts: NDArray[np.int64], codes: NDArray[np.intp]) -> None:
        """``counts``: rows of every code, the last of which stands for a gap."""
        self.values, self._codes = values, codes
        self._at, self._gap, self._counts = np.flatnonzero(counts[:-1]), len(counts) - 1, counts

    @classmethod
    def of(cls, column: pl.Series) -> Self | None:
        """None where a column is neither codes nor days nor whole numbers, or its values lie far apart or are huge."""
        dtype = column.dtype
        if not (is_coded(dtype) or isinstance(dtype, pl.Date) or dtype.is_integer()):
            return None
        stored = column.to_physical()
        low, high = (int(end) if isinstance(end, int) else 0 for end in (stored.min(), stored.max()))
        if high - low >= FEW or high >= _LARGE or low < -_LARGE:
            return None
        if stored.null_count():
            stored = stored.cast(pl.Int64).fill_null(high + 1)
        codes = stored.to_numpy().astype(np.intp)
        if low:
            codes -= low
        counts = np.bincount(codes, minlength=high - low + 2)
        present = pl.Series(column.name, np.flatnonzero(counts[:-1]) + low).cast(column.to_physical().dtype)
        if is_coded(dtype):
            return cls(present.cat.to(dtype).cast(pl.String), counts, codes)
        return cls(present.cast(dtype), counts, codes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(k,) rows of each value."""
        return self._counts[self._at]

    def spread(self, found: NDArray[Any], *, gap: Any) -> NDArray[Any]:
        """(n, …) at every row what was found for its value, (k, …); ``gap`` where there is none."""
        return self.table(found, gap=gap).take(self._codes, axis=0)

    def reader(self, found: NDArray[Any], *, gap: Any) -> Callable[[slice], NDArray[Any]]:
        """The same for a stretch of rows at a time."""
        table, codes = self.table(found, gap=gap), self._codes
        return lambda rows: table.take(codes[rows], axis=0)

    def table(self, found: NDArray[Any], *, gap: Any) -> NDArray[Any]:
        """What was found, by code."""
        table = np.empty((self._gap + 1, *found.shape[1:]), dtype=found.dtype)
        table[self._at], table[self._gap] = found, gap
        return table
