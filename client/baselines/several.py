"""Baselines of several outputs per row: labels that may hold together, and values at several steps."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from commonroot.client.baselines.columns import boosting, grown
from commonroot.client.baselines.recipe import Recipe
from commonroot.client.models import UNSEEN, Model
from commonroot.client.tasks import Task
from commonroot.common.errors import ConfigError

Array = NDArray[Any]
#: Fewer rows than this cannot spare a quarter to measure residuals on.
_FEWEST_TO_HOLD_OUT: Final = 20
#: Trees of several steps see this many rows at most, all steps together.
_MOST_TREE_ROWS: Final = 200_000


def fit_labels(recipe: Recipe, task: Task, x: Any, y: Array) -> Model:
    """A model per label, (n, L) 0/1; a label that all rows or none have is a constant.  ``x`` may be sparse."""
    varies = (y.min(axis=0) < 0.5) & (y.max(axis=0) > 0.5)
    bias = np.where(y[0] > 0.5, UNSEEN, -UNSEEN).astype(np.float64)
    weights = "balanced" if getattr(task, "weights", None) is not None else None
    if recipe.kind == "constant" or not varies.any():
        share = np.clip(y.mean(axis=0), 1e-3, 1.0 - 1e-3)
        return Model("constant", {"values": np.where(varies, np.log(share / (1.0 - share)), bias)})
    if recipe.kind == "trees":
        options = boosting(recipe, y.shape[1])
        found = [
            HistGradientBoostingClassifier(**options, class_weight=weights).fit(x, y[:, at] > 0.5)
            for at in np.flatnonzero(varies)
        ]
        return _some_columns(grown(found, len(found)), varies, bias)
    weight = np.zeros((y.shape[1], x.shape[1]))
    for at in np.flatnonzero(varies):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=recipe.strength, max_iter=500, class_weight=weights).fit(x, y[:, at] > 0.5)
        weight[at], bias[at] = model.coef_[0], model.intercept_[0]
    return Model("linear", {"weight": weight, "bias": bias})


def fit_values(recipe: Recipe, task: Any, x: Array, y: Array) -> Model:
    """One value per step (n, horizon), and the spread of its residuals as quantiles (horizon, quantiles).

    Residuals are those of a quarter of the rows, held out from a first fit, where there are enough rows.
    """
    if recipe.kind == "constant":
        quantiles = np.quantile(y, task.quantiles, axis=0).T
        return Model("constant", {"values": quantiles.ravel()})
    flat = x.reshape(len(x), -1).astype(np.float64)
    order = np.random.default_rng(0x72657369).permutation(len(y))
    held, kept = np.split(order, [len(y) // 4])
    if len(y) < _FEWEST_TO_HOLD_OUT:
        held = kept = order
    first = _steps(recipe, task, x.shape, flat[kept], y[kept])
    left = y[held] - _evaluated(first, flat[held])
    whole = _steps(recipe, task, x.shape, flat, y)
    return Model(whole.kind, {**whole.arrays, "residual": np.quantile(left, task.quantiles, axis=0).T})


def _steps(recipe: Recipe, task: Any, shape: tuple[int, ...], x: Array, y: Array) -> Model:
    if recipe.kind == "seasonal":
        return _seasonal(task, shape, x, y)
    if recipe.kind == "linear":
        model = Ridge(alpha=10.0 / recipe.strength).fit(x, y)
        return Model("linear", {"weight": model.coef_.reshape(y.shape[1], -1), "bias": np.ravel(model.intercept_)})
    few = np.linspace(0, len(x) - 1, min(len(x), max(1, _MOST_TREE_ROWS // y.shape[1]))).astype(np.int64)
    options = boosting(recipe, y.shape[1])
    found = [HistGradientBoostingRegressor(**options).fit(x[few], y[few, at]) for at in range(y.shape[1])]
    return grown(found, y.shape[1])


def past(task: Any, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """(horizon,) flat columns that hold the value one season before each step; None where x does not reach back so far.

    x is (n, steps, channels), its last step the newest, or (n, steps) of the series alone.
    """
    steps, channels = shape[1], shape[2] if len(shape) > 2 else 1
    if len(shape) > 3 or task.season > steps or task.channel >= channels:
        return None
    back = steps - task.season + np.arange(task.horizon) % task.season
    return np.asarray(back * channels + task.channel, dtype=np.int64)


def _seasonal(task: Any, shape: tuple[int, ...], x: Array, y: Array) -> Model:
    """a·(the value one season before) + b: rows are standardised otherwise than the target, so a and b are fitted."""
    at = past(task, shape)
    if at is None:
        raise ConfigError("the rows do not reach back a whole season in that channel")
    before, after = x[:, at].ravel(), y.ravel()
    spread = float(before.var())
    slope = float(((before - before.mean()) * (after - after.mean())).mean() / spread) if spread > 0 else 0.0
    weight = np.zeros((y.shape[1], x.shape[1]))
    weight[np.arange(y.shape[1]), at] = slope
    return Model("linear", {"weight": weight, "bias": np.full(y.shape[1], after.mean() - slope * before.mean())})


def _evaluated(model: Model, x: Array) -> Array:
    from commonroot.client.models import KINDS

    return np.concatenate([KINDS[model.kind](model.arrays, x[at : at + 4096]) for at in range(0, len(x), 4096)])


def _some_columns(model: Model, varies: NDArray[np.bool_], bias: Array) -> Model:
    """Trees of the labels that vary among all labels; the others get trees that say nothing, and their offset."""
    count = len(varies)
    rounds = len(model.arrays["feature"]) // int(varies.sum())
    slots = (np.arange(rounds)[:, None] * count + np.flatnonzero(varies)).ravel()
    nodes = model.arrays["feature"].shape[1]
    own = np.tile(np.arange(nodes, dtype=np.int32), (rounds * count, 1))
    arrays: dict[str, Array] = {"left": own, "right": own.copy()}
    for name in ("feature", "threshold", "value"):
        arrays[name] = np.zeros((rounds * count, nodes), dtype=model.arrays[name].dtype)
    for name, array in arrays.items():
        array[slots] = model.arrays[name]
    offset = bias.copy()
    offset[varies] = model.arrays["offset"]
    return Model("trees", {**arrays, "offset": offset})
