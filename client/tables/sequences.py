"""Sequences: list columns brought to one length, and windows of a row and those before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.dates import seconds
from commonroot.client.tables.numbers import Moments, Scaler
from commonroot.client.tables.part import Arrays, Picked


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list column as (n, steps, channels): the last ``steps`` items, zeros before a shorter one begins.

    scaler  of the channels, over every item of the training rows
    """

    kind: ClassVar[str] = "sequence"

    column: str
    steps: int
    scaler: Scaler

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        channels = len(self.scaler.centre)
        return (self.column,) if channels == 1 else tuple(f"{self.column} {at}" for at in range(channels))

    def kinds(self) -> dict[str, str]:
        return {self.column: "sequence"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        rows, place, values, lengths = unfold(frame[self.column], len(self.scaler.centre))
        out = np.zeros((len(lengths), self.steps, values.shape[1]), dtype=np.float32)
        at = self.steps - lengths[rows] + place
        kept = at >= 0
        scaled = self.scaler.apply(values[kept])
        out[rows[kept], at[kept]] = np.nan_to_num(scaled, nan=0.0)
        return out

    def to_json(self) -> dict[str, Any]:
        return {"column": self.column, "steps": self.steps}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"centre": self.scaler.centre, "scale": self.scaler.scale}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        return cls(str(record["column"]), int(record["steps"]), Scaler(arrays["centre"], arrays["scale"]))


def unfold(
    series: pl.Series, channels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """(row of each item, its place in it, its (channels,) values, length of every row) of a list or array column."""
    dtype = series.dtype
    if isinstance(dtype, pl.Array):
        values = np.asarray(series.to_numpy(), dtype=np.float64)
        n, steps = values.shape[:2]
        rows = np.repeat(np.arange(n), steps)
        return rows, np.tile(np.arange(steps), n), values.reshape(n * steps, -1), np.full(n, steps)
    lengths = series.list.len().fill_null(0).to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(series)), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(lengths) else np.zeros(0, dtype=np.int64)
    items = series.drop_nulls().filter(series.drop_nulls().list.len() > 0).explode()
    if items.dtype.is_nested():  # a list of steps, each a list of channels
        items = items.cast(pl.List(pl.Float64)).list.to_array(channels)
        values = np.asarray(items.to_numpy(), dtype=np.float64).reshape(-1, channels)
    else:
        values = items.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()[:, None]
    return rows, np.arange(len(rows)) - starts[rows], values, lengths


def channels_of(series: pl.Series) -> int:
    """How many numbers an item of a list or array column holds."""
    dtype = series.dtype
    if isinstance(dtype, pl.Array):
        return int(np.prod(dtype.shape[1:], dtype=int))
    inner = getattr(dtype, "inner", None)
    if isinstance(inner, pl.Array):
        return int(np.prod(inner.shape, dtype=int))
    if isinstance(inner, pl.List):
        widths = series.explode().list.len().drop_nulls()
        return int(widths[0]) if len(widths) else 1
    return 1


class SequenceFitter:
    """Moments of a list column's items."""

    def __init__(self, column: str, steps: int | None, channels: int) -> None:
        self._column, self._steps, self._channels = column, steps, channels
        self._moments = Moments(channels)
        self._longest = 0
        self._fault: tuple[str, str, str, str] | None = None

    def add(self, frame: pl.DataFrame | Picked) -> None:
        try:
            _, _, values, lengths = unfold(frame[self._column], self._channels)
            self._moments.add(values)
        except (pl.exceptions.PolarsError, ValueError, TypeError):
            fix = "store lists of numbers, each step with the same channels"
            self._fault = (self._column, "lists that are no sequences", f"{self._channels} number(s) a step", fix)
            return
        if np.isinf(values).any():
            self._fault = (self._column, "infinity in a list", "finite numbers", "mend the lists")
        self._longest = max(self._longest, int(lengths.max(initial=0)))

    def faults(self) -> list[tuple[str, str, str, str]]:
        if self._fault is not None:
            return [self._fault]
        if not self._moments.count.all():
            return [(self._column, "no value at all", "lists of numbers", "leave the column out of `features`")]
        return []

    def notes(self) -> list[str]:
        return []

    def done(self) -> Sequence:
        scaler = Scaler.of_moments(self._moments.mean, self._moments.spread, scaling="columns")
        return Sequence(self._column, self._steps or self._longest, scaler)


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows are seen together: the last ``steps`` of a group, in order, up to each row.

    form   how the order column is written, where it is text
    """

    order: str
    steps: int
    group: str | None = None
    form: str | None = None
    order_kind: str = "number"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.order,) if self.group is None else (self.order, self.group)

    def kinds(self) -> dict[str, str]:
        return {self.order: self.order_kind} | ({} if self.group is None else {self.group: "category"})

    def sorting(self, frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row at each place when sorted by group and order, place at which the group of each place begins)."""
        when = order_values(frame[self.order], self.form)
        if self.group is None:
            group = np.zeros(len(frame), dtype=np.int64)
        else:
            group = frame[self.group].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        order = np.lexsort((when, group))
        sorted_group = group[order]
        begins = np.searchsorted(sorted_group, sorted_group)
        return order.astype(np.int64), begins.astype(np.int64)

    def positions(self, order: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, steps) sorted positions of each sorted row's window, oldest first; the first row repeated before it."""
        back = np.arange(len(order))[:, None] - np.arange(self.steps - 1, -1, -1)[None, :]
        return np.asarray(np.maximum(back, begins[:, None]), dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        return {
            "order": self.order,
            "steps": self.steps,
            "group": self.group,
            "form": self.form,
            "order_kind": self.order_kind,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        group, form = record["group"], record["form"]
        return cls(
            str(record["order"]),
            int(record["steps"]),
            None if group is None else str(group),
            None if form is None else str(form),
            str(record["order_kind"]),
        )


def order_values(series: pl.Series, form: str | None) -> NDArray[np.float64]:
    """(n,) numbers in whose order the rows stand, NaN where there is none."""
    if series.dtype.is_numeric():
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return seconds(series, form)
