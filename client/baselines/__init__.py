"""What a department can do alone without a network: the models that sharing has to beat.

columns      regularised linear, support vectors with a radial kernel, histogram gradient boosting (after LightGBM)
texts        linear on weighted words
tagging      linear on each token and its neighbours
forecasts    the value one season before, linear and boosted, each with the quantiles of held-out residuals
anomalies    principal components, distance by covariance, isolation forest

Each is fitted by scikit-learn and kept as arrays (``models.Model``).  Fitting works on whatever labels the rows hold,
down to a single one, and on a bounded number of rows: more would cost hours and hardly move a model of this size.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from commonroot.client.baselines.columns import fit_label, fit_value
from commonroot.client.baselines.recipe import GRID, LINEAR, TREES, Kind, Recipe
from commonroot.client.baselines.several import fit_labels, fit_values, past
from commonroot.client.baselines.text import fit_bag, fit_window
from commonroot.client.baselines.unusual import fit_distance, fit_isolation, fit_projection
from commonroot.client.data import Rows, learnable
from commonroot.client.models import Model
from commonroot.client.tasks import Forecast, Task
from commonroot.common.errors import ConfigError

__all__ = ["GRID", "MOST_NUMBERS", "MOST_ROWS", "Kind", "Recipe", "bounded", "fit", "recipes"]

#: A baseline is fitted to this many rows at most, evenly drawn; a radial kernel, quadratic in rows, to fewer.
MOST_ROWS: Final = 50_000
MOST_KERNEL_ROWS: Final = 5_000
#: … and to this many numbers at most.
MOST_NUMBERS: Final = 20_000_000
#: Of wider rows no covariance is inverted.
WIDEST_COVARIANCE: Final = 1_000
#: Tables with more cells than this are worth several threads.
MANY_CELLS: Final = 1_000_000
#: Boosted trees are tried on tables of at most this many columns for each row, and this many in all: beyond that some
#: column parts any rows by chance, linear models win, and growing trees takes longer than everything else together.
MOST_COLUMNS_PER_ROW: Final = 8
MOST_TREE_COLUMNS: Final = 2048


def recipes(task: Task, x: NDArray[Any], usual: tuple[Recipe, ...] = GRID) -> tuple[Recipe, ...]:
    """What to try for a task on rows like these; ``usual`` is what ordinary columns get."""
    ids = x.dtype.kind in "iu"
    words = tuple(Recipe("bag", strength) for strength in (0.01, 0.1, 1.0, 10.0))
    if task.learns == "itself":
        shares = tuple(Recipe("projection", share) for share in (0.5, 0.8, 0.95))
        distance = (Recipe("distance"),) if math.prod(x.shape[1:]) <= WIDEST_COVARIANCE else ()
        return (*shares, *distance, Recipe("isolation", 100, 256))
    if task.learns == "tokens":
        return tuple(Recipe("window", strength) for strength in (0.1, 1.0, 10.0))
    if task.learns == "values":
        if ids or not isinstance(task, Forecast):
            return (Recipe("constant"),)
        seasonal = () if past(task, x.shape) is None else (Recipe("seasonal"),)
        return (*seasonal, *LINEAR, TREES, Recipe("constant"))
    if task.learns == "labels":
        return (*words, Recipe("constant")) if ids else (*LINEAR, TREES, Recipe("constant"))
    if ids:
        return (*words, Recipe("constant"))
    usual = tuple(recipe for recipe in usual if recipe.kind != "trees" or _grows(recipe, x))
    return (*usual, Recipe("constant")) if task.kind in ("rating", "life") else usual


def _grows(recipe: Recipe, x: NDArray[Any]) -> bool:
    """Whether boosted trees can part rows like these at all, and do it before the day is over."""
    columns = math.prod(x.shape[1:])
    return len(x) >= 2 * recipe.width and columns <= min(MOST_TREE_COLUMNS, MOST_COLUMNS_PER_ROW * len(x))


def fit(recipe: Recipe, task: Task, rows: Rows) -> Model:
    """Fit one recipe to rows (n, …); rows of a single label or value give a constant.

    Small tables on one thread: more only wait for each other, above all on a shared machine.
    """
    rows = bounded(learnable(task, rows), most=MOST_KERNEL_ROWS if recipe.kind == "rbf" else MOST_ROWS)
    if not len(rows):
        raise ConfigError("there are no rows to fit a baseline to")
    with _threads().limit(limits=1) if rows.x.size <= MANY_CELLS else nullcontext():
        return _fitted(recipe, task, rows)


@cache
def _threads() -> ThreadpoolController:
    """Who has threads.  Looking through all loaded libraries takes longer than many a fit."""
    return ThreadpoolController()


def _fitted(recipe: Recipe, task: Task, rows: Rows) -> Model:
    x = rows.x
    if recipe.kind == "window":
        return fit_window(recipe, task, x, rows.y)
    if recipe.kind == "bag":
        return fit_bag(recipe, task, x, task.targets(rows.y))
    flat = x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)
    if task.learns == "itself":
        unusual = {"isolation": fit_isolation, "distance": fit_distance}
        return unusual.get(recipe.kind, fit_projection)(recipe, flat)
    y = task.targets(rows.y)
    if task.learns == "values":
        return fit_values(recipe, task, x, y.astype(np.float64))
    if task.learns == "labels":
        return fit_labels(recipe, task, flat, y)
    return fit_value(recipe, flat, y) if task.learns == "value" else fit_label(recipe, task, flat, y)


def bounded(rows: Rows, *, most: int = MOST_ROWS) -> Rows:
    """The rows, or as many drawn from them, in order, as a baseline is fitted to."""
    most = max(1, min(most, MOST_NUMBERS // max(math.prod(rows.x.shape[1:]), 1)))
    if len(rows) <= most:
        return rows
    return rows.take(np.sort(np.random.default_rng(0x626F756E64).choice(len(rows), most, replace=False)))
