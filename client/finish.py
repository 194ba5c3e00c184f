"""A department's last step: fine-tune, compare with training alone, choose, and say what came of it.

Which rows each candidate sees
------------------------------
training    everything that is compared was fitted to these alone (cross-validation for few rows: see ``alone``)
validation  choose hyper-parameters, temperatures, and between alone, federated and both; the rounds never saw them
test        score the models once all that is done

Once chosen, the model trained alone and the federated one are both fitted again to training and validation rows; a
method without a fine-tuning step fits neither again, so that none has rows the other lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from commonroot.client import alone as solo
from commonroot.client.choice import FEWEST_TO_DECIDE, Choice, choose, temperature
from commonroot.client.data import Prepared, Rows
from commonroot.client.metrics import POINTS, gain
from commonroot.client.models import Model
from commonroot.client.predictor import Predictor, mix
from commonroot.client.probe import probe_head
from commonroot.client.tasks import Task, score
from commonroot.client.trainer import Private, Trainer, represent
from commonroot.common.charter import Draft
from commonroot.common.errors import TrainingDiverged
from commonroot.strategies.base import Phase, Strategy, Tensors

#: Strengths of the head's refit that validation rows choose between; without enough of them, the middle one.
STRENGTHS: Final = (0.1, 1.0, 10.0)
USUAL_STRENGTH: Final = 1.0


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a department keeps.

    predictor  the chosen model
    report     JSON values: rows, candidates, choice with its reason, test scores, gain with its interval
    """

    predictor: Predictor
    report: dict[str, Any] = field(repr=False)


def conclude(
    draft: Draft,
    strategy: Strategy,
    prepared: Prepared,
    received: Tensors,
    private: Private,
    *,
    secret: int,
    version: int,
) -> Conclusion:
    """Everything after the last round; deterministic for given arguments.

    received, private  the final broadcast and the department's own state
    secret             the department's own seed
    version            of the broadcast
    """
    task = prepared.task
    refits = bool(strategy.finish(draft))
    contenders = solo.candidates(draft, prepared, epochs=_epochs(draft, strategy), secret=secret)
    best = contenders[0]
    ours = best.fit(prepared.train)
    federated = _federated(draft, strategy, prepared, received, private, secret=secret, version=version)
    y = prepared.validation.y
    theirs = None if federated is None else federated.model
    choice = choose(
        task,
        ours.predict(task, prepared.validation.x),
        None if theirs is None else theirs.predict(task, prepared.validation.x),
        y,
    )
    if refits:
        whole = prepared.train.join(prepared.validation)
        ours = best.fit(whole)
        if federated is not None:
            theirs = federated.fit(whole)
    arms: dict[str, tuple[tuple[float, Model], ...]] = {"alone": ((1.0, ours),)}
    if theirs is not None:
        arms |= {"federated": ((1.0, theirs),), "both": ((0.5, ours), (0.5, theirs))}
    report = _report(prepared, contenders, federated, choice, arms, secret)
    about = {name: report[name] for name in ("kept", "reason", "metric", "scores", "gain")} | {
        "federation": draft.federation,
        "charter": draft.name,
        "method": draft.method.name,
        "version": version,
    }
    predictor = Predictor(task, prepared.names, prepared.scaler, arms[choice.kept], about)
    return Conclusion(predictor, report)


@dataclass(frozen=True, slots=True)
class _Federated:
    """The federated candidate: how its head began, the model on training rows, and how to fit it to others."""

    name: str
    loss: float = field(repr=False)
    model: Model = field(repr=False)
    fit: Callable[[Rows], Model] = field(repr=False)


def _federated(
    draft: Draft,
    strategy: Strategy,
    prepared: Prepared,
    received: Tensors,
    private: Private,
    *,
    secret: int,
    version: int,
) -> _Federated | None:
    """The best federated model on validation rows; None where the method shares nothing or nothing converges."""
    if not strategy.plan(draft):
        return None
    task, held = prepared.task, prepared.validation
    trainer = Trainer(draft, task, secret, strategy.shares_head)
    phases = strategy.finish(draft)

    def tuned(strength: float | None, rows: Rows) -> Model:
        """The strategy's last phases, from the head of the rounds or from a fresh probe in place of its head phases."""
        if strength is None:
            return solo.network(draft, trainer.train(phases, received, private, rows, None, version=version).net)
        head = probe_head(task, represent(draft, received, rows.x), rows.y, strength=strength)
        fresh = {f"head/{name}": array for name, array in head.items()}
        after = [phase for phase in phases if "backbone" in phase.parts]
        return solo.network(draft, trainer.train(after, received, fresh, rows, None, version=version).net)

    strengths: tuple[float | None, ...] = (None,)
    if phases and not strategy.shares_head:
        strengths = (None, *STRENGTHS) if len(held) >= FEWEST_TO_DECIDE else (USUAL_STRENGTH,)
    found: list[_Federated] = []
    for strength in strengths:
        try:
            model = tuned(strength, prepared.train)
        except TrainingDiverged:
            continue
        found.append(_calibrated(task, strength, model, held, tuned))
    return min(found, key=lambda candidate: candidate.loss) if found else None


def _calibrated(
    task: Task,
    strength: float | None,
    model: Model,
    held: Rows,
    tuned: Callable[[float | None, Rows], Model],
) -> _Federated:
    degrees = temperature(task, model.outputs(task, held.x), held.y)
    model = solo.at_temperature(model, degrees)
    loss = float(task.row_losses(model.predict(task, held.x), held.y).mean()) if len(held) else 0.0
    name = "fine-tuned" if strength is None else f"refitted head (strength {strength:g}), fine-tuned"
    return _Federated(name, loss, model, lambda rows: solo.at_temperature(tuned(strength, rows), degrees))


def _epochs(draft: Draft, strategy: Strategy) -> int:
    """Passes over a department's rows in the whole run; under ``local`` what 3 per round would be."""

    def passes(phases: tuple[Phase, ...]) -> int:
        return sum(phase.epochs for phase in phases if "backbone" in phase.parts)

    return max(1, draft.rounds * (passes(strategy.plan(draft)) or 3) + passes(strategy.finish(draft)))


def _report(
    prepared: Prepared,
    contenders: list[solo.Candidate],
    federated: _Federated | None,
    choice: Choice,
    arms: dict[str, tuple[tuple[float, Model], ...]],
    secret: int,
) -> dict[str, Any]:
    task, test = prepared.task, prepared.test
    predicted = {name: mix(task, members, test.x) for name, members in arms.items()}
    rows = {"train": len(prepared.train), "validation": len(prepared.validation), "test": len(test)}

    def points(name: str) -> dict[str, float]:
        found = gain(task, predicted[name], predicted["alone"], test.y, seed=secret)
        return {"points": found.points, "low": found.low, "high": found.high}

    return {
        "task": task.kind,
        "metric": task.metric,
        "rows": rows,
        "kept": choice.kept,
        "reason": choice.reason,
        "evidence": {
            name: {"advantage": e.advantage, "error": e.error, "bound": e.bound} for name, e in choice.evidence.items()
        },
        "alone": contenders[0].name,
        "federated": None if federated is None else federated.name,
        "contenders": _best_of_each(contenders),
        "scores": {name: POINTS * score(task, array, test.y) for name, array in predicted.items()},
        "gain": points(choice.kept),
        "gain_federated": None if federated is None else points("federated"),
    }


def _best_of_each(contenders: list[solo.Candidate]) -> list[dict[str, Any]]:
    """The contenders trained alone, one line per kind, best first."""
    seen: dict[str, float] = {}
    for candidate in contenders:
        seen.setdefault(candidate.name, candidate.loss)
    return [{"name": name, "loss": float(np.float64(loss))} for name, loss in seen.items()]
