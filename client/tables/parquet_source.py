"""Parquet: typed columns, read a stretch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import LOOK, UNREADABLE, Held, check_header, file_digest

#: Bytes of one stretch of rows, decoded.
_STRETCH: Final = 32 << 20


class ParquetSource:
    """A Parquet file.  Rows are counted from 1."""

    first_row = 1

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType], rows: int, held: Held | None = None) -> None:
        """``held``: what is kept of the look for the rows that are read next."""
        self._path, self._schema, self._rows, self._held = path, dict(schema), rows, held or Held()
        self._kept: pl.DataFrame | None = None
        self.name = path.name
        # compressed columns unfold: count eight bytes a cell where that is more
        self.bytes = max(path.stat().st_size, rows * len(self._schema) * 8)
        self.folder = path.parent

    @classmethod
    def opened(cls, path: Path, problems: Problems, held: Held | None = None) -> ParquetSource | None:
        """With its schema checked, or None with the problems added."""
        try:
            lazy = pl.scan_parquet(path, glob=False)
            schema = lazy.collect_schema()
            rows = int(lazy.select(pl.len()).collect().item())
        except UNREADABLE:
            problems.add(_unreadable(path.name))
            return None
        if not check_header(path.name, list(schema), problems):
            return None
        return cls(path, schema, rows, held)

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        return self._schema

    def look(self) -> pl.DataFrame:
        lazy = pl.scan_parquet(self._path, glob=False)
        if self._held.columns is not None:
            lazy = lazy.select([name for name in self._schema if name in self._held.columns])
        try:
            if self.bytes > self._held.memory:
                return lazy.head(LOOK).collect()
            self._kept = lazy.collect()
            return self._kept[np.arange(min(LOOK, len(self._kept)))]  # a copy, which holds no more than it shows
        except UNREADABLE:
            return self._refuse()

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        kept, self._kept = self._kept, None
        if size == 0 and kept is not None and set(columns) <= set(kept.columns):
            yield kept.select(list(columns))
            return
        lazy = pl.scan_parquet(self._path, glob=False, low_memory=size > 0).select(list(columns))
        try:
            if size == 0:
                yield lazy.collect()
                return
            # stretch by stretch: the streaming engine would decode ahead of whoever is slower than the disk
            stretch = max(size, _STRETCH // (8 * max(1, len(columns))))
            for at in range(0, self._rows, stretch):
                yield from lazy.slice(at, stretch).collect().iter_slices(size)
        except UNREADABLE:
            self._refuse()

    def fingerprint(self) -> str:
        return file_digest(self._path)

    def _refuse(self) -> pl.DataFrame:
        problems = Problems()
        problems.add(_unreadable(self.name))
        problems.refuse()
        return pl.DataFrame()


def _unreadable(file: str) -> Problem:
    return Problem(file=file, found="unreadable content", expected="a Parquet table", fix="write the file again")
