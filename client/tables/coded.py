"""Columns of few different values: what is a function of a cell is computed once per value.

A coded column of text is an ordinary polars Categorical, so rows are cut, filtered and joined as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: A column of more different values than this is not worth a table of them.
FEW: Final = 16_384
#: That many cells are tried before a whole column is coded.
_TRIED: Final = 4_096


class Codes:
    """The codes of one table's text columns, kept so that its batches can be joined."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names``: of the columns that may be coded."""
        self._open = set(names)
        self._known: dict[str, pl.Categories] = {}

    def coded(self, cells: pl.Series) -> pl.Series | None:
        """The column as codes; None where it is no text, or has too many different values."""
        name = cells.name
        if name not in self._open:
            return None
        found = cells if is_coded(cells.dtype) else self._cast(cells)
        if found is None or found.n_unique() > FEW:
            self._open.discard(name)
            return None
        return found

    def _cast(self, cells: pl.Series) -> pl.Series | None:
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

    def __init__(self, values: pl.Series, at: NDArray[np.int64], codes: NDArray[Any], gap: int) -> None:
        self.values, self._at, self._codes, self._gap = values, at, codes, gap

    @classmethod
    def of(cls, column: pl.Series) -> Self | None:
        """None where a column is neither codes nor days nor whole numbers, or its values lie far apart."""
        dtype, low = column.dtype, 0
        if is_coded(dtype):
            values = (present := column.unique().drop_nulls()).cast(pl.String)
        elif isinstance(dtype, pl.Date) or dtype.is_integer():
            low, high = _ends(column)
            if high - low >= FEW:
                return None
            values = present = column.unique().drop_nulls()
        else:
            return None
        codes, at = column.to_physical(), present.to_physical().cast(pl.Int64).to_numpy() - low
        gap = int(at.max(initial=-1)) + 1
        if low or codes.null_count() or not codes.dtype.is_unsigned_integer():
            codes = (codes.cast(pl.Int64) - low).fill_null(gap)
        return cls(values, at, codes.to_numpy(), gap)

    def spread(self, found: NDArray[Any], *, gap: Any) -> NDArray[Any]:
        """(n, …) at every row what was found for its value, (k, …); ``gap`` where there is none."""
        table = np.empty((self._gap + 1, *found.shape[1:]), dtype=found.dtype)
        table[self._at], table[self._gap] = found, gap
        return table.take(self._codes, axis=0)

    def counts(self) -> NDArray[np.int64]:
        """(k,) rows of each value."""
        return np.bincount(self._codes, minlength=self._gap + 1)[self._at]


def _ends(column: pl.Series) -> tuple[int, int]:
    ends = column.to_physical().cast(pl.Int64) if not column.dtype.is_integer() else column
    low, high = ends.min(), ends.max()
    return (int(low), int(high)) if low is not None and high is not None else (0, 0)  # type: ignore[call-overload]
