"""Baselines on token ids: linear on the words of a text, and per token on its neighbours."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from commonroot.client.baselines.columns import class_weights, only_label
from commonroot.client.baselines.recipe import Recipe
from commonroot.client.baselines.several import fit_labels
from commonroot.client.models import Model
from commonroot.client.tasks import Classification, Task

Array = NDArray[Any]
#: Ids from here on are read as unknown.
MOST_WORDS: Final = 2**18
#: A tagger is fitted to this many tokens at most.
MOST_TOKENS: Final = 100_000
#: Neighbours that a tagger looks at on each side.
REACH: Final = 2


def fit_bag(recipe: Recipe, task: Task, ids: Array, y: Array) -> Model:
    """√count · log((1 + n)/(1 + rows with it)) + 1 of each word, rows of length 1; then the usual linear model."""
    counts = _counts(ids)
    rarity = np.log((1.0 + len(ids)) / (1.0 + np.diff(counts.tocsc().indptr))) + 1.0
    x = counts.copy()
    x.data = np.sqrt(x.data) * rarity[x.indices]
    norm = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    x.data = x.data / np.repeat(np.maximum(norm, 1e-12), np.diff(x.indptr))
    extra: dict[str, Array] = {"rarity": rarity.astype(np.float32)}
    if task.learns == "value":
        model = Ridge(alpha=0.1 / recipe.strength).fit(x, y)
        weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    elif task.learns == "labels":
        found = fit_labels(Recipe("linear", 10.0 * recipe.strength), task, x, y)
        if found.kind == "constant":
            return found
        weight, bias = found.arrays["weight"], found.arrays["bias"]
    else:
        present, y = np.unique(y, return_inverse=True)
        if len(present) == 1:
            return only_label(task, int(present[0]))
        weights = class_weights(task, present)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=10.0 * recipe.strength, max_iter=500, class_weight=weights).fit(x, y)
        weight, bias = model.coef_, model.intercept_
        extra["present"] = present.astype(np.int64)
    return Model("bag", {"weight": weight.astype(np.float32), "bias": bias, **extra})


def fit_window(recipe: Recipe, task: Task, x: Array, y: Array) -> Model:
    """Multinomial logistic regression of each labelled token on it and ``REACH`` neighbours each side."""
    row, at = np.nonzero(y >= 0)
    if len(row) > MOST_TOKENS:
        some = np.sort(np.random.default_rng(0x746F6B).choice(len(row), MOST_TOKENS, replace=False))
        row, at = row[some], at[some]
    if not len(row):
        return Model("constant", {"values": np.zeros((y.shape[1], task.outputs))})
    present, labels = np.unique(y[row, at], return_inverse=True)
    if len(present) == 1:
        values = only_label(_as_classes(task), int(present[0])).arrays["values"]
        return Model("constant", {"values": np.tile(values, (y.shape[1], 1))})
    is_ids = x.dtype.kind in "iu"
    width = int(min(x.max() + 1, MOST_WORDS)) if is_ids else x.shape[2]
    blocks = 2 * REACH + 1
    neighbours = at[:, None] + np.arange(-REACH, REACH + 1)
    inside = (neighbours >= 0) & (neighbours < x.shape[1])
    values = x[row[:, None], np.clip(neighbours, 0, x.shape[1] - 1)]
    if is_ids:
        known = inside & (values < width)
        line, block = np.nonzero(known)
        columns = block * width + values[known]
        used, columns = np.unique(columns, return_inverse=True)
        features: Any = csr_matrix((np.ones(len(line)), (line, columns)), shape=(len(row), len(used)))
    else:
        features = (values * inside[:, :, None]).reshape(len(row), -1).astype(np.float64)
        used = np.arange(features.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=recipe.strength, max_iter=300).fit(features, labels)
    two = len(present) == 2  # one line for the second label
    lines = np.concatenate([np.zeros_like(model.coef_), model.coef_]) if two else model.coef_
    bias = np.concatenate([[0.0], model.intercept_]) if two else model.intercept_
    weight = np.zeros((blocks * width, len(present)), dtype=np.float32)
    weight[used] = lines.T
    arrays = {"reach": np.array(REACH), "weight": weight.reshape(blocks, width, -1), "bias": bias}
    return Model("window", {**arrays, "present": present.astype(np.int64)})


def _counts(ids: Array) -> Any:
    """(n, length) ids to a sparse matrix of counts; padding and ids from ``MOST_WORDS`` on are left out."""
    width = int(min(ids.max(initial=0) + 1, MOST_WORDS))
    row, at = np.nonzero((ids > 0) & (ids < width))
    found = csr_matrix((np.ones(len(row)), (row, ids[row, at])), shape=(len(ids), width))
    found.sum_duplicates()
    return found


def _as_classes(task: Task) -> Task:
    return Classification(tuple(map(str, range(task.outputs))))
