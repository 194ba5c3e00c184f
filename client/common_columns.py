"""The charter's ``[[columns]]`` among a department's encoded ones: as slots for trees, as numbers for linear models.

A department encodes its table once, by shared statistics or its own, with whatever further columns it has; every model
it keeps reads those rows.  Methods that gather speak of columns in the charter's terms.  What is here translates: the
value of a number is its encoded one back in its own units, a label is the one-hot column that stands for it.  A label
without a column of its own here counts as ``other``; a gap that has none counts as the mean it was filled with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.categories import Category
from commonroot.client.tables.features import Features
from commonroot.client.tables.numbers import Numbers, Scaler
from commonroot.common.backbone.inputs import RowInput
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.common.schema import CategoryColumn, NumberColumn

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NumberHere:
    """A number of the charter, as this department encodes it.

    at             its encoded column; ``gap``: the one that tells of gaps, or None
    centre, scale  of its encoding; scale is infinite where it never varied
    edges          (bins - 1,) upper ends of all bins but the last, in its own units, ascending; ``inf`` for bins that
                   no value can be in
    middle, unit   what linear models tell it from and in; a unit of 0 where it never varied anywhere
    """

    at: int
    gap: int | None
    centre: float
    scale: float
    edges: Doubles = field(repr=False)
    middle: float
    unit: float

    @property
    def thresholds(self) -> Doubles:
        """The edges as encoded; a value is at most an edge exactly where its encoding is at most the edge's.

        Where all values are the same they are encoded as 0, and thresholds lie on the right side of it.
        """
        if np.isinf(self.scale):
            return np.where(self.centre <= self.edges, 1.0, -1.0)
        scaler = Scaler(np.array([self.centre]), np.array([self.scale]))
        return scaler.apply(self.edges[:, None])[:, 0].astype(np.float64)

    def slots(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n,) bins of encoded rows (n, width), the number after the last for gaps."""
        if np.isinf(self.scale):
            found = np.full(len(x), np.count_nonzero(self.thresholds < 0))
        else:
            found = np.searchsorted(self.thresholds, x[:, self.at].astype(np.float64), side="left")
        if self.gap is not None:
            found = np.where(x[:, self.gap] > 0.5, len(self.edges) + 1, found)
        return found.astype(np.int32)

    @property
    def line(self) -> tuple[float, float]:
        """Factor and offset from its encoded column to what linear models read."""
        if self.unit == 0:
            return 0.0, 0.0
        factor = 0.0 if np.isinf(self.scale) else self.scale / self.unit
        return factor, (self.centre - self.middle) / self.unit


@dataclass(frozen=True, slots=True)
class LabelsHere:
    """A category of the charter.

    at   encoded column of each of the charter's labels, -1 for none; ``gap``: the one that tells of gaps, or None
    """

    at: tuple[int, ...]
    gap: int | None

    def slots(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n,) labels of encoded rows; then the number of others, then that of gaps."""
        found = np.full(len(x), len(self.at), dtype=np.int32)
        for label, at in enumerate(self.at):
            if at >= 0:
                found[x[:, at] > 0.5] = label
        if self.gap is not None:
            found[x[:, self.gap] > 0.5] = len(self.at) + 1
        return found


@dataclass(frozen=True, slots=True)
class CommonColumns:
    """All of the charter's columns among ``width`` encoded ones."""

    columns: tuple[NumberHere | LabelsHere, ...]
    width: int

    @classmethod
    def of(cls, draft: Draft, features: Features, shared: SharedStatistics | None) -> CommonColumns:
        """Raises ConfigError that names every column of the charter which the department does not encode as such.

        shared  statistics that the charter names: bins are quantiles of all departments' rows instead of equally wide
        """
        if not isinstance(features.input, RowInput) or features.window is not None:
            raise ConfigError(f"method {draft.method.name!r} reads rows of columns", hint="leave `window` out")
        places = _places(features)
        found: list[NumberHere | LabelsHere] = []
        missing = []
        for column in draft.columns:
            part, start = places.get(column.name, (None, 0))
            if isinstance(column, NumberColumn) and isinstance(part, Numbers):
                found.append(_number(column, part, start, shared))
            elif isinstance(column, CategoryColumn) and isinstance(part, Category):
                found.append(_labels(column, part, start))
            else:
                missing.append(f"{column.name!r} ({column.kind})")
        if missing:
            raise ConfigError(
                f"the charter's columns {', '.join(missing)} are no features of that kind here",
                hint="list them in `features`, with their `kind` where it was guessed otherwise",
            )
        return cls(tuple(found), len(features.names))

    def codes(self, x: NDArray[Any]) -> NDArray[np.int32]:
        """(n, columns) slots of encoded rows (n, width)."""
        return np.stack([one.slots(x) for one in self.columns], axis=1)

    def numbers(self, x: NDArray[Any]) -> Doubles:
        """(n, 1 + columns of numbers) what linear models read of encoded rows; a one first."""
        matrix, offset = self.lines()
        return np.concatenate([np.ones((len(x), 1)), x.astype(np.float64) @ matrix.T + offset], axis=1)

    def lines(self) -> tuple[Doubles, Doubles]:
        """Matrix (columns of numbers, width) and offset from encoded rows to what linear models read."""
        rows, offsets = [], []
        for one in self.columns:
            places = (one.at,) if isinstance(one, NumberHere) else one.at
            factor, offset = one.line if isinstance(one, NumberHere) else (1.0, 0.0)
            for at in places:
                row = np.zeros(self.width)
                if at >= 0:
                    row[at] = factor
                rows.append(row)
                offsets.append(offset)
        return np.stack(rows), np.array(offsets)


def _places(features: Features) -> Mapping[str, tuple[Numbers | Category, int]]:
    """Raw column → the part that encodes it and the part's first encoded column."""
    found: dict[str, tuple[Numbers | Category, int]] = {}
    start = 0
    for part in features.parts:
        if isinstance(part, Numbers | Category):
            found |= dict.fromkeys(part.columns, (part, start))
        start += len(part.names)
    return found


def _number(column: NumberColumn, part: Numbers, start: int, shared: SharedStatistics | None) -> NumberHere:
    at = part.columns.index(column.name)
    gap = start + len(part.columns) + part.gaps.index(at) if at in part.gaps else None
    edges = np.linspace(column.start, column.end, column.bins + 1)[1:-1]
    middle, unit = column.middle, (column.end - column.start) / 2
    if shared is not None and shared.is_number(column.name):
        middle, unit = shared.standardise(column.name)
        edges = np.full(column.bins - 1, np.inf)
        if column.bins > 1 and shared.known(column.name):
            cuts = np.unique(shared.quantiles(column.name, np.arange(1, column.bins) / column.bins))
            edges[: len(cuts)] = cuts
    centre, scale = float(part.scaler.centre[at]), float(part.scaler.scale[at])
    return NumberHere(start + at, gap, centre, scale, edges, middle, unit)


def _labels(column: CategoryColumn, part: Category, start: int) -> LabelsHere:
    known = {value: start + at for at, value in enumerate(part.values)}
    gap = start + len(part.names) - 1 if part.gaps else None
    return LabelsHere(tuple(known.get(label, -1) for label in column.labels), gap)
