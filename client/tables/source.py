"""Where rows come from: one small interface over files, folders and databases, read lazily and in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from commonroot.client.tables.cells import clean
from commonroot.client.tables.coded import Codes
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.decimals import pointed
from commonroot.client.tables.problems import Problem, Problems

#: A source of at most this many bytes is read once and held; a larger one is read again for each pass.
MEMORY: Final = 256 << 20
#: Rows of one batch where a source is read in passes.
BATCH: Final = 65_536
#: Rows of a look at the columns.
LOOK: Final = 2_000
#: How a column without a name is called, before its number; no feature unless it is asked for.
UNNAMED: Final = "unnamed "
#: Kind of a column that nobody reads: its cells stay as they are.
KEPT: Final = "kept"
#: What a look or a read can meet in a file that is no such file.
UNREADABLE = (pl.exceptions.PolarsError, OSError, ValueError, pl.exceptions.PanicException)


def kept_as(name: str) -> str:
    """How a column is called that is kept as the source has it, beside what the features read of it."""
    return f"kept\x1f{name}"


class CellsNotTyped(Exception):
    """Some cell did not parse in the fast way; reading starts over, cell by cell, so that each can be named."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read: what a stored predictor must know to read the next one."""

    separator: str = ","
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    decimal: str = "."

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        """As the ``[data]`` section says."""
        return cls(config.separator, config.encoding, config.missing, config.decimal)


@dataclass(frozen=True, slots=True)
class Held:
    """What a look may keep for whoever reads the rows next: reading twice costs more than looking.

    memory   a source no larger than this is read as a whole at the first look
    columns  those that will be asked for; None for any
    """

    memory: int = 0
    columns: frozenset[str] | None = None


class Source(Protocol):
    """A table that can be read more than once.

    name       as messages call it
    first_row  number of the first row, as its owner counts
    schema     columns in order; text where the source knows no types
    bytes      about how large it is
    folder     what paths in its cells are relative to
    """

    name: str
    first_row: int
    bytes: int
    folder: Path

    @property
    def schema(self) -> Mapping[str, pl.DataType]: ...

    def look(self) -> pl.DataFrame:
        """The first ``LOOK`` rows."""

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        """These columns (name → kind) in order, in batches of about ``size`` rows.

        Raises CellsNotTyped where ``typed`` reading meets a cell of another type; problems of structure as DataError.
        """

    def fingerprint(self) -> str:
        """Hex of a hash of the content."""


class Table:
    """A source's rows with their columns in the types of their kinds.

    Small ones are read once and held; large ones are read anew for every pass.
    """

    def __init__(
        self,
        source: Source,
        wanted: Mapping[str, str],
        *,
        missing: tuple[str, ...],
        memory: int,
        decimal: str = ".",
        codes: Codes | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        """``decimal``: of numbers that come as text; ``codes``: for the columns of text that may come as codes;
        ``keep``: those that come as the source has them too, under the name that ``kept_as`` gives them."""
        self.source = source
        self.wanted = dict(wanted)
        self.held = source.bytes <= memory
        self._missing, self._decimal, self._codes, self._keep = missing, decimal, codes, tuple(keep)
        self._typed = True
        self._frame: pl.DataFrame | None = None

    def slower(self) -> None:
        """From now on cell by cell."""
        self._typed = False
        self._frame = None

    def whole(self, problems: Problems) -> pl.DataFrame:
        """Every row at once, for a table that is held."""
        if self._frame is None:
            try:
                raw = self._collect(typed=True)
            except CellsNotTyped:
                raw = self._collect(typed=False)
            self._frame = self._cleaned(raw, self.wanted, 0, problems)
        return self._frame

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        problems: Problems | None = None,
        size: int = BATCH,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """(position of its first row, rows), in order; problems of cells are added where a list is given."""
        wanted = self.wanted if columns is None else {name: self.wanted[name] for name in columns}
        if self.held:
            names = [*wanted, *map(kept_as, self._keep)]
            frame = columns_in(self.whole(problems if problems is not None else Problems()), names)
            for begin in range(0, len(frame), size):
                yield begin, frame.slice(begin, size)
            return
        at = 0
        for raw in self.source.read(self._plain(wanted), typed=self._typed, size=size):
            yield at, self._cleaned(raw, wanted, at, problems)
            at += len(raw)

    def _collect(self, *, typed: bool) -> pl.DataFrame:
        frames = list(self.source.read(self._plain(self.wanted), typed=typed, size=0))
        return pl.concat(frames) if len(frames) != 1 else frames[0]

    def _plain(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """The kinds to read, where what is kept is not parsed."""
        return dict(wanted) | dict.fromkeys(self._keep, KEPT)

    def _cleaned(
        self, raw: pl.DataFrame, wanted: Mapping[str, str], at: int, problems: Problems | None
    ) -> pl.DataFrame:
        first = self.source.first_row + at
        cleaned = clean(
            raw if self._decimal == "." else pointed(raw, wanted),
            wanted,
            missing=self._missing,
            file=self.source.name,
            row_of=lambda position: first + position,
            problems=problems,
            codes=self._codes,
        )
        return cleaned.with_columns(raw[name].alias(kept_as(name)) for name in self._keep) if self._keep else cleaned


def columns_in(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Some columns as they lie in memory, where a query would copy all whose pieces differ from the others'."""
    return pl.DataFrame([frame[name] for name in names])


def open_source(
    path: Path,
    reading: Reading,
    problems: Problems,
    *,
    targets: Sequence[str] = (),
    required: bool = True,
    held: Held | None = None,
) -> Source | None:
    """A file or folder by its ending; None with a problem added where there is nothing to read.

    targets   arrays of an .npz that hold the target
    required  whether they must be there
    held      what a look may keep
    """
    from commonroot.client.tables.csv_source import CsvSource
    from commonroot.client.tables.image_source import open_folder
    from commonroot.client.tables.npz_source import NpzSource
    from commonroot.client.tables.parquet_source import ParquetSource

    file, ending = path.name, path.suffix.lower()
    if path.is_dir():
        return open_folder(path, reading, problems)
    if not path.is_file():
        expected = "a .csv, .parquet or .npz file, or a folder of images"
        problems.add(Problem(file=file, found="no such file", expected=expected, fix="mend the path"))
        return None
    if ending == ".csv":
        return CsvSource.opened(path, reading, problems)
    if ending == ".parquet":
        return ParquetSource.opened(path, problems, held)
    if ending == ".npz":
        return NpzSource.opened(path, tuple(targets), problems, required=required)
    expected = ".csv or .npz or .parquet"
    problems.add(Problem(file=file, found=f"the ending {ending!r}", expected=expected, fix="export the table as CSV"))
    return None


def file_digest(path: Path) -> str:
    """Hex of the BLAKE2b hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def check_header(file: str, names: Sequence[str], problems: Problems) -> bool:
    """Names that are there once and not empty; False where columns could not be told apart."""
    sound = True
    seen: set[str] = set()
    told: set[str] = set()
    for at, name in enumerate(names):
        if not name:
            found, fix = f"no name for column {at + 1}", "name every column"
            problems.add(Problem(file=file, row=1, found=found, expected="a name", fix=fix))
            sound = False
        elif name in seen and name not in told:
            told.add(name)
            problems.add(
                Problem(
                    file=file, column=name, found="the name twice", expected="one column of a name", fix="rename one"
                )
            )
            sound = False
        seen.add(name)
    return sound
