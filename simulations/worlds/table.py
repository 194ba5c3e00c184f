"""The one table that a world is cut from: its columns to cut by, and its rows as departments' files.

Arrays stay arrays (.npz), a Parquet table stays one with its types, and a CSV's cells stay the text that they are, so
that a department reads its part as it would have read the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.data import DataConfig, Problem, Problems, Reading
from commonroot.client.tables.kinds import kind_of_column
from commonroot.client.tables.source import KEPT, LOOK, open_source
from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.by.base import ByValues, Codes, Random

Rows = NDArray[np.int64]


class Table(Protocol):
    """Rows in memory.

    suffix  of departments' files
    """

    @property
    def suffix(self) -> str: ...

    @property
    def columns(self) -> list[str]: ...

    def __len__(self) -> int: ...

    @property
    def features(self) -> pl.DataFrame:
        """Columns of single values that features are made of."""

    def column(self, name: str) -> pl.Series:
        """A column by name."""

    def taken(self, rows: Rows) -> Table:
        """These rows, in this order."""

    def shifted(self, by: ByValues, owner: Codes, departments: int, random: Random) -> Table:
        """With the values changed that features are made of; ``owner`` ascends.  Raises ConfigError: there are none."""

    def write(self, path: Path, begin: int, end: int) -> None:
        """Some rows as a file."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """``X`` (rows, columns) or images (rows, height, width, …), beside columns of one value a row.

    names  of X's columns, as the file has them, or None
    kept   columns of X that are keys or targets, and never change
    """

    x: NDArray[Any] = field(repr=False)
    beside: Mapping[str, NDArray[Any]] = field(repr=False)
    names: tuple[str, ...] | None = None
    kept: frozenset[str] = frozenset()

    suffix = ".npz"

    @property
    def columns(self) -> list[str]:
        """Those that a world can be cut by."""
        return [*self._named, *self.beside]

    @property
    def _named(self) -> list[str]:
        if self.x.ndim > 2:
            return []
        return list(self.names) if self.names is not None else [f"x{at}" for at in range(self.x.shape[1])]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def features(self) -> pl.DataFrame:
        """None of images."""
        return pl.DataFrame([self.column(name) for name in self._named if name not in self.kept])

    def column(self, name: str) -> pl.Series:
        """Of X, or beside it."""
        if name in self.beside:
            return pl.Series(name, np.ascontiguousarray(self.beside[name]))
        return pl.Series(name, np.ascontiguousarray(self.x[:, self._named.index(name)]))

    def taken(self, rows: Rows) -> Arrays:
        """A copy."""
        beside = {name: values[rows] for name, values in self.beside.items()}
        return Arrays(self.x[rows], beside, self.names, self.kept)

    def shifted(self, by: ByValues, owner: Codes, departments: int, random: Random) -> Arrays:
        """All of X but its keys."""
        if self.x.ndim > 2:
            if self.x.ndim == 4 and self.x.shape[1] in (1, 3) and self.x.shape[3] not in (1, 3):
                x = np.moveaxis(by.images(np.moveaxis(self.x, 1, 3), owner, departments, random), 3, 1)
            else:
                x = by.images(self.x, owner, departments, random)
            return Arrays(x, self.beside, self.names, self.kept)
        free = np.array([name not in self.kept for name in self._named])
        values = self.x.astype(np.float64)
        values[:, free] = by.columns(values[:, free], owner, departments, random)
        return Arrays(values.astype(np.float32), self.beside, self.names, self.kept)

    def write(self, path: Path, begin: int, end: int) -> None:
        """Uncompressed: parts are small."""
        arrays: dict[str, Any] = {"X": self.x[begin:end]}
        arrays |= {name: values[begin:end] for name, values in self.beside.items()}
        if self.names is not None:
            arrays["names"] = np.array(self.names, dtype=np.str_)
        np.savez(path, **arrays)


@dataclass(frozen=True, slots=True)
class Frame:
    """A table with named columns of any type.

    read       columns that features are made of
    numbers    those of them that are numbers
    separator  of a CSV, whose cells are all text; None for Parquet
    """

    frame: pl.DataFrame = field(repr=False)
    read: tuple[str, ...]
    numbers: tuple[str, ...]
    separator: str | None = None

    @property
    def suffix(self) -> str:
        """As of the whole table."""
        return ".parquet" if self.separator is None else ".csv"

    @property
    def columns(self) -> list[str]:
        """In order."""
        return self.frame.columns

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def features(self) -> pl.DataFrame:
        """A CSV's are text."""
        return self.frame.select(name for name in self.read if not self.frame.schema[name].is_nested())

    def column(self, name: str) -> pl.Series:
        """A CSV's is text."""
        return self.frame[name]

    def taken(self, rows: Rows) -> Frame:
        """A copy."""
        return replace(self, frame=self.frame[rows])

    def shifted(self, by: ByValues, owner: Codes, departments: int, random: Random) -> Frame:
        """Numbers become numbers with a fraction; cells that hold none stay as they are."""
        if not self.numbers:
            raise ConfigError("there is no column of numbers to shift", hint="leave the shift out")
        numbers = self.frame.select(pl.col(self.numbers).cast(pl.Float64, strict=False))
        values = by.columns(numbers.fill_null(np.nan).to_numpy(), owner, departments, random)
        new = []
        for at, name in enumerate(self.numbers):
            one = pl.Series(name, values[:, at], nan_to_null=True)
            if self.separator is not None:  # what was no number is told to the department as it stood
                one = one.round_sig_figs(9).cast(pl.String).zip_with(one.is_not_null(), self.frame[name])
            new.append(one)
        return replace(self, frame=self.frame.with_columns(new))

    def write(self, path: Path, begin: int, end: int) -> None:
        """With a header in every file."""
        part = self.frame.slice(begin, end - begin)
        if self.separator is None:
            part.write_parquet(path, compression="uncompressed", statistics=False)
        else:
            part.write_csv(path, separator=self.separator)


def read_table(data: DataConfig) -> Table:
    """The table of a ``[data]`` section whose path is absolute.

    Raises DataError that names everything wrong with the file, ConfigError for one that cannot be cut.
    """
    path = data.path
    if path is None or path.is_dir() or path.suffix.lower() not in (".csv", ".parquet", ".npz"):
        found = "a query" if path is None else path.name
        raise ConfigError(f"world.data: {found} cannot be cut", hint="a .csv, .parquet or .npz file can")
    problems = Problems()
    source = open_source(path, Reading.of(data), problems, targets=data.targets)
    problems.refuse()
    if source is None:
        raise ValueError("a source without problems was opened")
    asked = _asked(data)
    for name in asked:
        if name not in source.schema:
            fix = "add the column or mend world.data"
            problems.add(Problem(file=path.name, column=name, found="no such column", expected="it in row 1", fix=fix))
    problems.refuse()
    keys = frozenset({*_keys(data), *data.targets})
    if path.suffix.lower() == ".npz":
        return _arrays(path, data, keys)
    frame = pl.concat(list(source.read(dict.fromkeys(source.schema, KEPT), typed=False, size=0)))
    separator = data.separator if path.suffix.lower() == ".csv" else None
    return _with_paths(Frame(frame, *_features(frame, data, keys), separator), data)


def _arrays(path: Path, data: DataConfig, keys: frozenset[str]) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        x = archive["X"]
        beside = {name: archive[name] for name in data.targets}
        names = tuple(map(str, np.ravel(archive["names"]))) if "names" in archive.files else None
    return Arrays(x, beside, names, keys)


def _keys(data: DataConfig) -> Iterator[str]:
    """Columns that say what belongs together or comes first, and are not read as features' values."""
    split, window = data.split, data.window
    named = (
        data.user,
        data.item,
        split.column if split else None,
        window.order if window else None,
        window.group if window else None,
    )
    yield from (name for name in named if name is not None)


def _asked(data: DataConfig) -> list[str]:
    return list(dict.fromkeys([*(one.column for one in data.listed or ()), *data.targets, *_keys(data)]))


def _features(frame: pl.DataFrame, data: DataConfig, keys: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that features are made of, and those of them that are numbers; what is a key keeps its values."""
    kinds = {one.column: one.kind for one in data.listed} if data.listed is not None else dict.fromkeys(frame.columns)
    read = tuple(name for name in kinds if name not in keys)
    numbers = []
    for name in read:
        series = frame[name]
        kind = kinds[name] or kind_of_column(series.head(LOOK), missing=data.missing)
        if kind == "number" and series.dtype != pl.Boolean:
            numbers.append(name)
    return read, tuple(numbers)


def _with_paths(table: Frame, data: DataConfig) -> Frame:
    """Images named by cells are found from wherever the parts lie."""
    images = [one.column for one in data.listed or () if one.kind == "image"]
    texts = [name for name in images if table.frame.schema[name] == pl.String]
    if not texts or data.path is None:
        return table
    folder = f"{data.path.resolve().parent.as_posix()}/"
    absolute = [
        pl.when(pl.col(name).str.starts_with("/")).then(pl.col(name)).otherwise(folder + pl.col(name)).alias(name)
        for name in texts
    ]
    return replace(table, frame=table.frame.with_columns(absolute))
