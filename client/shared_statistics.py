"""Statistics of all departments' rows, as a department keeps them and as its columns are prepared with them.

    statistics/HASH.json         the charter's hash and columns
    statistics/HASH.safetensors  the opened sums, exact

HASH is that of the statistics charter, which a later charter names.  Everything here is computed from whole numbers, so
two departments that hold the same sums standardise to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError, ForeignState, StatisticsMissing
from commonroot.common.schema import CategoryColumn, Column, DatetimeColumn, NumberColumn, TextColumn, bucket_of
from commonroot.files import atomic_write, read_bytes, storage_errors
from commonroot.strategies.base import Tensors
from commonroot.strategies.statistics import mean_and_scale, value_of, whole

#: The folder, inside a department's.
FOLDER: Final = "statistics"
LAYOUT: Final = 1
_COLUMNS: Final[TypeAdapter[tuple[Column, ...]]] = TypeAdapter(tuple[Column, ...])


@dataclass(frozen=True)
class SharedStatistics:
    """What one statistics charter's sum says about its columns.

    Methods that take a column raise ConfigError for one that the charter does not list, or lists as another kind.
    """

    columns: tuple[Column, ...]
    totals: dict[str, NDArray[np.float64]] = field(repr=False)

    @classmethod
    def received(cls, charter: Charter, tensors: Tensors) -> SharedStatistics:
        """From the final broadcast of a statistics charter."""
        return cls(charter.columns, {name: whole(array) for name, array in tensors.items()})

    @property
    def count(self) -> int:
        """Rows, of all departments in the sum."""
        return int(self.totals["count"])

    def known(self, column: str) -> int:
        """Rows with a value in a column."""
        return int(self.totals["present"][self._at(column)[0]])

    def is_number(self, column: str) -> bool:
        """Is this column listed, as a number or a date?"""
        return any(one.name == column and isinstance(one, NumberColumn | DatetimeColumn) for one in self.columns)

    def has_labels(self, column: str) -> bool:
        """Is this column listed, as a category with labels?"""
        return any(one.name == column and isinstance(one, CategoryColumn) and one.labels for one in self.columns)

    def text_buckets(self, column: str) -> int | None:
        """Buckets of a column that is listed as a text, or None."""
        return next((one.buckets for one in self.columns if one.name == column and isinstance(one, TextColumn)), None)

    @property
    def fingerprint(self) -> str:
        """Hex of a hash of everything here."""
        found = hashlib.blake2b(_COLUMNS.dump_json(self.columns), digest_size=32)
        for name in sorted(self.totals):
            found.update(name.encode() + np.asarray(self.totals[name], order="C").tobytes())
        return found.hexdigest()

    def standardise(self, column: str) -> tuple[float, float]:
        """Mean and standard deviation (of the rows themselves, not of a population) of a number or date.

        The mean of nothing is the middle of the charter's range; a scale of 0 says that the column never varied.
        """
        at, found = self._at(column)
        if not isinstance(found, NumberColumn | DatetimeColumn):
            raise self._another_kind(found, "a number or a date")
        place = sum(isinstance(one, NumberColumn | DatetimeColumn) for one in self.columns[:at])
        total, squares = (value_of(self.totals[name][place]) for name in ("sum", "squares"))
        return mean_and_scale(found, self.known(column), total, squares)

    def histogram(self, column: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges (bins + 1,) and counts (bins,) of a number or date."""
        _, found = self._at(column)
        if not isinstance(found, NumberColumn | DatetimeColumn):
            raise self._another_kind(found, "a number or a date")
        return np.linspace(found.start, found.end, found.bins + 1), self._part("histogram", column)

    def quantiles(self, column: str, q: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
        """Quantiles of a number or date, for q in [0, 1]: exact at the edges of bins, linear in between.

        The error is at most the width of a bin, which the charter chose.  NaN where there is no value.
        """
        edges, counts = self.histogram(column)
        total = int(counts.sum())
        if not total:
            return np.full(len(q), np.nan)
        below = np.concatenate([[0], np.cumsum(counts)])
        wanted = np.clip(np.asarray(q, dtype=np.float64), 0.0, 1.0) * total
        at = np.clip(np.searchsorted(below, wanted, side="left") - 1, 0, len(counts) - 1)
        at = np.where(wanted == 0, int(np.flatnonzero(counts)[0]), at)
        inside = (wanted - below[at]) / np.maximum(counts[at], 1)
        return np.asarray(edges[at] + inside * (edges[at + 1] - edges[at]), dtype=np.float64)

    def categories(self, column: str) -> tuple[tuple[str, int], ...]:
        """Labels with their counts, the most frequent first and equal ones in the charter's order.

        ``other``, the last, counts whatever the charter does not list.  Raises ConfigError for hashed labels.
        """
        _, found = self._at(column)
        if not isinstance(found, CategoryColumn) or not found.labels:
            raise self._another_kind(found, "a category with labels")
        counts = self._part("categories", column)
        order = np.argsort(-counts[:-1], kind="stable")
        return (*((found.labels[at], int(counts[at])) for at in order), ("other", int(counts[-1])))

    def counts(self, column: str) -> NDArray[np.int64]:
        """Rows per slot of a category (labels, then others; or buckets), documents per bucket of a text."""
        _, found = self._at(column)
        if isinstance(found, CategoryColumn):
            return self._part("categories", column)
        if isinstance(found, TextColumn):
            return self._part("documents", column)
        raise self._another_kind(found, "a category or a text")

    def idf(self, column: str) -> NDArray[np.float64]:
        """(buckets,) inverse document frequencies ln((1 + n) / (1 + df)) + 1 of a text; n counts texts with words."""
        _, found = self._at(column)
        if not isinstance(found, TextColumn):
            raise self._another_kind(found, "a text")
        documents = self._part("documents", column)
        return np.asarray(np.log((1 + self.known(column)) / (1.0 + documents)) + 1, dtype=np.float64)

    def idf_of(self, column: str, word: str) -> float:
        """The inverse document frequency of one word."""
        found = self.idf(column)
        return float(found[bucket_of(word, len(found))])

    def facts(self) -> dict[str, Any]:
        """The most telling numbers, as JSON values."""
        numbers = {c.name: self.standardise(c.name) for c in self.columns if self.is_number(c.name)}
        return {
            "rows": self.count,
            "columns": {c.name: {"kind": c.kind, "known": self.known(c.name)} for c in self.columns},
            "numbers": {name: {"mean": mean, "deviation": scale} for name, (mean, scale) in numbers.items()},
        }

    def save(self, folder: Path, digest: str) -> None:
        """Write into a department's folder, the record last.  Raises StorageFull or ConfigError."""
        place = folder / FOLDER
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        tensors = save_tensors({name: np.asarray(array, order="C") for name, array in self.totals.items()})
        atomic_write(place / f"{digest}.safetensors", tensors, mode=0o600)
        columns = _COLUMNS.dump_python(self.columns, mode="json")
        record = {"layout": LAYOUT, "charter": digest, "columns": columns}
        atomic_write(place / f"{digest}.json", json.dumps(record, indent=1).encode(), mode=0o600)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _at(self, column: str) -> tuple[int, Column]:
        for at, one in enumerate(self.columns):
            if one.name == column:
                return at, one
        raise ConfigError(f"the shared statistics do not list column {column!r}")

    def _part(self, name: str, column: str) -> NDArray[np.int64]:
        """This column's counts among those of its kind, which lie one after another."""
        start = 0
        for one in self.columns:
            if isinstance(one, CategoryColumn):
                kind, size = "categories", one.slots
            elif isinstance(one, TextColumn):
                kind, size = "documents", one.buckets
            else:
                kind, size = "histogram", one.bins
            if one.name == column:
                return self.totals[name][start : start + size].astype(np.int64)
            start += size if kind == name else 0
        raise ConfigError(f"the shared statistics do not list column {column!r}")

    @staticmethod
    def _another_kind(found: Column, wanted: str) -> ConfigError:
        return ConfigError(f"the shared statistics list column {found.name!r} as {found.kind}, not as {wanted}")


def held(folder: Path, digest: str) -> bool:
    """Does a department hold the statistics of this charter?"""
    return (folder / FOLDER / f"{digest}.json").is_file()


def load(folder: Path, digest: str) -> SharedStatistics:
    """The statistics of a charter from a department's folder.

    Raises StatisticsMissing where the department holds none, ForeignState for files that this program did not write.
    """
    place = folder / FOLDER
    if not held(folder, digest):
        raise StatisticsMissing(f"there are no statistics of charter {digest[:16]}… in {place}")
    try:
        record = json.loads(read_bytes(place / f"{digest}.json", what="the statistics"))
        if record["layout"] != LAYOUT or record["charter"] != digest:
            raise ForeignState(f"{place / digest}.json is of another charter or layout")
        columns = _COLUMNS.validate_python(record["columns"])
        totals = load_tensors(read_bytes(place / f"{digest}.safetensors", what="the statistics"))
    except (ValueError, KeyError, TypeError, ValidationError, SafetensorError) as error:
        raise ForeignState(f"{place / digest}.json cannot be read") from error
    if not all(math.isfinite(float(np.sum(total))) for total in totals.values()):
        raise ForeignState(f"{place / digest}.safetensors holds values that are not finite numbers")
    return SharedStatistics(columns, dict(totals))
