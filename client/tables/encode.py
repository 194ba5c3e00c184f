"""The second pass: every row encoded once, into the part that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from commonroot.client.tables.sequences import Sequence
from commonroot.client.tables.source import BATCH, Reading, Source, Table
from commonroot.client.tables.store import PARTS, Shelf
from commonroot.common.backbone.inputs import RowInput, SequenceInput

#: An encoded batch takes about this many bytes at most.
ENCODED: Final = 16 << 20
#: (part, rows): where the next rows of a part are written.
Room = Callable[[int, int], NDArray[Any]]


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
    parts   the rows of each part, of a table that is held and no longer needed as a whole
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
    parts: list[Columns] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.count

    def at(self, place: int) -> NDArray[np.int64]:
        """Positions of the rows of a part, ascending."""
        return np.flatnonzero(self.where == place)

    def part(self, columns: Listed[str]) -> None:
        """Part the rows of a table that is held, which is let go: a column at a time, so that none is there twice."""
        masks = [pl.Series(self.where == place) for place in range(len(PARTS))]
        parts: list[list[pl.Series]] = [[] for _ in PARTS]
        left = self.table.let_go(columns)
        while left:
            column = left.pop()
            for found, mask in zip(parts, masks, strict=True):
                found.append(column.filter(mask))
        self.parts = [Columns(pl.DataFrame(found[::-1])) for found in parts]

    def apart(self, columns: Listed[str], size: int) -> Iterator[tuple[int, Columns]]:
        """(part, some of its rows), in the order of the source; about ``size`` rows are read at a time."""
        if self.table.held and not self.parts:
            self.part(columns)
        if self.parts:
            for place, part in enumerate(self.parts):
                if len(part) <= size:
                    yield place, part  # with what is known of its columns already
                else:
                    yield from ((place, Columns(some)) for some in part.frame.iter_slices(size))
            return
        for start, frame in self.table.batches(columns, size=size):
            where = self.where[start : start + len(frame)]
            for place in range(len(PARTS)):
                some = frame.filter(pl.Series(where == place))
                if len(some):
                    yield place, Columns(some)


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

    def room(place: int, rows: int) -> NDArray[Any]:
        """Where the next rows of a part belong."""
        begin = filled[place]
        filled[place] = begin + rows
        return arrays[place][begin : begin + rows]

    for at, side in enumerate(sides):
        if features.window is None:
            _rows(features, side, room)
        else:
            _windows(features, side, shelf, f"rows-{at}", room)
    return arrays


def _batch(features: Features) -> int:
    row = int(np.prod(features.input.shape)) * 4
    return max(256, min(BATCH, ENCODED // max(1, row)))


def _rows(features: Features, side: Side, room: Room) -> None:
    """Rows of vectors are written where they belong, in blocks that are small enough to stay at hand."""
    step = block_rows(len(features.names))
    ready = features.vectors and all(isinstance(part, Filling) for part in features.parts)
    size = (side.rows if side.table.held else BATCH) if ready else _batch(features)
    for place, table in side.apart(features.columns, max(1, size)):
        out = room(place, len(table))
        if features.vectors:
            fill = features.filler(table, side.source.folder)
            for at in range(0, len(table), step):
                fill(slice(at, at + step), out[at : at + step])
        else:
            out[...] = features.encode_rows(table.frame, side.source.folder)


def _windows(features: Features, side: Side, shelf: Shelf, name: str, room: Room) -> None:
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
        encoded, where = rows[seen], side.where[start : start + size]
        for one in range(len(PARTS)):
            chosen = np.flatnonzero(where == one)
            if len(chosen):
                encoded.take(chosen, axis=0, out=room(one, len(chosen)), mode="clip")  # checked modes copy twice
    shelf.drop(name)
