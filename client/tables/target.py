"""The target: how its cells are read, what the task learns from them, and every cell that it cannot use.

The task sees the whole target once, for what no split may hide (its labels) and for every problem; then it learns from
the training rows alone, is fitted to their features, and encodes all rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.coded import Once
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.encode import Side
from commonroot.client.tables.features import Features
from commonroot.client.tables.kinds import kind_of_column
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.split import TRAIN
from commonroot.client.tables.text import ITEM
from commonroot.client.tasks.base import Task, TaskConfig
from commonroot.client.tasks.columns import Where
from commonroot.client.tasks.registry import task_class
from commonroot.common.errors import ConfigError, DataError

#: The target column of a table without labels.
NO_LABELS: Final = pl.DataFrame({"label": pl.Series([], dtype=pl.String)})


def cell_kinds(config: DataConfig, look: pl.DataFrame) -> dict[str, str]:
    """How cells of each target column are read: as a ``label``, a ``value``, a ``number`` that may have gaps, or as
    they are (``any``)."""
    learns = task_class(config.goal_kind).learns
    if config.horizon is not None:
        return dict.fromkeys(config.targets, "number")
    if learns == "label":
        return dict.fromkeys(config.targets, "label")
    if learns in ("tokens", "itself"):
        return dict.fromkeys(config.targets, "any")
    if learns == "value" or len(config.targets) > 1:
        return dict.fromkeys(config.targets, "value")
    listed = [name for name in config.targets if _lists(look[name], config, labels=learns == "labels")]
    return dict.fromkeys(config.targets, "any" if listed else "value")


def takes_several(config: DataConfig) -> bool:
    """May the target be a list of columns?"""
    return task_class(config.goal_kind).learns in ("labels", "values")


class Targets:
    """One preparation's target.

    goal  the task's configuration, completed by ``look``
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self.kind = task_class(config.goal_kind)
        self.goal: TaskConfig = config.goal
        self._said: dict[str, Any] | None = None

    @property
    def labels(self) -> bool:
        """Is it one label per row, so that splits can keep their shares?"""
        return self.kind.learns == "label"

    @property
    def comparable(self) -> bool:
        """Can a feature be a copy of it?"""
        return self.kind.learns in ("label", "value") and self._config.horizon is None and self._config.labelled

    def look(self, main: Side, tested: Side | None, problems: Problems) -> None:
        """Learn what the whole table says; set every side's ``y``; add what is wrong with any cell."""
        sides = [main] if tested is None else [main, tested]
        if not self._config.labelled:
            self._look_without(main, tested, problems)
            return
        for side in sides:
            self._look_ahead(side)
            side.once = self._labels_of(side)
        sound = main.target
        if main.once is None:
            usable = self._usable(main.target)
            sound = main.target if usable.all() else main.target.filter(usable)
        if (main.target.width and not len(sound)) or not self._varies(main, sound, problems):
            return
        self.goal = self.goal.seen(sound if main.once is None else _different(main.once))
        task = self._learned(self._telling(sound, main), main, problems)
        if task is None:
            return
        for side in sides:
            found, wrong = self._encoded(task, side)
            side.y = found
            self._said = task.to_json()
            problems.extend(wrong)
            if task.per_token:
                _check_lengths(side, problems)

    def fitted(self, main: Side, features: Features, x: NDArray[Any]) -> Task:
        """The task, learned from the training rows, of which x are the encoded features.

        Raises DataError where they leave nothing to learn.
        """
        goal = self.goal
        if "channel" in type(goal).model_fields and "channel" not in goal.model_fields_set:
            names = features.names
            if self._config.horizon is not None and self._config.targets[0] in names:
                goal = goal.model_copy(update={"channel": names.index(self._config.targets[0])})
        if not self._config.labelled:
            return self.kind.learn(goal, NO_LABELS).fitted_to(x)
        training = self._telling(main.target, main)
        if training is main.target and training.width:
            training = training.filter(pl.Series(main.where == TRAIN))
        try:
            return self.kind.learn(goal, training).fitted_to(x)
        except (DataError, ConfigError) as error:
            raise DataError(f"1 problem(s) in the data:\n  {main.source.name}: {error}") from error

    def encode(self, task: Task, side: Side) -> NDArray[Any]:
        """(rows, …) of every row, ``wide`` where its few labels are kept in bytes; those that belong to no part are not
        used.  Raises DataError."""
        if task.to_json() == self._said and len(side.y) == side.rows:
            return side.y  # what the whole table taught and what its training rows did are the same
        found, wrong = self._encoded(task, side)
        problems = Problems()
        problems.extend(wrong)
        problems.refuse()
        return found

    def _each(self, task: Task, side: Side, where: Where) -> tuple[NDArray[Any], list[Problem]]:
        """Labels that are codes are encoded once each; where one of them is wrong, row by row to say which."""
        if side.once is not None:
            found, wrong = task.encode(_different(side.once), where)
            if not wrong:
                found = _narrow(found)
                return side.once.spread(found, gap=found[0]), []
        return task.encode(side.target, where)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _look_without(self, main: Side, tested: Side | None, problems: Problems) -> None:
        """Where the rows to learn from have no labels: the configuration alone says which there are."""
        task = self.kind.learn(self.goal, NO_LABELS)
        self._said = task.to_json()
        main.y = np.full(main.rows, -1, dtype=np.int64)
        if tested is not None:
            tested.y, wrong = self._encoded(task, tested)
            problems.extend(wrong)

    def _look_ahead(self, side: Side) -> None:
        """Where the target lies ahead: the future of its column as columns of its own."""
        horizon = self._config.horizon
        if horizon is None or not side.rows:
            return
        values = side.target.to_series(0).fill_null(np.nan).to_numpy().astype(np.float64)
        order, begins = side.keys.sorting()
        future, side.keys.last = ahead(values, order, begins, horizon)
        name = side.target.columns[0]
        side.target = pl.DataFrame({f"{name} +{step + 1}": future[:, step] for step in range(horizon)})

    def _labels_of(self, side: Side) -> Once | None:
        """Labels by their different values, where none is missing."""
        if not self.labels or side.target.width != 1 or not side.rows:
            return None
        column = side.target.to_series(0)
        return None if column.null_count() else Once.of(column)

    def _telling(self, target: pl.DataFrame, side: Side) -> pl.DataFrame:
        """What a task learns from: each label once, where how often it comes says nothing."""
        if side.once is None or getattr(self.goal, "weights", None) not in (None, "none"):
            return target
        return _different(side.once)

    def _varies(self, main: Side, sound: pl.DataFrame, problems: Problems) -> bool:
        """Labels that can be told apart; a problem for too few or too many."""
        if not self.labels:
            return True
        column = sound.to_series(0)
        different = column.n_unique() if main.once is None else len(main.once.values)

        def wrong(found: str, expected: str, fix: str) -> None:
            problems.add(Problem(file=main.source.name, column=column.name, found=found, expected=expected, fix=fix))

        if different < 2:
            wrong(f"{different} label", "at least two", "one class alone cannot be learned")
            return False
        if self.kind.kind == "binary" and different > 2 and not getattr(self.goal, "labels", None):
            wrong(f"{different} labels", "two", 'use task = "classification"')
            return False
        return True

    def _usable(self, target: pl.DataFrame) -> pl.Series:
        """Rows without a gap in their target; what is wrong with the others was told when they were read.

        What a task reads as it is may have gaps.
        """
        held = pl.Series(np.ones(len(target), dtype=np.bool_))
        for column in target.get_columns():
            if column.dtype.is_float() and self.kind.learns != "itself":
                held &= column.is_finite().fill_null(False)
            elif self.labels:
                held &= column.is_not_null()
        return held

    def _learned(self, sound: pl.DataFrame, main: Side, problems: Problems) -> Task | None:
        try:
            return self.kind.learn(self.goal, sound)
        except (DataError, ConfigError) as error:
            if not problems:
                column = main.target.columns[0] if main.target.width else None
                fix = "mend the column or [data.task]"
                found, expected = str(error), "a target that can be learned from"
                problems.add(Problem(file=main.source.name, column=column, found=found, expected=expected, fix=fix))
            return None

    def _encoded(self, task: Task, side: Side) -> tuple[NDArray[Any], list[Problem]]:
        if not side.target.width:
            return np.full(side.rows, -1, dtype=np.int64), []
        where = Where(side.source.name, side.source.first_row)
        usable = None if side.once is not None else self._usable(side.target)
        if usable is None or usable.all():
            return self._each(task, side, where)
        found, wrong = task.encode(side.target.filter(usable), where)
        at = np.flatnonzero(usable.to_numpy())
        out = np.zeros((side.rows, *found.shape[1:]), dtype=found.dtype)
        out[at] = found

        def moved(one: Problem) -> Problem:
            return one if one.row is None else replace(one, row=int(at[one.row - where.first]) + where.first)

        return out, [moved(one) for one in wrong]


def _narrow(found: NDArray[Any]) -> NDArray[Any]:
    """Positions that fit into a byte as such, of which there is one for each row until rows are parted."""
    fits = found.dtype == np.int64 and found.ndim == 1 and found.min() >= 0 and found.max() <= np.iinfo(np.uint8).max
    return found.astype(np.uint8) if fits else found


def wide(y: NDArray[Any]) -> NDArray[Any]:
    """As the task encodes it."""
    return y.astype(np.int64) if y.dtype == np.uint8 else y


def _different(once: Once) -> pl.DataFrame:
    """One row for each label."""
    return once.values.to_frame()


def target_frame(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """The target columns as a task reads them: markers of gaps are gaps, a column of rows of numbers is several."""
    learns = task_class(config.goal_kind).learns
    out: list[pl.Series] = []
    for name in config.targets:
        column = frame[name]
        if learns == "itself" and column.dtype == pl.String:
            column = pl.select(pl.when(column.is_in([*config.missing])).then(None).otherwise(column)).to_series()
            column = column.alias(name)
        if learns == "labels" and isinstance(column.dtype, pl.Array) and column.dtype.inner.is_numeric():
            width = column.dtype.shape[0]
            out += [column.arr.get(at).alias(f"{name} {at + 1}") for at in range(width)]
        else:
            out.append(column)
    return pl.DataFrame(out)


def ahead(
    values: NDArray[np.float64], order: NDArray[np.int64], begins: NDArray[np.int64], horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """((n, horizon) the next values of each row's group, (n,) the row of the last of them, or -1 where there is none).

    order, begins  as of ``Window.sorting``; a row with a gap in its future has none
    """
    n = len(values)
    later = np.arange(n)[:, None] + np.arange(1, horizon + 1)[None, :]
    inside = later < n
    later = np.minimum(later, n - 1)
    inside &= begins[later] == begins[:, None]
    future = np.where(inside, values[order][later], np.nan)
    whole = np.isfinite(future).all(axis=1)
    out, last = np.empty((n, horizon)), np.full(n, -1, dtype=np.int64)
    out[order] = future
    last[order] = np.where(whole, order[later[:, -1]], -1)
    return out, last


def _lists(column: pl.Series, config: DataConfig, *, labels: bool) -> bool:
    """Does one cell hold several values?"""
    if column.dtype.is_nested():
        return True
    return labels and kind_of_column(column, missing=config.missing) != "number"


def _check_lengths(side: Side, problems: Problems) -> None:
    """As many tags as tokens in every row."""
    if side.tokens is None:
        return
    target = side.target.to_series(0)
    given = item_counts(target)
    for row in np.flatnonzero(given != side.tokens):
        problems.add(
            Problem(
                file=side.source.name,
                row=int(row) + side.source.first_row,
                column=target.name,
                found=f"{given[row]} tags",
                expected=f"{side.tokens[row]}, one for each token",
                fix="tag every word between blanks",
            )
        )


def item_counts(column: pl.Series) -> NDArray[np.int64]:
    """(n,) items of a list, or words between blanks."""
    if isinstance(column.dtype, pl.Array):
        return np.full(len(column), column.dtype.shape[0], dtype=np.int64)
    listed = isinstance(column.dtype, pl.List)
    counts = column.list.len() if listed else column.cast(pl.String).str.count_matches(ITEM)
    return counts.fill_null(0).to_numpy().astype(np.int64)
