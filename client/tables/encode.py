"""The second pass: every row encoded once, into the part that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.coded import Once
from commonroot.client.tables.features import Features
from commonroot.client.tables.part import Columns, Filling, Part, block_rows
from commonroot.client.tables.parting import Keys
from commonroot.client.tables.plan import Plan
from commonroot.client.tables.problems import Problems
from commonroot.client.tables.sequences import Sequence
from commonroot.client.tables.source import BATCH, Reading, Source, Table
from commonroot.client.tables.store import PARTS, Shelf
from commonroot.common.backbone.inputs import RowInput, SequenceInput

#: An encoded batch takes about this many bytes at most.
ENCODED: Final = 16 << 20


@dataclass(slots=True)
class Side:
    """One table: the department's own, or the one for its test rows.

    target  the target columns, none where there are none
    count   rows
    keys    what split and windows read
    tokens  (rows,) tokens of each row, where the target is one label per token
    once    the one target column by its different values, where it holds labels and no gap
    y       (rows, …) encoded target
    where   (rows,) part of each row
    """

    source: Source
    table: Table
    target: pl.DataFrame
    count: int
    keys: Keys
    tokens: NDArray[np.int64] | None = None
    once: Once | None = None
    y: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    where: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    _whole: Columns | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.count

    def at(self, place: int) -> NDArray[np.int64]:
        """Positions of the rows of a part, ascending."""
        return np.flatnonzero(self.where == place)

    def columns(
        self, names: Listed[str], *, problems: Problems | None = None, size: int = BATCH
    ) -> Iterator[tuple[int, Columns]]:
        """(position of its first row, batch) as of ``Table.batches``; a table that is held is one batch, the same one
        whenever it is asked for."""
        if self.table.held:
            if self._whole is None:
                self._whole = Columns(self.table.whole(problems if problems is not None else Problems()))
            yield 0, self._whole
            return
        for start, frame in self.table.batches(names, problems=problems, size=size):
            yield start, Columns(frame)


def assembled(plan: Plan, parts: tuple[Part, ...], reading: Reading) -> Features:
    """Fitted parts as features, whose form now has its sizes."""
    lists = [part for part in parts if isinstance(part, Sequence)]
    if lists and plan.window is None:
        steps = max(part.steps for part in lists)
        parts = tuple(replace(part, steps=steps) for part in lists)
    width = sum(len(part.names) for part in parts)
    if plan.form == "row":
        return Features(RowInput(width), parts, plan.window, reading)
    if plan.form == "sequence":
        return Features(SequenceInput(plan.window.steps if plan.window else steps, width), parts, plan.window, reading)
    if plan.goal is None:
        raise ValueError("images and tokens have the form that is asked for")
    return Features(plan.goal, parts, plan.window, reading)


def encode_sides(features: Features, sides: Listed[Side], shelf: Shelf) -> list[NDArray[Any]]:
    """x of training, validation and test rows, in the order of their sources."""
    shape, dtype = features.input.shape, np.dtype(features.input.dtype)
    counts = [sum(int(np.count_nonzero(side.where == place)) for side in sides) for place in range(len(PARTS))]
    arrays = [shelf.empty(f"{name}-x", (n, *shape), dtype) for name, n in zip(PARTS, counts, strict=True)]
    filled = [0] * len(PARTS)

    def put(rows: NDArray[Any], where: NDArray[np.uint8]) -> None:
        for place, array in enumerate(arrays):
            chosen = np.flatnonzero(where == place)
            if len(chosen):
                end = filled[place] + len(chosen)
                rows.take(chosen, axis=0, out=array[filled[place] : end], mode="clip")  # checked modes copy twice
                filled[place] = end

    for at, side in enumerate(sides):
        if features.window is None and features.vectors:
            _vectors(features, side, put)
        elif features.window is None:
            for start, frame in side.table.batches(features.columns, size=_batch(features)):
                put(features.encode_rows(frame, side.source.folder), side.where[start : start + len(frame)])
        else:
            _windows(features, side, shelf, f"rows-{at}", put)
    return arrays


def _batch(features: Features) -> int:
    row = int(np.prod(features.input.shape)) * 4
    return max(256, min(BATCH, ENCODED // max(1, row)))


def _vectors(features: Features, side: Side, put: Any) -> None:
    """Block by block, each small enough to stay at hand until its rows are where they belong."""
    width = len(features.names)
    step = block_rows(width)
    block = np.empty((step, width), dtype=np.float32)
    ready = all(isinstance(part, Filling) for part in features.parts)
    batches = side.table.batches(features.columns, size=_batch(features))
    tables = side.columns(features.columns) if ready else ((start, Columns(frame)) for start, frame in batches)
    for start, table in tables:
        fill = features.filler(table, side.source.folder)
        for at in range(0, len(table), step):
            rows = block[: min(step, len(table) - at)]
            fill(slice(at, at + step), rows)
            put(rows, side.where[start + at : start + at + len(rows)])


def _windows(features: Features, side: Side, shelf: Shelf, name: str, put: Any) -> None:
    """Rows first, each once; then the window of each."""
    window = features.window
    if window is None:
        raise ValueError("features with a window are asked for")
    rows = shelf.empty(name, (side.rows, len(features.names)), np.float32)
    for start, frame in side.table.batches(features.columns):
        rows[start : start + len(frame)] = features.encode_rows(frame, side.source.folder)
    order, begins = side.keys.sorting()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    back = np.arange(window.steps - 1, -1, -1)
    size = _batch(features)
    for start in range(0, side.rows, size):
        at = place[start : start + size]
        seen = order[np.maximum(at[:, None] - back, begins[at][:, None])]
        put(rows[seen], side.where[start : start + size])
    shelf.drop(name)
