"""Baselines for anomalies: what the main directions of normal rows cannot explain, what is far from their mean, and
what is quickly isolated."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest

from commonroot.client.baselines.recipe import Recipe
from commonroot.client.models import Model

Array = NDArray[Any]
#: Wider rows than this get this many directions at most, found by random projections.
_WIDE: Final = 2048
_MOST_DIRECTIONS: Final = 64
#: A direction's variance is at least this share of the greatest, and at least this.
_LEAST_SHARE: Final = 1e-9
_LEAST_VARIANCE: Final = 1e-12


def fit_projection(recipe: Recipe, x: Array) -> Model:
    """The fewest principal components that hold ``strength`` of the variance, and never all of them."""
    centre = x.mean(axis=0)
    if x.shape[1] > _WIDE:
        most = min(_MOST_DIRECTIONS, len(x) - 1)
        pca = PCA(n_components=max(most, 1), svd_solver="randomized", random_state=0).fit(x)
        directions, variances, total = pca.components_, pca.explained_variance_ratio_, 1.0
    else:
        values, vectors = np.linalg.eigh((x - centre).T @ (x - centre) / max(len(x), 1))
        directions, variances = vectors[:, ::-1].T, np.maximum(values[::-1], 0.0)
        total = float(variances.sum()) or 1.0
    enough = int(np.searchsorted(np.cumsum(variances) / total, recipe.strength)) + 1
    kept = min(enough, len(directions), x.shape[1] - 1)
    return Model("projection", {"centre": centre, "directions": np.ascontiguousarray(directions[:kept])})


def fit_distance(recipe: Recipe, x: Array) -> Model:
    """log of (x - mean)ᵀ Σ⁻¹ (x - mean): Hotelling's T² over all directions, where T² and Q of process control meet.

    Σ is shrunk towards a multiple of one by as much as the rows' scatter asks for (Ledoit, Wolf, 2004), so it can be
    inverted however few they are.
    """
    values, vectors = np.linalg.eigh(LedoitWolf().fit(x).covariance_)
    least = max(float(values[-1]) * _LEAST_SHARE, _LEAST_VARIANCE)  # columns that never vary
    directions = vectors.T / np.sqrt(np.maximum(values, least))[:, None]
    return Model("distance", {"centre": x.mean(axis=0), "directions": np.ascontiguousarray(directions)})


def fit_isolation(recipe: Recipe, x: Array) -> Model:
    """Isolation forest (Liu, Ting, Zhou, 2008): log of its score 2^(-mean depth / c), as trees that are summed."""
    seen = min(int(recipe.width), len(x))
    forest = IsolationForest(n_estimators=int(recipe.strength), max_samples=seen, random_state=0).fit(
        x.astype(np.float32)
    )
    trees = [tree.tree_ for tree in forest.estimators_]
    nodes = max(tree.node_count for tree in trees)
    own = np.tile(np.arange(nodes, dtype=np.int32), (len(trees), 1))
    arrays: dict[str, Array] = {
        "feature": np.zeros((len(trees), nodes), dtype=np.int32),
        "threshold": np.zeros((len(trees), nodes)),
        "left": own,
        "right": own.copy(),
        "value": np.zeros((len(trees), nodes)),
        "offset": np.zeros(1),
    }
    factor = math.log(2.0) / (len(trees) * max(float(_expected(np.array([seen]))[0]), 1e-12))
    for at, tree in enumerate(trees):
        inner = np.flatnonzero(tree.children_left >= 0)
        arrays["feature"][at, inner] = tree.feature[inner]
        arrays["threshold"][at, inner] = tree.threshold[inner]
        arrays["left"][at, inner] = tree.children_left[inner]
        arrays["right"][at, inner] = tree.children_right[inner]
        depth = np.zeros(tree.node_count)
        for node in inner:  # children stand after their parent
            depth[tree.children_left[node]] = depth[tree.children_right[node]] = depth[node] + 1
        arrays["value"][at, : tree.node_count] = -factor * (depth + _expected(tree.n_node_samples))
    return Model("isolation", arrays)


def _expected(rows: Array) -> NDArray[np.float64]:
    """c(n) = 2·(ln(n - 1) + γ) - 2·(n - 1)/n, the mean depth of n rows in a random tree; 1 for 2 rows, 0 for one."""
    n = np.maximum(np.asarray(rows, dtype=np.float64), 3.0)
    found = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(rows > 2, found, np.where(rows == 2, 1.0, 0.0))
