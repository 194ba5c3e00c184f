"""Baselines of one label or one value per row, on rows flattened to columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC, SVR

from commonroot.client.baselines.recipe import Recipe
from commonroot.client.models import UNSEEN, Model
from commonroot.client.tasks import Task

ClassWeights = str | dict[int, float] | None
#: Rounds of boosting; with many classes each round grows one tree per class, so it gets fewer.
MOST_TREES: Final = 600


def fit_label(recipe: Recipe, task: Task, x: NDArray[Any], y: NDArray[Any]) -> Model:
    """Rows of a single label give a constant."""
    present, y = np.unique(y, return_inverse=True)
    if len(present) == 1 or recipe.kind == "constant":
        return _shares(task, present, y)
    weights = class_weights(task, present)
    model = _CLASSIFIERS[recipe.kind](recipe, x, y.astype(np.int64), len(present), weights)
    return Model(model.kind, {**model.arrays, "present": present.astype(np.int64)})


def class_weights(task: Task, present: NDArray[Any]) -> ClassWeights:
    """How much rows of each label count, as scikit-learn takes it.

    present  positions of the labels that the rows have, in the order in which scikit-learn sees them
    """
    weights = getattr(task, "weights", None)
    if weights is None:
        return None
    if getattr(task, "expected", None) is None:
        return "balanced"
    return {at: float(weights[label]) for at, label in enumerate(present)}


def fit_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    """Rows of a single value give a constant; so does the recipe ``constant``, their mean."""
    if np.ptp(y) == 0 or recipe.kind == "constant":
        return Model("constant", {"values": np.array([y[0] if np.ptp(y) == 0 else y.mean()], dtype=np.float64)})
    return _REGRESSORS[recipe.kind](recipe, x, y.astype(np.float64))


def only_label(task: Task, label: int) -> Model:
    """Rows of one label: that label, as far above the others as any label above one that was never seen."""
    if task.outputs == 1:
        return Model("constant", {"values": np.array([UNSEEN if label else -UNSEEN])})
    values = np.zeros(task.outputs)
    values[label] = UNSEEN
    return Model("constant", {"values": values})


def _shares(task: Task, present: NDArray[Any], y: NDArray[Any]) -> Model:
    """The labels' shares of the rows."""
    if len(present) == 1:
        return only_label(task, int(present[0]))
    logs = np.log(np.bincount(y.astype(np.int64)) / len(y))
    values = logs[1:] - logs[:1] if len(present) == 2 else logs
    return Model("constant", {"values": values, "present": present.astype(np.int64)})


def _linear_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int, weights: ClassWeights) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is good enough for a candidate
        model = LogisticRegression(C=recipe.strength, max_iter=500, class_weight=weights).fit(x, y)
    return Model("linear", {"weight": model.coef_, "bias": model.intercept_})


def _linear_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    model = Ridge(alpha=10.0 / recipe.strength).fit(x, y)
    return Model("linear", {"weight": np.atleast_2d(model.coef_), "bias": np.atleast_1d(model.intercept_)})


def _gamma(recipe: Recipe, x: NDArray[Any]) -> float:
    variance = float(x.var())
    return recipe.width / (x.shape[1] * variance) if variance > 0 else 1.0


def _rbf_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int, weights: ClassWeights) -> Model:
    gamma = _gamma(recipe, x)
    model = SVC(C=recipe.strength, gamma=gamma, class_weight=weights).fit(x, y)
    dual = np.asarray(model.dual_coef_)
    if classes > 2:  # libsvm's packed coefficients as one line per pair (i, j), i < j
        ends = np.concatenate([[0], np.cumsum(model.n_support_)])
        first, second = np.triu_indices(classes, 1)
        lines = np.zeros((len(first), dual.shape[1]))
        for line, i, j in zip(lines, first, second, strict=True):
            line[ends[i] : ends[i + 1]] = dual[j - 1, ends[i] : ends[i + 1]]
            line[ends[j] : ends[j + 1]] = dual[i, ends[j] : ends[j + 1]]
        dual = lines
    arrays = {"support": model.support_vectors_, "dual": dual, "bias": model.intercept_, "gamma": np.array(gamma)}
    return Model("rbf", arrays)


def _rbf_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    gamma = _gamma(recipe, x)
    model = SVR(C=recipe.strength, gamma=gamma).fit(x, y)
    return Model(
        "rbf",
        {
            "support": model.support_vectors_,
            "dual": model.dual_coef_,
            "bias": model.intercept_,
            "gamma": np.array(gamma),
        },
    )


def boosting(recipe: Recipe, outputs: int) -> dict[str, Any]:
    return {
        "learning_rate": recipe.strength,
        "max_iter": max(30, min(100, MOST_TREES // outputs)),
        "max_leaf_nodes": 15,
        "min_samples_leaf": int(recipe.width),
        "early_stopping": False,
        "random_state": 0,
    }


def _trees_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int, weights: ClassWeights) -> Model:
    outputs = 1 if classes == 2 else classes
    model = HistGradientBoostingClassifier(**boosting(recipe, outputs), class_weight=weights).fit(x, y)
    return grown([model], outputs)


def _trees_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    return grown([HistGradientBoostingRegressor(**boosting(recipe, 1)).fit(x, y)], 1)


def grown(models: Sequence[Any], outputs: int) -> Model:
    """The node tables of scikit-learn's trees, padded to one size; a parity test holds this to ``predict``.

    Several models of one output each stand side by side; all have grown the same number of rounds.
    """
    steps = zip(*(model._predictors for model in models), strict=True)
    tables = [tree.nodes for step in steps for trees in step for tree in trees]
    offsets = np.concatenate([np.ravel(np.asarray(m._baseline_prediction, dtype=np.float64)) for m in models])
    nodes = max(len(table) for table in tables)
    own = np.arange(nodes, dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "feature": np.zeros((len(tables), nodes), dtype=np.int32),
        "threshold": np.zeros((len(tables), nodes)),
        "left": np.tile(own, (len(tables), 1)),
        "right": np.tile(own, (len(tables), 1)),
        "value": np.zeros((len(tables), nodes)),
        "offset": offsets,
    }
    for at, table in enumerate(tables):
        inner = np.flatnonzero(table["is_leaf"] == 0)
        arrays["value"][at, : len(table)] = table["value"]
        arrays["feature"][at, inner] = table["feature_idx"][inner]
        arrays["threshold"][at, inner] = table["num_threshold"][inner]
        arrays["left"][at, inner] = table["left"][inner]
        arrays["right"][at, inner] = table["right"][inner]
    if len(offsets) != outputs:
        raise ValueError(f"expected {outputs} offsets of the boosted trees, found {len(offsets)}")
    return Model("trees", arrays)


_CLASSIFIERS: Final = {"linear": _linear_labels, "rbf": _rbf_labels, "trees": _trees_labels}
_REGRESSORS: Final = {"linear": _linear_value, "rbf": _rbf_value, "trees": _trees_value}
