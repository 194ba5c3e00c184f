"""Which rows are for training, for choosing and for the report: the configured split, checked and carried out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.config import DataConfig, SplitConfig
from commonroot.client.tables.dates import find_format
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.sequences import Window, order_values
from commonroot.client.tables.split import (
    LEFT_OUT,
    TRAIN,
    Parts,
    place_rows,
    split_groups,
    split_time,
    where_of,
)

if TYPE_CHECKING:
    from commonroot.client.tables.encode import Side

#: Clocks differ: dates up to this far ahead are no future.
_AHEAD = 2 * 86_400.0


@dataclass(slots=True)
class Keys:
    """The columns that split and windows read, of every row.

    last  (rows,) row of the end of each row's target, where the target lies ahead; -1 where it has none
    """

    frame: pl.DataFrame
    window: Window | None
    last: NDArray[np.int64] | None = None

    def sorting(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As of ``Window.sorting``."""
        if self.window is None:
            raise ValueError("rows are sorted for windows")
        return self.window.sorting(self.frame)


def chosen_split(config: DataConfig, *, labels: bool) -> SplitConfig:
    """The split asked for, or what suits: by time for futures, by group for windows, else by label or at random.

    Windows of one group share rows, so parting them at random would test on what was trained on.
    """
    if config.split is not None:
        return config.split
    if config.window is not None and (config.horizon is not None or config.window.group is None):
        return SplitConfig(kind="time", column=config.window.order)
    if config.window is not None:
        return SplitConfig(kind="grouped", column=config.window.group)
    return SplitConfig(kind="stratified" if labels else "random")


def part_rows(side: Side, config: DataConfig, labels: bool, problems: Problems) -> None:
    """Set ``side.where``; problems added where the rows cannot be parted as asked."""
    n = side.rows
    if not config.labelled:  # nothing can be chosen by them, nor tested on them
        side.where = np.full(n, TRAIN, dtype=np.uint8)
        return
    split = chosen_split(config, labels=labels)
    test = 0 if config.test_path is not None else config.test_rows or max(1, round(config.test_share * n))
    parts: Parts
    if split.kind == "grouped":
        group = side.keys.frame[str(split.column)]
        if not _enough(side, str(split.column), group.n_unique(), bool(test), "groups", problems):
            return
        codes = group.fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
        parts = split_groups(codes, test=test, validation=config.validation_share, seed=config.split_seed)
    elif split.kind == "time":
        when = _when(side, str(split.column), problems)
        if when is None or not _enough(side, str(split.column), len(np.unique(when)), bool(test), "times", problems):
            return
        parts = split_time(when, test=test, validation=config.validation_share)
    else:
        stratify = split.kind == "stratified"
        if stratify and not labels:
            fix = 'use split = "random"'
            found = "a stratified split of numbers"
            problems.add(Problem(file=side.source.name, found=found, expected="labels", fix=fix))
            return
        side.where = place_rows(
            side.y, test=test, validation=config.validation_share, seed=config.split_seed, stratify=stratify
        )
        _purge(side, problems)
        return
    side.where = where_of(parts, n)
    _purge(side, problems)


def _purge(side: Side, problems: Problems) -> None:
    """Rows without a future, and those whose future lies in another part, belong to none."""
    last = side.keys.last
    if last is None:
        return
    where = side.where.copy()
    side.where[(last < 0) | (where[last] != where)] = LEFT_OUT
    for place, name in enumerate(("training", "validation", "test")):
        if not (side.where == place).any() and (where == place).any():
            found = f"no {name} rows whose future is known"
            fix = "shorten the horizon or keep more rows for that part"
            problems.add(Problem(file=side.source.name, found=found, expected="at least one", fix=fix))


def _enough(side: Side, column: str, found: int, tested: bool, what: str, problems: Problems) -> bool:
    needed = 3 if tested else 2
    if found >= needed:
        return True
    fix = "choose another split"
    problems.add(
        Problem(
            file=side.source.name,
            column=column,
            found=f"{found} different {what}",
            expected=f"at least {needed} to part",
            fix=fix,
        )
    )
    return False


def _when(side: Side, column: str, problems: Problems) -> NDArray[np.float64] | None:
    """When each row was; None with problems added for rows that have no time, or one that has not come yet."""
    series = side.keys.frame[column]
    form = find_format(series, share=0.5) if series.dtype == pl.String else None
    when = order_values(series, form)
    rows, before = side.source.first_row, problems.count
    gaps = np.flatnonzero(~np.isfinite(when))
    future = np.flatnonzero(when > time.time() + _AHEAD) if not series.dtype.is_numeric() else gaps[:0]
    for positions, found, expected in ((gaps, "no time", "a time"), (future, "a time in the future", "a past one")):
        shown = positions[: problems.room]
        for at in shown:
            row = int(at) + rows
            fix = "mend the cell or drop the row"
            problems.add(
                Problem(file=side.source.name, row=row, column=column, found=found, expected=expected, fix=fix)
            )
        problems.more(len(positions) - len(shown))
    return when if problems.count == before else None


def check_later(main: Side, tested: Side, config: DataConfig, problems: Problems) -> None:
    """Test rows of a split by time lie after all others, or a model would be tested on what was before it."""
    if config.split is None or config.split.kind != "time":
        return
    column = str(config.split.column)
    earlier, later = _when(main, column, problems), _when(tested, column, problems)
    if earlier is None or later is None or not len(earlier) or not len(later):
        return
    early = np.flatnonzero(later <= earlier.max())
    shown = early[: problems.room]
    problems.more(len(early) - len(shown))
    for at in shown:
        problems.add(
            Problem(
                file=tested.source.name,
                row=int(at) + tested.source.first_row,
                column=column,
                found="a time before the end of the training rows",
                expected="a later one",
                fix="move the row to the training table",
            )
        )
