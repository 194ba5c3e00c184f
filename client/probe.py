"""A head fitted to the final backbone at once: regularised (logistic) regression on its representation.

A linear probe before fine-tuning (LP-FT: Kumar, Raghunathan, Jones, Ma, Liang, 2022, arXiv:2202.10054) keeps good
features from being bent by a head that was trained on a moving backbone, and on two dozen rows it is hard to beat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from commonroot.client.baselines import Recipe, fit
from commonroot.client.data import Rows
from commonroot.client.models import Model, spread
from commonroot.client.tasks import Task


def probe_head(
    task: Task, represented: NDArray[np.float32], y: NDArray[np.generic], *, strength: float
) -> dict[str, NDArray[np.float32]]:
    """``weight`` (task.outputs, widths[-1]) and ``bias`` (task.outputs,) of the regularised fit.

    represented  (n, widths[-1]), what the backbone makes of the rows; centred and brought to one spread for the fit
    strength     as in ``baselines.Recipe``; greater fits closer
    """
    centre = represented.mean(axis=0, dtype=np.float64)
    scale = float(represented.std(dtype=np.float64)) or 1.0
    z = (represented - centre) / scale
    model = fit(Recipe("linear", strength), task, Rows(z.astype(np.float32), y))
    weight, bias = _affine(task, model, represented.shape[1])
    weight = weight / scale
    return {"weight": weight.astype(np.float32), "bias": (bias - weight @ centre).astype(np.float32)}


def _affine(task: Task, model: Model, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A linear or constant model over all of the task's outputs.

    Labels that the rows lack get no direction and the least bias less the usual distance, so the head stays linear.
    """
    if model.kind == "constant":
        return np.zeros((task.outputs, width)), np.asarray(model.arrays["values"], dtype=np.float64)
    weight, bias = np.asarray(model.arrays["weight"]), np.asarray(model.arrays["bias"])
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
