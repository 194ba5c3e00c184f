"""What a department can do alone without a network: the models that sharing has to beat.

linear  L2-regularised logistic regression, or ridge regression
rbf     support vector machine with a radial kernel
trees   histogram gradient boosting (scikit-learn's, after LightGBM)

Each is fitted by scikit-learn and kept as arrays (``models.Model``).  Fitting works on whatever labels the rows hold,
down to a single one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from commonroot.client.data import Rows
from commonroot.client.models import UNSEEN, Model
from commonroot.client.tasks import Binary, Task

Kind = Literal["linear", "rbf", "trees"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of baseline and its hyper-parameters.

    strength  linear: C of logistic regression (1/α·10 of ridge); rbf: C; trees: learning rate
    width     rbf: γ as a multiple of 1/(columns·variance); trees: fewest rows of a leaf; unused by linear
    """

    kind: Kind
    strength: float
    width: float = 0.0

    def __str__(self) -> str:
        names = {"linear": "regularised linear", "rbf": "RBF support vectors", "trees": "boosted trees"}
        return names[self.kind]


#: What is tried, a few steps each way from values that do well on many tables.
GRID: Final[tuple[Recipe, ...]] = (
    *(Recipe("linear", strength) for strength in (0.01, 0.1, 1.0, 10.0)),
    *(Recipe("rbf", strength, width) for strength in (1.0, 10.0) for width in (0.3, 1.0, 3.0)),
    Recipe("trees", 0.1, 5),
    Recipe("trees", 0.1, 20),
)
#: Rounds of boosting; with many classes each round grows one tree per class, so it gets fewer.
MOST_TREES: Final = 600
#: Tables with more cells than this are worth several threads.
MANY_CELLS: Final = 1_000_000


def fit(recipe: Recipe, task: Task, rows: Rows) -> Model:
    """Fit one recipe to rows; rows of a single label or value give a constant."""
    x, y = rows.x.astype(np.float64), task.targets(rows.y)
    if task.kind == "regression":
        if np.ptp(y) == 0:
            return Model("constant", {"values": np.array([y[0]], dtype=np.float64)})
        return _REGRESSORS[recipe.kind](recipe, x, y.astype(np.float64))
    present, y = np.unique(y, return_inverse=True)
    if len(present) == 1:
        return _only(task, int(present[0]))
    model = _CLASSIFIERS[recipe.kind](recipe, x, y.astype(np.int64), len(present))
    return Model(model.kind, {**model.arrays, "present": present.astype(np.int64)})


def _only(task: Task, label: int) -> Model:
    """Rows of one label: that label, as far above the others as any label above one that was never seen."""
    if isinstance(task, Binary):
        return Model("constant", {"values": np.array([UNSEEN if label else -UNSEEN])})
    values = np.zeros(task.outputs)
    values[label] = UNSEEN
    return Model("constant", {"values": values})


def _linear_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is good enough for a candidate
        model = LogisticRegression(C=recipe.strength, max_iter=500).fit(x, y)
    return Model("linear", {"weight": model.coef_, "bias": model.intercept_})


def _linear_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    model = Ridge(alpha=10.0 / recipe.strength).fit(x, y)
    return Model("linear", {"weight": np.atleast_2d(model.coef_), "bias": np.atleast_1d(model.intercept_)})


def _gamma(recipe: Recipe, x: NDArray[Any]) -> float:
    variance = float(x.var())
    return recipe.width / (x.shape[1] * variance) if variance > 0 else 1.0


def _rbf_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int) -> Model:
    gamma = _gamma(recipe, x)
    model = SVC(C=recipe.strength, gamma=gamma).fit(x, y)
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


@contextlib.contextmanager
def _threads(x: NDArray[Any]) -> Iterator[None]:
    """Grow trees of small tables on one thread: more only wait for each other, above all on a shared machine."""
    with threadpool_limits(limits=1) if x.size <= MANY_CELLS else contextlib.nullcontext():
        yield


def _boosting(recipe: Recipe, outputs: int) -> dict[str, Any]:
    return {
        "learning_rate": recipe.strength,
        "max_iter": max(30, min(100, MOST_TREES // outputs)),
        "max_leaf_nodes": 15,
        "min_samples_leaf": int(recipe.width),
        "early_stopping": False,
        "random_state": 0,
    }


def _trees_labels(recipe: Recipe, x: NDArray[Any], y: NDArray[Any], classes: int) -> Model:
    outputs = 1 if classes == 2 else classes
    with _threads(x):
        return _grown(HistGradientBoostingClassifier(**_boosting(recipe, outputs)).fit(x, y), outputs)


def _trees_value(recipe: Recipe, x: NDArray[Any], y: NDArray[Any]) -> Model:
    with _threads(x):
        return _grown(HistGradientBoostingRegressor(**_boosting(recipe, 1)).fit(x, y), 1)


def _grown(model: Any, outputs: int) -> Model:
    """The node tables of scikit-learn's trees, padded to one size; a parity test holds this to ``predict``."""
    tables = [tree.nodes for step in model._predictors for tree in step]
    nodes = max(len(table) for table in tables)
    own = np.arange(nodes, dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "feature": np.zeros((len(tables), nodes), dtype=np.int32),
        "threshold": np.zeros((len(tables), nodes)),
        "left": np.tile(own, (len(tables), 1)),
        "right": np.tile(own, (len(tables), 1)),
        "value": np.zeros((len(tables), nodes)),
        "offset": np.ravel(np.asarray(model._baseline_prediction, dtype=np.float64)),
    }
    for at, table in enumerate(tables):
        inner = np.flatnonzero(table["is_leaf"] == 0)
        arrays["value"][at, : len(table)] = table["value"]
        arrays["feature"][at, inner] = table["feature_idx"][inner]
        arrays["threshold"][at, inner] = table["num_threshold"][inner]
        arrays["left"][at, inner] = table["left"][inner]
        arrays["right"][at, inner] = table["right"][inner]
    if len(arrays["offset"]) != outputs:
        raise ValueError(f"expected {outputs} offsets of the boosted trees, found {len(arrays['offset'])}")
    return Model("trees", arrays)


_CLASSIFIERS: Final = {"linear": _linear_labels, "rbf": _rbf_labels, "trees": _trees_labels}
_REGRESSORS: Final = {"linear": _linear_value, "rbf": _rbf_value, "trees": _trees_value}
