"""A department's side of shared statistics: cells of its training rows as the numbers that are summed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import DataConfig, Problem, Problems, Reading, open_data, read_cells, training_rows
from commonroot.common.charter import Charter
from commonroot.common.schema import (
    CategoryColumn,
    Column,
    NumberColumn,
    TextColumn,
    bucket_of,
    seconds_of,
    words,
)

Array = NDArray[Any]

_EXPECTED = {"number": "a finite number", "datetime": "a date or time in ISO 8601"}


def read_columns(config: DataConfig, folder: Path, charter: Charter) -> dict[str, Array]:
    """The training rows of the charter's columns, as ``strategies.statistics`` gathers them.

    Cells that are empty (or NaN) have no value.  Raises DataError that lists everything wrong at once, values beyond a
    column's range included.
    """
    problems = Problems()
    names = [column.name for column in charter.columns]
    source = open_data(config, folder, problems, columns=names)
    numbers = [column.name for column in charter.columns if isinstance(column, NumberColumn)]
    read = None if source is None else read_cells(source, names, Reading.of(config), problems, numbers=numbers)
    problems.refuse()
    if source is None or read is None:
        raise ValueError("a table without problems was read")
    cells, first = read
    rows = training_rows(config, folder=folder, source=source if config.path is None else None)
    data: dict[str, Array] = {"count": np.asarray(len(rows))}
    for at, column in enumerate(charter.columns):
        data[str(at)] = _values(column, cells[column.name][rows], rows + first, config.source_name, problems)
    problems.refuse()
    return data


def _values(column: Column, cells: Array, rows: NDArray[np.int64], file: str, problems: Problems) -> Array:
    if isinstance(column, TextColumn):
        return _documents(column, cells)
    if isinstance(column, CategoryColumn):
        return _slots(column, cells)
    found, wrong = _numbers(cells) if isinstance(column, NumberColumn) else _times(cells)
    for row in rows[wrong]:
        fix = "mend or empty the cell"
        problems.add(
            Problem(
                file=file,
                row=int(row),
                column=column.name,
                found="something else",
                expected=_EXPECTED[column.kind],
                fix=fix,
            )
        )
    beyond = ~wrong & ((found < column.start) | (found > column.end))
    for row in rows[beyond]:
        expected = f"between {column.low} and {column.high}, the charter's range"
        fix = "mend or empty the cell, or ask for a charter with a wider range"
        problems.add(
            Problem(file=file, row=int(row), column=column.name, found="a value beyond", expected=expected, fix=fix)
        )
    return found


def _numbers(cells: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """float64 with NaN for no value, and which cells are no numbers."""
    if cells.dtype.kind in "biuf":
        values = cells.astype(np.float64)
        return values, np.isinf(values)
    return _parsed(cells, float)


def _times(cells: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Seconds since 1970-01-01 UTC with NaN for no value, and which cells are no times."""
    if cells.dtype.kind == "M":
        seconds = cells.astype("datetime64[us]").astype(np.int64) / 1e6
        return np.where(np.isnat(cells), np.nan, seconds), np.zeros(len(cells), dtype=bool)
    return _numbers(cells) if cells.dtype.kind in "iuf" else _parsed(cells, seconds_of)


def _parsed(cells: Array, parse: Callable[[str], float]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each different text is parsed once."""
    different, at = np.unique(cells.astype(np.str_), return_inverse=True)
    values, wrong = np.full(len(different), np.nan), np.zeros(len(different), dtype=bool)
    for place, text in enumerate(different.tolist()):
        if not text:
            continue
        try:
            values[place] = parse(text)
        except (ValueError, OverflowError, OSError):
            wrong[place] = True
        wrong[place] |= not np.isfinite(values[place])
    return values[at], wrong[at]


def _slots(column: CategoryColumn, cells: Array) -> NDArray[np.int64]:
    """The slot that each label is counted in; -1 for no value."""
    different, at = np.unique(np.char.strip(cells.astype(np.str_)), return_inverse=True)
    place = {label: slot for slot, label in enumerate(column.labels)}
    other = len(column.labels)
    if column.buckets is None:
        slots = [place.get(label, other) if label else -1 for label in different.tolist()]
    else:
        slots = [bucket_of(label, column.buckets) if label else -1 for label in different.tolist()]
    return np.array(slots, dtype=np.int64)[at]


def _documents(column: TextColumn, cells: Array) -> NDArray[np.int64]:
    """(pairs, 2): every different bucket of every text, with the text's position."""
    known: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for at, text in enumerate(cells.astype(np.str_).tolist()):
        found = set()
        for word in words(text):
            if word not in known:
                known[word] = bucket_of(word, column.buckets)
            found.add(known[word])
        pairs += [(at, bucket) for bucket in sorted(found)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
