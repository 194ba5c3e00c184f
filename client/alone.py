"""The best a department can do alone: every baseline and its local twin, compared on rows they were not fitted to.

With 50 validation rows or more, candidates are fitted to the training rows and compared on the validation rows; with
fewer, by cross-validation over training and validation rows together.  Test rows are not read.

What a department reaches alone is the same under every charter with the same backbone: folds and networks follow from a
seed of their own, and the network is looked at after passes that many methods have in common.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.alone_memory import Basis
from commonroot.client.baselines import GRID, Recipe, fit, recipes
from commonroot.client.choice import Calibration, calibrate
from commonroot.client.data import Prepared, Rows, folds, judged
from commonroot.client.models import NETWORK, Model
from commonroot.client.tasks import Floats, Task
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
class Part:
    """Rows to fit to, and others to be scored on; ``seen`` marks training rows among those, (n,)."""

    fit: Rows
    held: Rows
    seen: NDArray[np.bool_] = field(repr=False)

    @property
    def decides(self) -> list[NDArray[Any]]:
        """What outputs for the held-out rows follow from."""
        return [self.fit.x, self.fit.y, self.held.x]


Parts = Sequence[Part]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to learn alone.

    name         in words
    loss         mean held-out loss after calibration, in multiples of the chance loss
    calibration  found on the same rows
    outputs      for the held-out rows, as the parts list them; not calibrated
    fit          fits it to any rows, calibrated so
    """

    name: str
    loss: float = field(repr=False)
    calibration: Calibration = field(repr=False)
    outputs: Floats = field(repr=False)
    fit: Refit = field(repr=False)


def candidates(
    draft: Draft,
    prepared: Prepared,
    *,
    epochs: int,
    basis: Basis,
    parts: Parts | None = None,
    grid: tuple[Recipe, ...] | None = None,
    ranked: bool = True,
) -> list[Candidate]:
    """Every baseline recipe and the local twin, best first unless ``ranked`` is off.

    epochs  that the federated model was trained for; the twin is trained for about as many (``rounded``), 0: no twin
    parts   to compare on; ``held_out`` where not given
    grid    what ordinary columns get; ``baselines.GRID`` where not given
    """
    parts = held_out(prepared, basis.secret) if parts is None else parts
    y = np.concatenate([part.held.y for part in parts])
    task = prepared.task
    wanted = recipes(task, prepared.train.x, GRID if grid is None else grid)
    found = [_baseline(task, recipe, parts, y, basis) for recipe in _screened(task, wanted, parts, y, basis)]
    if epochs:
        found += _twins(draft, task, parts, y, epochs=rounded(epochs), basis=basis)
    return sorted(found, key=lambda candidate: candidate.loss) if ranked else found


def network(draft: Draft, net: Net) -> Model:
    """A trained network as a stored model."""
    arrays: dict[str, NDArray[np.generic]] = {f"backbone/{name}": array for name, array in net.backbone.items()}
    arrays |= net.private
    about = {"backbone": draft.network.model_dump(mode="json"), "per_token": net.per_token}
    return Model(NETWORK, arrays, network=about)


def held_out(prepared: Prepared, secret: int) -> Parts:
    """Parts whose held-out rows are all different: the validation rows, or folds of all rows that may be learned."""
    task = prepared.task
    if len(prepared.validation) >= ENOUGH_TO_HOLD_OUT:
        held = judged(task, prepared.validation, seed=secret)
        return [Part(prepared.train, held, np.zeros(len(held), dtype=np.bool_))]
    rows = prepared.train.join(prepared.validation)
    trained = np.arange(len(rows)) < len(prepared.train)
    count = min(FOLDS_FEW_ROWS if len(rows) <= FEW_ROWS else FOLDS, len(rows))
    fold = folds(rows.y, count=count, seed=secret, stratify=task.learns == "label")
    parts = []
    for at in range(count):
        sides = [rows.take(np.flatnonzero((fold == at) & (trained == side))) for side in (True, False)]
        seen, fresh = (judged(task, side, seed=secret) if len(side) else side for side in sides)
        mark = np.arange(len(seen) + len(fresh)) < len(seen)
        parts.append(Part(rows.take(np.flatnonzero(fold != at)), seen.join(fresh), mark))
    return parts


def chosen_elsewhere(task: Task, found: Sequence[Candidate], parts: Parts) -> Floats:
    """Predictions for the held-out rows in which each part is predicted by the candidate that is best on the others.

    What was chosen among many on the same rows looks better there than it is; so nobody can say that the model trained
    alone won because it had more tries.  One part alone is predicted by the best.
    """
    y = np.concatenate([part.held.y for part in parts])
    which = np.repeat(np.arange(len(parts)), [len(part.held) for part in parts])
    said = [task.predictive(one.calibration.apply(one.outputs)) for one in found]
    losses = np.stack([task.row_losses(array, y) for array in said])
    out = said[0].copy()
    for at in range(len(parts) if len(parts) > 1 else 0):
        best = int(np.argmin(losses[:, which != at].sum(axis=1)))
        out[which == at] = said[best][which == at]
    return out


def rounded(epochs: int) -> int:
    """The nearest of 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, …, a root of two apart.

    Methods differ by a few passes of their last step; so their departments train one network alone, not many.
    """
    return round(2 ** (round(2 * math.log2(epochs)) / 2))


def _screened(
    task: Task, tried: tuple[Recipe, ...], parts: Parts, y: NDArray[np.generic], basis: Basis
) -> list[Recipe]:
    """Where fitting is slow, hyper-parameters of kernels and trees are chosen on a quarter of the rows to fit.

    One step of successive halving (Jamieson, Talwalkar, 2016, arXiv:1502.07943): what is far off on a quarter of the
    rows is not best on all of them.  The held-out rows are the same.
    """
    if max(part.fit.x.size for part in parts) <= MANY_NUMBERS:
        return list(tried)
    fewer = [Part(part.fit.take(np.arange(0, len(part.fit), SCREENED)), part.held, part.seen) for part in parts]
    found = []
    for kind, group in itertools.groupby(tried, key=lambda recipe: recipe.kind):
        some = list(group)
        if kind in ("rbf", "trees") and len(some) > 1:
            some = [min(some, key=lambda recipe: _baseline(task, recipe, fewer, y, basis).loss)]
        found += some
    return found


def _baseline(task: Task, recipe: Recipe, parts: Parts, y: NDArray[np.generic], basis: Basis) -> Candidate:
    def said(part: Part) -> NDArray[Any]:
        asked = {"recipe": asdict(recipe)}
        return basis.recall(asked, part.decides, lambda: [fit(recipe, task, part.fit).outputs(task, part.held.x)])[0]

    outputs = np.concatenate([said(part) for part in parts])
    found = calibrate(task, outputs, y)
    loss = float(task.row_losses(task.predictive(found.apply(outputs)), y).mean())
    return Candidate(str(recipe), loss, found, outputs, lambda rows: found.of(fit(recipe, task, rows)))


def _twins(
    draft: Draft, task: Task, parts: Parts, y: NDArray[np.generic], *, epochs: int, basis: Basis
) -> list[Candidate]:
    """The local twin after an eighth, a quarter, half and all of the epochs; nothing where its training diverges."""
    looks = sorted({max(1, math.ceil(epochs / share)) for share in (8, 4, 2, 1)})
    secret = basis.secret
    asked = {
        "network": draft.network.model_dump(mode="json"),
        "training": draft.training.model_dump(mode="json"),
        "looks": looks,
        "secret": str(secret),
    }

    def curve(part: Part) -> Sequence[NDArray[Any]]:
        return basis.recall(
            asked,
            part.decides,
            lambda: train_alone(draft, task, part.fit, part.held, secret=secret, epochs=looks).outputs,
        )

    try:
        curves = [curve(part) for part in parts]
    except TrainingDiverged:
        return []
    found = []
    for at, passes in enumerate(looks):
        settled = [task.settled(one[at], part.held.x) for one, part in zip(curves, parts, strict=True)]
        outputs = np.concatenate(settled).astype(np.float64)
        calibration = calibrate(task, outputs, y)
        loss = float(task.row_losses(task.predictive(calibration.apply(outputs)), y).mean())

        def refit(rows: Rows, passes: int = passes, calibration: Calibration = calibration) -> Model:
            net = train_alone(draft, task, rows, None, secret=secret, epochs=[passes]).net
            return calibration.of(network(draft, net))

        found.append(Candidate(f"the same network alone, {passes} epochs", loss, calibration, outputs, refit))
    return found
