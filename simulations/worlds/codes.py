"""Values of a column as whole numbers, and of rows that belong together as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.by.base import Codes
from commonroot.simulations.worlds.table import Table


def codes_of(table: Table, column: str, place: str, *, bins: int | None = None) -> Codes:
    """(rows,) whole numbers from 0, one for each value of a column, in the values' order.

    place  where the column is named, for messages
    bins   numbers of more different values are cut into so many of about the same size; without, no cell may be empty

    Raises ConfigError for a column that is not there, holds lists or has gaps.
    """
    if column not in table.columns:
        listed = ", ".join(table.columns[:20]) + (", …" if table.columns[20:] else "")
        raise ConfigError(f"{place}: no column {column!r}", hint=f"the table has {listed}")
    series = table.column(column)
    if series.dtype.is_nested():
        raise ConfigError(f"{place}: {column!r} holds lists, not single values", hint="name another column")
    if series.dtype == pl.String:
        series = series.str.strip_chars()
        series = series.set(series == "", None)
    if bins is None and series.null_count():
        raise ConfigError(f"{place}: {column!r} has {series.null_count()} empty cells", hint="fill them")
    if bins is not None and series.n_unique() > bins:
        numbers = series.cast(pl.Float64, strict=False)
        if numbers.null_count() * 2 < len(series):
            ranks = numbers.fill_null(0.0).rank("min").to_numpy()
            series = pl.Series(np.minimum((ranks - 1) * bins // len(ranks), bins - 1).astype(np.int64))
    found: Codes = series.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return np.unique(found, return_inverse=True)[1]


def joint(codes: Sequence[Codes]) -> Codes:
    """(rows,) one code for every combination."""
    found: Codes = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].ravel()
    return found


def most_frequent(codes: Codes, unit: Codes, units: int) -> Codes:
    """(units,) the most frequent code among each unit's rows; of several, the smallest."""
    width = int(codes.max()) + 1
    pairs, counts = np.unique(unit * width + codes, return_counts=True)
    order = np.lexsort((-counts, pairs // width))
    found, first = np.unique((pairs // width)[order], return_index=True)
    out = np.empty(units, dtype=np.int64)
    out[found] = (pairs % width)[order][first]
    return out
