"""The pooled arm: what training on everybody's rows in one place would give.  It protects nobody.

A reference for simulations, run by no federation: the rounds are replaced by central training of one backbone under one
head (and adapter) per department on all training rows (``client.trainer.train_pooled``).  What comes before and after
is as in every other arm: the same splits, the same last step in each department, the same models trained alone to
compare with.  It is no bound on what sharing can give: a method may well do better.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from commonroot.client.alone_memory import Basis
from commonroot.client.columns import read_columns
from commonroot.client.data import DataConfig, prepare
from commonroot.client.finish import conclude
from commonroot.client.learner import alone_seed, summary
from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.trainer import train_pooled
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.charter import Charter, Draft, Method
from commonroot.common.errors import ConfigError, TrainingDiverged
from commonroot.common.secure_sum.primitives import derive
from commonroot.files import atomic_write, read_text, storage_errors
from commonroot.logs import Tell
from commonroot.simulations.arms import Arm, Report
from commonroot.simulations.founding import training_secret
from commonroot.strategies import build_trained, seal
from commonroot.strategies.statistics import Statistics

#: Said wherever this arm is shown.
NO_PRIVACY: Final = "all departments' rows in one place: a reference for simulations only, with no privacy at all"


def run_pooled(
    folder: Path,
    arm: Arm,
    sections: dict[str, DataConfig],
    *,
    seed: int,
    tell: Tell,
    shared: SharedStatistics | None = None,
) -> Report:
    """Train centrally and let every department conclude; a report with the keys of a federated arm's.

    It is kept in ``folder``; where it lies there already, nothing is trained.  ``shared`` are the statistics to
    standardise with, where the charter builds on some.
    Where the charter's method has no last step that fits a private head to a backbone (a shared head, or nothing in
    common), that of FedPer is taken.  ``state`` is ``stopped`` where the training diverges.
    """
    kept = folder / "report.json"
    if kept.is_file():
        found: Report = json.loads(read_text(kept, what="the pooled arm's report"))
        return found
    report = _train(arm, _with_private_heads(arm.draft), sections, seed=seed, tell=tell, shared=shared)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic_write(kept, json.dumps(report, indent=2).encode())
    return report


def pooled_statistics(charter: Charter, sections: dict[str, DataConfig]) -> SharedStatistics:
    """What a statistics charter's sum over all departments gives, without the sum."""
    method = Statistics.model_validate(charter.method.options)
    state = method.initial(charter)
    parts = [method.gather(charter, state, read_columns(one, Path(), charter), {}).terms for one in sections.values()]
    sums = {name: np.asarray(sum(part[name] for part in parts), dtype=np.float64) for name in parts[0]}
    return SharedStatistics.received(charter, method.combine(charter, state, sums))


def _train(
    arm: Arm,
    draft: Draft,
    sections: dict[str, DataConfig],
    *,
    seed: int,
    tell: Tell,
    shared: SharedStatistics | None,
) -> Report:
    charter, strategy = seal(draft), build_trained(draft)
    network = draft.network
    prepared = {
        name: prepare(
            data,
            spec_input=network.input,
            adapter=network.adapter,
            shared=shared,
            checkpoint=network if isinstance(network, PretrainedSpec) else None,
        )
        for name, data in sections.items()
    }
    without = [name for name, one in prepared.items() if not one.labelled]
    if without:
        raise ConfigError(
            f"{without[0]!r} has no labels, so its rows cannot be trained on in one place with the others"
        )
    report: Report = {
        "arm": arm.label,
        "method": {"name": "pooled", "options": {}},
        "federation": draft.federation,
        "charter": charter.digest.hex(),
        "note": NO_PRIVACY,
        "state": "finished",
        "reason": "",
        "rounds": 0,
        "rounds_wanted": 0,
        "lost_rounds": 0,
        "seconds_per_round": 0.0,
        "departments": [],
        "coordinator_saw": [],
        "bytes_per_department_per_round": 0,
        "history": [],
        "backbone": None,
        "bytes_received": None,
    }
    epochs = passes(draft)
    tell("pooling", {"epochs": epochs})
    try:
        nets = train_pooled(draft, [(one.task, one.train) for one in prepared.values()], secret=seed, epochs=epochs)
    except TrainingDiverged as error:
        return report | {"state": "stopped", "reason": f"{error} ({error.code})"}
    tell("run-closing", {"departments": list(prepared)})
    for (name, rows), net in zip(prepared.items(), nets, strict=True):
        # the seed that the department's own learner would take under this charter
        secret = int.from_bytes(derive(training_secret(seed, name), "training", charter.digest))
        basis = Basis(alone_seed(training_secret(seed, name)))
        found = conclude(
            draft, strategy, rows, net.backbone, net.private, secret=secret, basis=basis, version=draft.rounds
        )
        report["departments"].append(summary(name, charter, found.report))
        tell("finished", {"department": name})
    return report


def passes(draft: Draft) -> int:
    """Passes over the rows: as many as the method's rounds make that move the backbone."""
    return draft.rounds * sum(phase.epochs for phase in build_trained(draft).plan(draft) if "backbone" in phase.parts)


def _with_private_heads(draft: Draft) -> Draft:
    strategy = build_trained(draft)
    if strategy.plan(draft) and not strategy.shares_head:
        return draft
    return draft.model_copy(update={"method": Method(name="fedper")})
