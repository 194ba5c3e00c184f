"""The best a department can do alone: every baseline and its local twin, compared on rows they were not fitted to.

With 50 validation rows or more, candidates are fitted to the training rows and compared on the validation rows; with
fewer, by cross-validation over training and validation rows together.  Test rows are not read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.baselines import GRID, Recipe, fit, recipes
from commonroot.client.choice import Calibration, calibrate
from commonroot.client.data import Prepared, Rows, folds, judged
from commonroot.client.models import NETWORK, Model
from commonroot.client.tasks import Task
from commonroot.client.trainer import Net, train_alone
from commonroot.common.charter import Draft
from commonroot.common.errors import TrainingDiverged

ENOUGH_TO_HOLD_OUT: Final = 50
#: Fewer folds once there are more rows than this: each fit is slower and the estimate steadier.
FOLDS_FEW_ROWS, FOLDS, FEW_ROWS = 6, 4, 60
#: With more numbers than this to fit to, hyper-parameters are first tried on one row in ``SCREENED``.
MANY_NUMBERS: Final = 1_000_000
SCREENED: Final = 4

Refit = Callable[[Rows], Model]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to learn alone.

    name         in words
    loss         mean held-out loss after calibration, in multiples of the chance loss
    calibration  found on the same rows
    fit          fits it to any rows, calibrated so
    """

    name: str
    loss: float = field(repr=False)
    calibration: Calibration = field(repr=False)
    fit: Refit = field(repr=False)


def candidates(draft: Draft, prepared: Prepared, *, epochs: int, secret: int) -> list[Candidate]:
    """Every baseline recipe and the local twin, best first.

    epochs  of the twin at most, comparable with what the federated model was trained for; 0 for no twin
    secret  the department's own seed
    """
    parts = _parts(prepared, secret)
    y = np.concatenate([held.y for _, held in parts])
    task = prepared.task
    tried = _screened(task, recipes(task, prepared.train.x, GRID), parts, y)
    found = [_baseline(task, recipe, parts, y) for recipe in tried]
    if epochs:
        found += _twins(draft, task, parts, y, epochs=epochs, secret=secret)
    return sorted(found, key=lambda candidate: candidate.loss)


def network(draft: Draft, net: Net) -> Model:
    """A trained network as a stored model."""
    arrays: dict[str, NDArray[np.generic]] = {f"backbone/{name}": array for name, array in net.backbone.items()}
    arrays |= net.private
    about = {"backbone": draft.network.model_dump(mode="json"), "per_token": net.per_token}
    return Model(NETWORK, arrays, network=about)


def _parts(prepared: Prepared, secret: int) -> list[tuple[Rows, Rows]]:
    """(fit to, score on) pairs; the rows scored on are all different."""
    pairs = _pairs(prepared, secret)
    return [(rows, judged(prepared.task, held, seed=secret)) for rows, held in pairs]


def _pairs(prepared: Prepared, secret: int) -> list[tuple[Rows, Rows]]:
    if len(prepared.validation) >= ENOUGH_TO_HOLD_OUT:
        return [(prepared.train, prepared.validation)]
    rows = prepared.train.join(prepared.validation)
    count = min(FOLDS_FEW_ROWS if len(rows) <= FEW_ROWS else FOLDS, len(rows))
    fold = folds(rows.y, count=count, seed=secret, stratify=prepared.task.learns == "label")
    return [(rows.take(np.flatnonzero(fold != at)), rows.take(np.flatnonzero(fold == at))) for at in range(count)]


def _screened(
    task: Task, tried: tuple[Recipe, ...], parts: list[tuple[Rows, Rows]], y: NDArray[np.generic]
) -> list[Recipe]:
    """Where fitting is slow, hyper-parameters of kernels and trees are chosen on a quarter of the rows to fit.

    One step of successive halving (Jamieson, Talwalkar, 2016, arXiv:1502.07943): what is far off on a quarter of the
    rows is not best on all of them.  The held-out rows are the same.
    """
    if max(rows.x.size for rows, _ in parts) <= MANY_NUMBERS:
        return list(tried)
    fewer = [(rows.take(np.arange(0, len(rows), SCREENED)), held) for rows, held in parts]
    found = []
    for kind, group in itertools.groupby(tried, key=lambda recipe: recipe.kind):
        some = list(group)
        if kind in ("rbf", "trees") and len(some) > 1:
            some = [min(some, key=lambda recipe: _baseline(task, recipe, fewer, y).loss)]
        found += some
    return found


def _baseline(task: Task, recipe: Recipe, parts: list[tuple[Rows, Rows]], y: NDArray[np.generic]) -> Candidate:
    outputs = np.concatenate([fit(recipe, task, rows).outputs(task, held.x) for rows, held in parts])
    found = calibrate(task, outputs, y)
    loss = float(task.row_losses(task.predictive(found.apply(outputs)), y).mean())
    return Candidate(str(recipe), loss, found, lambda rows: found.of(fit(recipe, task, rows)))


def _twins(
    draft: Draft, task: Task, parts: list[tuple[Rows, Rows]], y: NDArray[np.generic], *, epochs: int, secret: int
) -> list[Candidate]:
    """The local twin after an eighth, a quarter, half and all of the epochs; nothing where its training diverges."""
    looks = sorted({max(1, math.ceil(epochs / share)) for share in (8, 4, 2, 1)})
    try:
        curves = [train_alone(draft, task, rows, held, secret=secret, epochs=looks).outputs for rows, held in parts]
    except TrainingDiverged:
        return []
    found = []
    for at, passes in enumerate(looks):
        settled = [task.settled(curve[at], held.x) for curve, (_, held) in zip(curves, parts, strict=True)]
        outputs = np.concatenate(settled).astype(np.float64)
        calibration = calibrate(task, outputs, y)
        loss = float(task.row_losses(task.predictive(calibration.apply(outputs)), y).mean())

        def refit(rows: Rows, passes: int = passes, calibration: Calibration = calibration) -> Model:
            net = train_alone(draft, task, rows, None, secret=secret, epochs=[passes]).net
            return calibration.of(network(draft, net))

        found.append(Candidate(f"the same network alone, {passes} epochs", loss, calibration, refit))
    return found
