"""Categories: one column for each frequent value of the training rows, one for all rare ones, one for gaps.

A value that training never saw is none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.coded import is_coded
from commonroot.client.tables.decimals import is_written_with_comma
from commonroot.client.tables.part import Arrays, Columns, Filler, Picked, filled, once_of

#: That many rare values are known as such; rarer ones are as good as unseen.
RARE: Final = 4096
#: That few columns are copied from a table faster than ones are set among zeros.
_NARROW: Final = 32
#: That few values are looked up one by one faster than the library begins to.
_FEW: Final = 256
#: Counting stops telling values apart beyond this many.
DISTINCT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Category:
    """One-hot of a column.

    values  those with a column of their own, most frequent first
    rare    those that share one
    gaps    whether a column tells of gaps
    others  whether every other value is as good as rare
    """

    kind: ClassVar[str] = "category"

    column: str
    values: tuple[str, ...] = field(repr=False)
    rare: tuple[str, ...] = field(default=(), repr=False)
    gaps: bool = False
    others: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        named = [f"{self.column} = {value}" for value in self.values]
        named += [f"{self.column} rare"] if self.rare or self.others else []
        return (*named, *([f"{self.column} missing"] if self.gaps else []))

    def kinds(self) -> dict[str, str]:
        return {self.column: "category"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        return filled(self.filler(Columns(frame), folder), len(frame), len(self.names))

    def filler(self, table: Columns, folder: Path) -> Filler:
        series, width = table[self.column], len(self.names)
        gap = width - 1 if self.gaps else -1
        once = table.once(self.column) if is_coded(series.dtype) else None
        if once is None:
            places = self._places_of(series)
            if series.null_count():
                places[series.is_null().to_numpy()] = gap
        elif width > _NARROW:
            places = once.spread(self._places_of(once.values), gap=gap)
        else:
            return once.filler(_one_hot(self._places_of(once.every), width), _one_hot(np.array([gap]), width)[0])

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            out[...] = 0.0
            at = places[rows]
            known = np.flatnonzero(at >= 0)
            out[known, at[known]] = 1.0

        return fill

    def _places_of(self, texts: pl.Series) -> NDArray[np.intp]:
        known = [*self.values, *self.rare]
        places = [*range(len(self.values)), *([len(self.values)] * len(self.rare))]
        unseen = len(self.values) if self.others else -1
        if not known or not len(texts):
            return np.full(len(texts), unseen, dtype=np.intp)
        if len(texts) <= _FEW:
            place_of = dict(zip(known, places, strict=True))
            return np.array([place_of.get(text, unseen) for text in texts.to_list()], dtype=np.intp)
        return texts.replace_strict(known, places, default=unseen, return_dtype=pl.Int32).to_numpy().astype(np.intp)

    def to_json(self) -> dict[str, Any]:
        named = {"column": self.column, "values": list(self.values), "rare": list(self.rare)}
        return named | {"gaps": self.gaps, "others": self.others}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        values, rare = tuple(map(str, record["values"])), tuple(map(str, record["rare"]))
        return cls(str(record["column"]), values, rare, bool(record["gaps"]), bool(record["others"]))


def _one_hot(places: NDArray[np.intp], width: int) -> NDArray[np.float32]:
    """(n, width): 1 in the place of each, nothing where that is -1."""
    out = np.zeros((len(places), width), dtype=np.float32)
    known = np.flatnonzero(places >= 0)
    out[known, places[known]] = 1.0
    return out


class CategoryFitter:
    """Counts of a column's values.

    shared  statistics of all departments' rows; where they list the column's labels, every department has the same
            columns: the most frequent labels, one for all others, one for gaps
    """

    def __init__(self, column: str, limit: int, shared: SharedStatistics | None = None) -> None:
        self._column, self._limit = column, limit
        self._shared = shared if shared is not None and shared.has_labels(column) else None
        self._counts: Counter[str] = Counter()
        self._rows = self._gaps = 0

    def add(self, frame: pl.DataFrame | Picked) -> None:
        self._rows += len(frame)
        once = once_of(frame, self._column)
        counted: Iterable[tuple[str, int]]
        if once is not None:
            self._gaps += once.gaps
            counted = zip(once.values.to_list(), once.counts.tolist(), strict=True)
        else:
            series = frame[self._column]
            self._gaps += series.null_count()
            counted = series.cast(pl.String).drop_nulls().value_counts(name="count").iter_rows()
        for value, count in counted:
            if value in self._counts or len(self._counts) < DISTINCT:
                self._counts[value] += count

    def faults(self) -> list[tuple[str, str, str, str]]:
        if self._counts or self._shared is not None:
            return []
        return [(self._column, "no value at all", "categories", "leave the column out of `features`")]

    def notes(self) -> list[str]:
        out = []
        if len(self._counts) == 1:
            out.append(f"constant in the training rows: {self._column!r}")
        if len(self._counts) > self._rows // 2 > 20:
            commas = sum(map(is_written_with_comma, self._counts)) > len(self._counts) / 2
            numbers = 'are these numbers with decimal commas? say `decimal = ","`, or write points'
            asked = numbers if commas else "is it an identifier, or text?"
            out.append(f"hardly any value of {self._column!r} comes twice: {asked}")
        return out

    def done(self) -> Category:
        if self._shared is not None:
            listed = [label for label, _ in self._shared.categories(self._column)[:-1]]
            gaps = self._shared.known(self._column) < self._shared.count
            return Category(self._column, tuple(listed[: self._limit]), (), gaps, others=True)
        ranked = sorted(self._counts, key=lambda value: (-self._counts[value], value))
        # where there are too many values, one that comes once teaches nothing
        few = len(ranked) <= self._limit
        kept = [value for value in ranked[: self._limit] if few or self._counts[value] > 1]
        return Category(self._column, tuple(kept), tuple(ranked[len(kept) :][:RARE]), self._gaps > 0)
