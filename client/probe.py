"""A head fitted to the final backbone at once: regularised (logistic) regression on its representation.

A linear probe before fine-tuning (LP-FT: Kumar, Raghunathan, Jones, Ma, Liang, 2022, arXiv:2202.10054) keeps good
features from being bent by a head that was trained on a moving backbone, and on two dozen rows it is hard to beat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from commonroot.client.baselines import Recipe, fit
from commonroot.client.data import Rows
from commonroot.client.models import Model, spread
from commonroot.client.tasks import Classification, Task

#: Representations of more tokens than this are thinned out evenly before a head is fitted to them.
MOST_TOKENS = 100_000


def probe_head(
    task: Task, represented: NDArray[np.float32], y: NDArray[np.generic], *, strength: float
) -> dict[str, NDArray[np.float32]]:
    """``weight`` (task.outputs, width) and ``bias`` (task.outputs,) of the regularised fit.

    represented  what the backbone makes of the rows, (n, width), per token (n, length, width); centred and brought to
                 one spread for the fit
    y            of the rows; for a task that reconstructs, the rows themselves
    strength     as in ``baselines.Recipe``; greater fits closer
    """
    fitted: Task = task
    if task.per_token:
        row, at = np.nonzero(np.asarray(y) >= 0)
        some = np.linspace(0, len(row) - 1, min(len(row), MOST_TOKENS)).astype(np.int64)
        represented, y = represented[row[some], at[some]], np.asarray(y)[row[some], at[some]]
        fitted = Classification(tuple(map(str, range(task.outputs))))
    centre = represented.mean(axis=0, dtype=np.float64)
    scale = float(represented.std(dtype=np.float64)) or 1.0
    z = ((represented - centre) / scale).astype(np.float32)
    if task.reconstructs:
        ridge = Ridge(alpha=10.0 / strength).fit(z.astype(np.float64), task.targets(y).astype(np.float64))
        weight, bias = np.atleast_2d(ridge.coef_), np.ravel(ridge.intercept_)
    else:
        model = fit(Recipe("linear", strength), fitted, Rows(z, y))
        weight, bias = _affine(fitted, model, represented.shape[-1])
    weight = weight / scale
    return {"weight": weight.astype(np.float32), "bias": (bias - weight @ centre).astype(np.float32)}


def _affine(task: Task, model: Model, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A linear or constant model over all of the task's outputs.

    Labels that the rows lack get no direction and the least bias less the usual distance, so the head stays linear.
    """
    if model.kind == "constant":
        return np.zeros((task.outputs, width)), np.asarray(model.arrays["values"], dtype=np.float64)
    weight, bias = np.asarray(model.arrays["weight"]), np.asarray(model.arrays["bias"])
    residual = model.arrays.get("residual")
    if residual is not None:  # (steps, quantiles): one line per step, moved up and down
        return np.repeat(weight, residual.shape[1], axis=0), (bias[:, None] + residual).ravel()
    present = model.arrays.get("present")
    if present is None:
        return weight, bias
    if len(present) == task.outputs or task.outputs == 1:
        wide = weight if len(weight) == task.outputs else np.concatenate([np.zeros_like(weight), weight])
        tall = bias if len(weight) == task.outputs else np.concatenate([np.zeros_like(bias), bias])
        return wide, tall
    full_weight = np.zeros((task.outputs, width))
    full_weight[present] = weight if len(weight) > 1 else np.concatenate([np.zeros_like(weight), weight])
    return full_weight, spread(task, bias[None], present)[0]
