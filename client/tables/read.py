"""Rows to predict: a file or a query that need not hold a target, read as the training rows were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.decimals import pointed
from commonroot.client.tables.features import Features
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import (
    BATCH,
    KEPT,
    MEMORY,
    CellsNotTyped,
    Reading,
    Source,
    Table,
    kept_as,
    open_source,
)
from commonroot.client.tables.sql_source import open_query


def read_features(path: Path, features: Features) -> pl.DataFrame:
    """Every row of a file with the columns that the features read; DataError lists every problem."""
    frames = [frame for frame, _ in read_batches(path, features)]
    return pl.concat(frames) if len(frames) != 1 else frames[0]


def read_batches(
    path: Path | None,
    features: Features,
    *,
    url: str = "",
    query: str = "",
    keep: Sequence[str] = (),
    size: int = BATCH,
    memory: int = MEMORY,
) -> Iterator[tuple[pl.DataFrame, Path]]:
    """(cleaned rows, folder that paths in cells are relative to), in order and in batches.

    Features with a window see rows together, so theirs come in one batch.  A table without rows gives one empty batch.
    Columns to ``keep`` come along as the source has them; ``kept_columns`` takes them out.
    Raises DataError that lists every problem of the batches read so far.
    """
    problems = Problems()
    source: Source | None
    if path is None:
        source = open_query(url, query, Path(), problems)
    else:
        source = open_source(path, features.reading, problems, required=False)
    if source is None:
        problems.refuse()
        return
    kinds = features.kinds
    schema = source.schema
    for name, kind in (dict.fromkeys(keep, KEPT) | kinds).items():
        if name not in schema:
            fix = "the model reads the columns that it was trained with" if kind != KEPT else "keep another column"
            problems.add(
                Problem(file=source.name, column=name, found="no such column", expected="it in row 1", fix=fix)
            )
    problems.refuse()
    table = Table(
        source, kinds, missing=features.reading.missing, memory=memory, decimal=features.reading.decimal, keep=keep
    )
    kinds = kinds | dict.fromkeys(map(kept_as, keep), KEPT)
    if features.window is not None:
        try:
            frames = [frame for _, frame in table.batches(problems=problems)]
        except CellsNotTyped:
            table.slower()
            frames = [frame for _, frame in table.batches(problems=problems)]
        problems.refuse()
        yield pl.concat(frames) if frames else _empty(kinds), source.folder
        return
    yield from ((frame, source.folder) for frame in _each(table, problems, size, kinds))


def kept_columns(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The columns that a batch of ``read_batches`` carries along, under their own names."""
    return frame.select(pl.col(kept_as(name)).alias(name) for name in names)


def open_data(
    config: DataConfig, folder: Path, problems: Problems, *, columns: Sequence[str], test: bool = False
) -> Source | None:
    """A department's file, its file of test rows, or its query, which is asked now; None with problems added."""
    path = config.test_path if test else config.path
    if path is None:
        return open_query(str(config.url), str(config.query), folder, problems)
    return open_source(folder / path, Reading.of(config), problems, targets=columns, required=False)


def read_cells(
    source: Path | Source,
    columns: Sequence[str],
    reading: Reading,
    problems: Problems,
    *,
    numbers: Sequence[str] = (),
) -> tuple[dict[str, NDArray[Any]], int] | None:
    """(columns as they stand, by name; number of the first row), or None with problems added.

    Text is without blanks around it and empty where there is a gap; numbers are NaN there; times are datetime64.
    ``numbers``: those of the columns that hold numbers, whose text has a decimal point whatever the file has.
    """
    if isinstance(source, Path):
        opened = open_source(source, reading, problems, targets=columns, required=False)
        if opened is None:
            return None
        source = opened
    schema = source.schema
    for name in columns:
        if name not in schema:
            fix = "add the column or mend the configuration"
            problems.add(
                Problem(file=source.name, column=name, found="no such column", expected="it in row 1", fix=fix)
            )
    if problems:
        return None
    kinds = dict.fromkeys(columns, "any") | {name: "value" for name in columns if name in numbers}
    frames = list(source.read(kinds, typed=False, size=0))
    frame = pl.concat(frames) if len(frames) != 1 else frames[0]
    if reading.decimal == ",":
        frame = pointed(frame, kinds)
    return {name: _cells(frame[name]) for name in columns}, source.first_row


def _cells(series: pl.Series) -> NDArray[Any]:
    if series.dtype.is_numeric():
        found: NDArray[Any] = series.to_numpy()
        return found
    if isinstance(series.dtype, pl.Datetime | pl.Date):
        return series.cast(pl.Datetime("us")).to_numpy()
    text = series.cast(pl.String).fill_null("").str.strip_chars()
    return np.array(text.to_list(), dtype=np.str_)


def _each(table: Table, problems: Problems, size: int, kinds: dict[str, str]) -> Iterator[pl.DataFrame]:
    done = 0
    for slower in (False, True):
        if slower:
            table.slower()
        try:
            for at, frame in table.batches(problems=problems, size=size):
                problems.refuse()
                if at + len(frame) > done:  # after starting over, rows that were handed out already are passed by
                    yield frame.slice(max(0, done - at))
                    done = at + len(frame)
            if not done:
                yield _empty(kinds)
            return
        except CellsNotTyped:
            problems = Problems()


def _empty(kinds: dict[str, str]) -> pl.DataFrame:
    return pl.DataFrame({name: [] for name in kinds}, schema={name: _types(kind) for name, kind in kinds.items()})


def _types(kind: str) -> pl.DataType:
    return pl.Float64() if kind == "number" else pl.String()
