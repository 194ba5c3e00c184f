"""A department's last step: fine-tune, compare with training alone, choose, and say what came of it.

Which rows each candidate sees
------------------------------
training    what is compared was fitted to these
validation  choose hyper-parameters, temperatures, and between the candidates; the rounds never saw them
test        score the models once all that is done

With few validation rows, both are cut into folds: every row is predicted by fits to the other folds, so that each has
a say.  The backbone has seen training rows in the rounds even so, and ``guard`` hears them as what they are: unless
the rounds can be undone for a fold, as those of ``shared-linear`` can.

Intervals of values come from the kept predictions of validation rows, before anything is fitted again.

Once chosen, the model trained alone and the federated ones are fitted again to training and validation rows; a method
without a fine-tuning step fits neither again, so that none has rows the other lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from commonroot.client import alone as solo
from commonroot.client.alone import network
from commonroot.client.alone_memory import Basis
from commonroot.client.choice import ALONE, Choice, choose
from commonroot.client.crossing import crossed
from commonroot.client.data import Prepared, Rows, judged
from commonroot.client.evaluated import figures
from commonroot.client.foreseen import Foreseen
from commonroot.client.guard import mixed
from commonroot.client.metrics import POINTS, gain
from commonroot.client.models import Model
from commonroot.client.predictor import Predictor, mix
from commonroot.client.reliability import changed, reliability
from commonroot.client.shared_models import Shared, shared_networks
from commonroot.client.tasks import Floats, Task, score
from commonroot.client.trainer import Private, Trainer
from commonroot.client.unlabelled import NO_LABELS, nothing_known
from commonroot.common.charter import Draft
from commonroot.strategies.base import Phase, Strategy, Tensors

#: Models whose predictions are averaged, with their weights.
Members = tuple[tuple[float, Model], ...]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a department keeps.

    predictor  the chosen model
    report     JSON values: rows, candidates, choice with its reason, mean losses on validation rows (``evaluated``),
               test scores, gain with its interval; ``unit`` of
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
    basis: Basis,
    version: int,
) -> Conclusion:
    """Everything after the last round of a method that trains a network; deterministic for given arguments.

    received, private  the final broadcast and the department's own state
    secret             the department's own seed under this charter
    basis              what training alone rests on
    version            of the broadcast
    """
    if not prepared.labelled:
        return _without_labels(draft, strategy, prepared, received, private, secret=secret, version=version)
    learned = prepared.train.join(prepared.validation).y
    foreseen = Foreseen.of(prepared.task, learned, received)
    as_is = foreseen is not None and foreseen.known_elsewhere
    shared = shared_networks(draft, strategy, prepared, received, private, secret=secret, version=version, as_is=as_is)
    return decide(
        draft,
        prepared,
        shared,
        secret=secret,
        basis=basis,
        version=version,
        epochs=passes(draft, strategy),
        refits=bool(strategy.finish(draft)),
        foreseen=foreseen,
    )


def decide(
    draft: Draft,
    prepared: Prepared,
    shared: Shared | Sequence[Shared] | None,
    *,
    secret: int,
    basis: Basis,
    version: int,
    epochs: int,
    refits: bool,
    foreseen: Foreseen | None = None,
    parts: solo.Parts | None = None,
) -> Conclusion:
    """Compare what came from the others with the best model trained alone, and keep what the guard chooses.

    shared  the federated model, and the one with a family's head where there is one; None or empty where nothing came
    epochs  of the local twin; 0 where the charter has no network to be trained alone
    refits  whether what is kept is fitted again to training and validation rows together
    foreseen  which labels are expected; None where rows to come are taken to be like those there are
    parts     to compare on, where the rounds had folds of their own; ``alone.held_out`` where not given
    """
    task = prepared.task
    if foreseen is None:  # of methods without a common head, nothing is told
        foreseen = Foreseen.of(task, prepared.train.join(prepared.validation).y, {})
    offered = () if shared is None else (shared,) if isinstance(shared, Shared) else tuple(shared)
    parts = solo.held_out(prepared, basis.secret) if parts is None else parts
    contenders = solo.candidates(draft, prepared, epochs=epochs, basis=basis, parts=parts)
    best = contenders[0]
    if offered and all(one.anew is not None for one in offered):  # the rounds are undone for every fold
        parts = [replace(part, seen=np.zeros_like(part.seen)) for part in parts]
    seen = np.concatenate([part.seen for part in parts])
    y = np.concatenate([part.held.y for part in parts])
    alone = solo.chosen_elsewhere(task, contenders, parts)
    alone = alone if foreseen is None else foreseen.complete(alone)
    others = {one.kind: found for one in offered if (found := crossed(task, one, parts, refits=refits)) is not None}
    said: dict[str, Floats] = {name: one.said for name, one in others.items()}
    # without a fit of its own for every fold, a federated model is no witness on rows that it learned by heart
    again = refits and not any(one.common for one in offered)
    heard = np.ones(len(y), dtype=np.bool_) if again else ~seen
    expected: dict[str, Any] = {}
    if foreseen is not None:
        common = [False, *(one.common for one in offered if one.kind in others)]
        expected["counts"] = foreseen.counts(task, y[heard])
        expected["beyond"] = foreseen.beyond(task, [alone, *said.values()], y, ~seen, common=common)
    choice = choose(
        task, alone[heard], {name: one[heard] for name, one in said.items()}, y[heard], seen[heard], **expected
    )
    fresh = ~seen
    everything: dict[str, Floats] = {ALONE: alone} | said
    kept = mixed([everything[name] for name in choice.weights], tuple(choice.weights.values()))
    task = task.calibrated(kept[fresh], y[fresh])
    rows = prepared.train.join(prepared.validation) if refits else prepared.train
    models: dict[str, Model] = {ALONE: best.fit(rows) if foreseen is None else foreseen.completing(best.fit(rows))}
    models |= {name: one.model(rows) for name, one in others.items()}
    arms = _arms(models, choice)
    report = _report(task, prepared, contenders, offered, choice, arms, secret)
    report["validation"] = figures(prepared.task, alone[fresh], [one[fresh] for one in said.values()], y[fresh])
    about = {name: report[name] for name in ("kept", "reason", "metric", "better", "unit", "scores", "gain")}
    about |= _provenance(draft, version)
    predictor = Predictor(task, prepared.features, arms[choice.kept], about)
    return Conclusion(predictor, report)


def _provenance(draft: Draft, version: int) -> dict[str, Any]:
    return {"federation": draft.federation, "charter": draft.name, "method": draft.method.name, "version": version}


def _arms(models: dict[str, Model], choice: Choice) -> dict[str, Members]:
    """Every model there is by name, and mixtures of them, as weighted members."""
    arms: dict[str, Members] = {name: ((1.0, model),) for name, model in models.items()}
    if "federated" in models:
        arms["both"] = ((0.5, models[ALONE]), (0.5, models["federated"]))
    arms.setdefault(choice.kept, tuple((weight, models[name]) for name, weight in choice.weights.items()))
    return arms


def _without_labels(
    draft: Draft,
    strategy: Strategy,
    prepared: Prepared,
    received: Tensors,
    private: Private,
    *,
    secret: int,
    version: int,
) -> Conclusion:
    """The common model as it is: without labels there is nothing to fine-tune on, and nothing to compare it by.

    What it would be alone is a model that knows nothing, which is what test rows, where there are any, hold against it.
    """
    task = prepared.task
    columns = prepared.train.x.shape[-1]
    trainer = Trainer(
        draft, task, secret, strategy.shares_head, columns, strategy.form(draft), labelled=prepared.labelled
    )
    models = {"federated": network(draft, trainer.net(received, private)), ALONE: nothing_known(task)}
    choice = Choice("federated", {"federated": 1.0}, 0, {}, NO_LABELS)
    arms: dict[str, Members] = {name: ((1.0, model),) for name, model in models.items()}
    about: dict[str, Any] = {
        "task": task.kind,
        "metric": task.metric,
        "better": task.better,
        "unit": task.unit,
        "labelled": False,
        "rows": {"train": len(prepared.train), "validation": 0, "test": len(prepared.test)},
        "kept": choice.kept,
        "weights": dict(choice.weights),
        "reason": choice.reason,
        "evidence": {},
        "alone": "nothing: without labels nothing is learned alone",
        "federated": "the common model",
        "contenders": [],
        "validation": {"rows": 0},
    }
    report = about | _tested(task, prepared.test, arms, choice.kept, secret)
    told = {name: report[name] for name in ("kept", "reason", "metric", "better", "unit", "scores", "gain")}
    return Conclusion(Predictor(task, prepared.features, arms["federated"], told | _provenance(draft, version)), report)


def passes(draft: Draft, strategy: Strategy) -> int:
    """Passes over a department's rows in the whole run; under ``local`` what 3 per round would be."""

    def epochs(phases: tuple[Phase, ...]) -> int:
        return sum(phase.epochs for phase in phases if "backbone" in phase.parts)

    return max(1, draft.rounds * (epochs(strategy.plan(draft)) or 3) + epochs(strategy.finish(draft)))


def _report(
    task: Task,
    prepared: Prepared,
    contenders: list[solo.Candidate],
    offered: Sequence[Shared],
    choice: Choice,
    arms: dict[str, Members],
    secret: int,
) -> dict[str, Any]:
    test = prepared.test if task.labelled else judged(task, prepared.test, seed=secret)
    rows = {"train": len(prepared.train), "validation": len(prepared.validation), "test": len(prepared.test)}
    return {
        "task": task.kind,
        "metric": task.metric,
        "better": task.better,
        "unit": task.unit,
        "rows": rows,
        "kept": choice.kept,
        "weights": dict(choice.weights),
        "reason": choice.reason,
        "evidence": {
            name: {"advantage": e.advantage, "error": e.error, "bound": e.bound} for name, e in choice.evidence.items()
        },
        "alone": contenders[0].name,
        "federated": offered[0].name if "federated" in arms else None,
        "contenders": _best_of_each(contenders),
    } | _tested(task, test, arms, choice.kept, secret)


def _tested(task: Task, test: Rows, arms: dict[str, Members], kept: str, secret: int) -> dict[str, Any]:
    """What test rows say of every model; where there are none, that nothing is known."""
    if not len(test):
        unknown: dict[str, Any] = {"scores": {}, "gain": None, "gain_federated": None, "facts": {}, "plot": None}
        return unknown | {"reliability": None, "changed": None}
    whole = POINTS if task.unit == "points" else 1.0
    predicted = {name: mix(task, members, test.x) for name, members in arms.items()}

    def points(name: str) -> dict[str, float]:
        found = gain(task, predicted[name], predicted[ALONE], test.y, seed=secret)
        return {"points": found.points, "low": found.low, "high": found.high}

    return {
        "scores": {name: whole * score(task, array, test.y) for name, array in predicted.items()},
        "gain": points(kept),
        "gain_federated": points("federated") if "federated" in arms else None,
        "facts": task.facts(predicted[kept], test.y),
        "plot": task.plot(predicted[kept], test.y),
        "reliability": reliability(task, predicted[kept], test.y),
        "changed": changed(task, predicted[kept], predicted[ALONE], test.y),
    }


def _best_of_each(contenders: list[solo.Candidate]) -> list[dict[str, Any]]:
    """The contenders trained alone, one line per kind, best first."""
    seen: dict[str, float] = {}
    for candidate in contenders:
        seen.setdefault(candidate.name, candidate.loss)
    return [{"name": name, "loss": float(np.float64(loss))} for name, loss in seen.items()]
