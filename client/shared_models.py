"""Models with something in them that came from the others, as the guard compares them with those trained alone.

A method that trains networks ends in one: the last broadcast, fine-tuned on the department's rows as the method says.
Methods that gather build theirs from what was opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from commonroot.client.alone import network
from commonroot.client.baselines import bounded
from commonroot.client.choice import FEWEST_TO_DECIDE, calibrate
from commonroot.client.data import Prepared, Rows, judged, learnable
from commonroot.client.models import Model
from commonroot.client.probe import probe_head
from commonroot.client.tasks import Task
from commonroot.client.trainer import Private, Trainer, represent
from commonroot.common.charter import Draft
from commonroot.common.errors import TrainingDiverged
from commonroot.strategies.base import Strategy, Tensors

#: Strengths of the head's refit that validation rows choose between; without enough of them, the middle one.
STRENGTHS: Final = (0.1, 1.0, 10.0)
USUAL_STRENGTH: Final = 1.0


@dataclass(frozen=True, slots=True)
class Shared:
    """A candidate with something in it that came from the others.

    name   how it was made, in words
    loss   mean loss on the validation rows, in multiples of the chance loss
    model  fitted to the training rows, calibrated on the validation rows
    fit    fits it to any rows, calibrated so
    anew   the same, with the rounds as they would have been had this department given just these rows; None where
           rounds cannot be undone
    by_part  instead: models of rounds to which nobody gave the rows of a part, one for each; empty where there are none
    common the broadcast as it is, neither fitted nor calibrated on rows of this department
    """

    name: str
    loss: float = field(repr=False)
    model: Model = field(repr=False)
    fit: Callable[[Rows], Model] = field(repr=False)
    anew: Callable[[Rows], Model] | None = field(default=None, repr=False)
    kind: Literal["federated", "family"] = "federated"
    by_part: tuple[Model, ...] = field(default=(), repr=False)
    common: bool = False


def shared_networks(
    draft: Draft,
    strategy: Strategy,
    prepared: Prepared,
    received: Tensors,
    private: Private,
    *,
    secret: int,
    version: int,
    as_is: bool = False,
) -> tuple[Shared, ...]:
    """What the guard compares: the federated model and, for a member of a family, the one with the family's head.

    The first is the best on validation rows of the head that the rounds left and fresh ones, which say nothing of a
    family; with few validation rows a fresh one.  The second keeps the heads of the rounds, the family's and the
    private one together.  Empty where the method shares nothing or nothing converges.

    as_is  the common model where there is one, and nothing of it that was fitted to own rows: those have not all labels
    """
    phases = strategy.finish(draft)
    if not strategy.plan(draft) and not phases:
        return ()
    if as_is and strategy.shares_head:
        return (_common(draft, strategy, prepared, received, private, secret=secret),)
    task, held = prepared.task, judged(prepared.task, prepared.validation, seed=secret)
    columns = prepared.train.x.shape[-1]
    trainer = Trainer(draft, task, secret, strategy.shares_head, columns, strategy.form(draft))

    def tuned(strength: float | None, rows: Rows) -> Model:
        """The strategy's last phases, from the head of the rounds or from a fresh probe in place of its head phases."""
        if strength is None:
            return network(draft, trainer.train(phases, received, private, rows, None, version=version).net)
        some = bounded(learnable(task, rows))
        known = some.x if task.reconstructs else some.y
        seen = represent(draft, received, some.x, private, tokens=task.per_token)
        head = probe_head(task, seen, known, strength=strength)
        fresh = {name: array for name, array in private.items() if name.startswith(("adapter/", "norm/"))}
        fresh |= trainer.own_head(received, head)
        after = [phase for phase in phases if "backbone" in phase.parts]
        return network(draft, trainer.train(after, received, fresh, rows, None, version=version).net)

    def best_of(strengths: tuple[float | None, ...]) -> list[Shared]:
        found: list[Shared] = []
        for strength in strengths:
            try:
                model = tuned(strength, prepared.train)
            except TrainingDiverged:
                continue
            found.append(_calibrated(task, strength, model, held, tuned))
        return sorted(found, key=lambda candidate: candidate.loss)[:1]

    if not phases or strategy.shares_head or any(phase.copy for phase in phases):
        return tuple(best_of((None,)))
    enough = len(prepared.validation) >= FEWEST_TO_DECIDE
    if trainer.in_family(received):
        return (
            *best_of(STRENGTHS if enough else (USUAL_STRENGTH,)),
            *(replace(one, kind="family") for one in best_of((None,))),
        )
    return tuple(best_of((None, *STRENGTHS) if enough else (USUAL_STRENGTH,)))


def _common(
    draft: Draft, strategy: Strategy, prepared: Prepared, received: Tensors, private: Private, *, secret: int
) -> Shared:
    """Backbone and head as they were received."""
    task, columns = prepared.task, prepared.train.x.shape[-1]
    trainer = Trainer(draft, task, secret, strategy.shares_head, columns, strategy.form(draft))
    model, held = network(draft, trainer.net(received, private)), prepared.validation
    loss = float(task.row_losses(model.predict(task, held.x), held.y).mean()) if len(held) else 0.0
    return Shared("the common model as it is", loss, model, lambda rows: model, common=True)


def _calibrated(
    task: Task,
    strength: float | None,
    model: Model,
    held: Rows,
    tuned: Callable[[float | None, Rows], Model],
) -> Shared:
    calibration = calibrate(task, model.outputs(task, held.x), held.y)
    model = calibration.of(model)
    loss = float(task.row_losses(model.predict(task, held.x), held.y).mean()) if len(held) else 0.0
    name = "fine-tuned" if strength is None else f"refitted head (strength {strength:g}), fine-tuned"
    return Shared(name, loss, model, lambda rows: calibration.of(tuned(strength, rows)))
