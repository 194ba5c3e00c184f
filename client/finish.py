"""A department's last step: fine-tune, compare with training alone, choose, and say what came of it.

Which rows each candidate sees
------------------------------
training    everything that is compared was fitted to these alone (cross-validation for few rows: see ``alone``)
validation  choose hyper-parameters, temperatures, and between alone, federated and both; the rounds never saw them
test        score the models once all that is done

Intervals of values come from the kept model's residuals on validation rows, before it is fitted again.

Once chosen, the model trained alone and the federated one are both fitted again to training and validation rows; a
method without a fine-tuning step fits neither again, so that none has rows the other lacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from commonroot.client import alone as solo
from commonroot.client.choice import Choice, choose
from commonroot.client.data import Prepared, judged
from commonroot.client.metrics import POINTS, gain
from commonroot.client.models import Model
from commonroot.client.predictor import Predictor, mix
from commonroot.client.reliability import changed, reliability
from commonroot.client.shared_models import Shared, shared_network
from commonroot.client.tasks import Floats, Task, score
from commonroot.client.trainer import Private
from commonroot.common.charter import Draft
from commonroot.strategies.base import Phase, Strategy, Tensors

#: Models whose predictions are averaged, with their weights.
Members = tuple[tuple[float, Model], ...]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a department keeps.

    predictor  the chosen model
    report     JSON values: rows, candidates, choice with its reason, test scores, gain with its interval; ``unit`` of
               gains (points, or % of an error), which way the metric is ``better``, and the task's own facts and plot.
               Scores are hundredths where the unit is points, and as they are where it is %
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
    """Everything after the last round of a method that trains a network; deterministic for given arguments.

    received, private  the final broadcast and the department's own state
    secret             the department's own seed
    version            of the broadcast
    """
    shared = shared_network(draft, strategy, prepared, received, private, secret=secret, version=version)
    return decide(
        draft,
        prepared,
        shared,
        secret=secret,
        version=version,
        epochs=_epochs(draft, strategy),
        refits=bool(strategy.finish(draft)),
    )


def decide(
    draft: Draft, prepared: Prepared, federated: Shared | None, *, secret: int, version: int, epochs: int, refits: bool
) -> Conclusion:
    """Compare a federated model with the best one trained alone, and keep what the guard chooses.

    federated  None where nothing came of it
    epochs     of the local twin; 0 where the charter has no network to be trained alone
    refits     whether what is kept is fitted again to training and validation rows together
    """
    task = prepared.task
    contenders = solo.candidates(draft, prepared, epochs=epochs, secret=secret)
    best = contenders[0]
    ours = best.fit(prepared.train)
    held = judged(task, prepared.validation, seed=secret)
    theirs = None if federated is None else federated.model
    said: dict[str, Floats] = {"alone": ours.predict(task, held.x)}
    if theirs is not None:
        said["federated"] = theirs.predict(task, held.x)
        said["both"] = (said["alone"] + said["federated"]) / 2
    choice = choose(task, said["alone"], said.get("federated"), held.y)
    task = task.calibrated(said[choice.kept], held.y)
    if refits:
        whole = prepared.train.join(prepared.validation)
        ours = best.fit(whole)
        if federated is not None:
            theirs = federated.fit(whole)
    arms = _arms(ours, theirs)
    report = _report(task, prepared, contenders, federated, choice, arms, secret)
    about = {name: report[name] for name in ("kept", "reason", "metric", "better", "unit", "scores", "gain")} | {
        "federation": draft.federation,
        "charter": draft.name,
        "method": draft.method.name,
        "version": version,
    }
    predictor = Predictor(task, prepared.features, arms[choice.kept], about)
    return Conclusion(predictor, report)


def _arms(ours: Model, theirs: Model | None) -> dict[str, Members]:
    """Every model there is by name, as weighted members."""
    if theirs is None:
        return {"alone": ((1.0, ours),)}
    return {"alone": ((1.0, ours),), "federated": ((1.0, theirs),), "both": ((0.5, ours), (0.5, theirs))}


def _epochs(draft: Draft, strategy: Strategy) -> int:
    """Passes over a department's rows in the whole run; under ``local`` what 3 per round would be."""

    def passes(phases: tuple[Phase, ...]) -> int:
        return sum(phase.epochs for phase in phases if "backbone" in phase.parts)

    return max(1, draft.rounds * (passes(strategy.plan(draft)) or 3) + passes(strategy.finish(draft)))


def _report(
    task: Task,
    prepared: Prepared,
    contenders: list[solo.Candidate],
    federated: Shared | None,
    choice: Choice,
    arms: dict[str, Members],
    secret: int,
) -> dict[str, Any]:
    test = prepared.test if task.labelled else judged(task, prepared.test, seed=secret)
    whole = POINTS if task.unit == "points" else 1.0
    predicted = {name: mix(task, members, test.x) for name, members in arms.items()}
    rows = {"train": len(prepared.train), "validation": len(prepared.validation), "test": len(prepared.test)}

    def points(name: str) -> dict[str, float]:
        found = gain(task, predicted[name], predicted["alone"], test.y, seed=secret)
        return {"points": found.points, "low": found.low, "high": found.high}

    return {
        "task": task.kind,
        "metric": task.metric,
        "better": task.better,
        "unit": task.unit,
        "rows": rows,
        "kept": choice.kept,
        "reason": choice.reason,
        "evidence": {
            name: {"advantage": e.advantage, "error": e.error, "bound": e.bound} for name, e in choice.evidence.items()
        },
        "alone": contenders[0].name,
        "federated": None if federated is None else federated.name,
        "contenders": _best_of_each(contenders),
        "scores": {name: whole * score(task, array, test.y) for name, array in predicted.items()},
        "gain": points(choice.kept),
        "gain_federated": None if federated is None else points("federated"),
        "facts": task.facts(predicted[choice.kept], test.y),
        "plot": task.plot(predicted[choice.kept], test.y),
        "reliability": reliability(task, predicted[choice.kept], test.y),
        "changed": changed(task, predicted[choice.kept], predicted["alone"], test.y),
    }


def _best_of_each(contenders: list[solo.Candidate]) -> list[dict[str, Any]]:
    """The contenders trained alone, one line per kind, best first."""
    seen: dict[str, float] = {}
    for candidate in contenders:
        seen.setdefault(candidate.name, candidate.loss)
    return [{"name": name, "loss": float(np.float64(loss))} for name, loss in seen.items()]
