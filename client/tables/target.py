"""The target column: labels to positions, values to numbers, futures of a column to rows of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tasks import TASKS, Regression, Task, sort_labels


def target_kind(config: DataConfig) -> str:
    """How cells of the target are read: as a ``value`` or a ``label``; a future may have gaps, as its past may."""
    if config.task_kind != "regression":
        return "label"
    return "value" if config.horizon is None else "number"


def label_set(config: DataConfig, found: pl.Series) -> tuple[str, ...] | None:
    """Every label in order, or None for a target of numbers."""
    if config.task_kind == "regression":
        return None
    if config.labels is not None:
        return tuple(str(label) for label in config.labels)
    return sort_labels([str(label) for label in found.drop_nulls().unique().to_list()])


def encode_target(target: pl.Series, labels: tuple[str, ...] | None) -> NDArray[Any]:
    """(n,) int64 positions in ``labels``, or float64 values."""
    if labels is None:
        return np.asarray(target.fill_null(np.nan).to_numpy(), dtype=np.float64)
    if not target.dtype.is_integer():
        places = target.replace_strict(list(labels), list(range(len(labels))), default=-1, return_dtype=pl.Int64)
        return np.asarray(places.to_numpy(), dtype=np.int64)
    position = {label: at for at, label in enumerate(labels)}
    different, rows = _different(target)
    return np.array([position.get(str(label), -1) for label in different], dtype=np.int64)[rows]


def learn_task(config: DataConfig, labels: tuple[str, ...] | None, y: NDArray[Any]) -> Task:
    """The task, fitted to the training rows' encoded target."""
    if labels is None:
        return Regression.fitted(y)
    return TASKS[config.task_kind].from_json({"labels": list(labels)})


def check_labels(
    file: str, target: pl.Series, config: DataConfig, labels: tuple[str, ...] | None, first_row: int, *, whole: bool
) -> list[Problem]:
    """Labels outside the list; and, for a whole table, too few different ones or too many."""
    found = Problems()
    if labels is None:
        return []
    name = target.name
    allowed, seen = set(labels), target.drop_nulls().unique()
    strange = seen.filter(pl.Series([str(label) not in allowed for label in seen.to_list()], dtype=pl.Boolean))
    unknown = np.flatnonzero(target.is_in(strange.implode()).fill_null(False).to_numpy())
    for at in unknown[: found.room]:
        length = len(str(target[int(at)]))
        found.add(
            Problem(
                file=file,
                row=int(at) + first_row,
                column=name,
                found=f"a label of {length} character(s) that is not listed",
                expected=f"one of the {len(labels)} labels known",
                fix="mend the label or add it to `labels`",
            )
        )
    out, different = list(found), len(seen)
    if whole and len(target) and different < 2:
        fix = "one class alone cannot be learned"
        out.append(Problem(file=file, column=name, found=f"{different} label", expected="at least two", fix=fix))
    if whole and config.task_kind == "binary" and different > 2:
        fix = 'use task = "classification"'
        out.append(Problem(file=file, column=name, found=f"{different} labels", expected="two", fix=fix))
    return out


def _different(target: pl.Series) -> tuple[list[int | None], NDArray[np.int64]]:
    """(different whole numbers, position of each row's among them)."""
    values = target.fill_null(0).to_numpy()
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if target.null_count() or high - low > 1_000_000:
        unique = target.unique()
        at = target.replace_strict(unique, list(range(len(unique))), return_dtype=pl.Int64)
        return unique.to_list(), np.asarray(at.to_numpy(), dtype=np.int64)
    return list(range(low, high + 1)), (values - low).astype(np.int64)


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
