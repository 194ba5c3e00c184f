"""``commonroot search``: which method, by the sums of private validation losses that a deployed federation would open.

Every arm is a federation of its own, as in ``simulate``.  Once its run has ended, an evaluation charter is signed,
approved and run in it, and only what that opens is compared: no test row, and no department's own report, decides.

With halving, arms are dropped on the way by the held-out loss that rounds' sums carry anyway: of those still there
after a quarter of the rounds, and after half of them, the better half goes on (Jamieson, Talwalkar, 2016,
arXiv:1502.07943).  That loss is of the shared model as it is received, before fine-tuning, so a method which lives on
that is judged too harshly; methods without rounds of training have none and are never dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from commonroot.client.setup import approve
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.server.reports import newest
from commonroot.server.search import best, compared, results_of, sign_evaluation
from commonroot.simulations.arms import Arm, Report, run_federated
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, reopen
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import Ready, TellArm, prepared
from commonroot.strategies import seal
from commonroot.strategies.evaluation import Evaluation
from commonroot.strategies.statistics import Statistics

#: After these shares of the rounds half of the arms are dropped.
RUNGS: Final = (0.25, 0.5)


def search(
    path: Path | Scenario,
    *,
    arms: Sequence[str],
    folder: Path | None = None,
    counts: bool = False,
    halving: bool = False,
    write: Path | None = None,
    tell: TellArm = lambda arm, kind, facts: None,
) -> dict[str, Any]:
    """Run and evaluate every arm of a scenario; the comparison as JSON values.

    arms     as in ``simulate``, without ``pooled``
    counts   also count, deniably, what departments keep
    halving  drop arms on the way
    write    the best arm's charter goes here, in TOML, as ``coordinator charter`` takes it

    The result holds ``federation``, ``seed``, ``best`` (an arm, or None where nothing could be evaluated) and
    ``charters``: one row for each arm, best first (see ``server.search``), with ``arm``, ``seconds`` and
    ``rounds_done``; ``state`` is ``dropped`` for one that halving dropped.

    Raises what ``simulate`` raises, and ConfigError for an arm that ends in no model to be chosen.
    """
    with prepared(path, arms=arms, folder=folder, sum="exact") as ready:
        wrong = [arm.label for arm in ready.arms if arm.pooled or _method(arm) in (Evaluation.name, Statistics.name)]
        if wrong:
            raise ConfigError(f"--arm {wrong[0]}: no federation can choose it", hint="arms of a search are methods")
        rows = _raced(ready, tell, halving=halving, counts=counts)
    found = best(rows)
    if write is not None and found is not None:
        draft = next(arm.draft for arm in ready.arms if arm.label == found["arm"])
        atomic_write(write, draft.to_toml().encode())
    return {
        "federation": ready.scenario.charter.federation,
        "seed": ready.scenario.seed,
        "best": None if found is None else found["arm"],
        "charters": compared(rows),
    }


def _method(arm: Arm) -> str:
    return arm.draft.method.name


def _raced(ready: Ready, tell: TellArm, *, halving: bool, counts: bool) -> list[dict[str, Any]]:
    """One row for each arm, in the order in which they were asked for."""
    began = dict.fromkeys((arm.label for arm in ready.arms), 0.0)
    reports: dict[str, Report] = {}
    running = list(ready.arms)

    def run(arm: Arm, pause_at: int | None) -> None:
        at = time.perf_counter()
        reports[arm.label] = run_federated(
            ready.root / "arms" / arm.folder,
            arm,
            ready.scenario,
            ready.sections,
            lambda kind, facts: tell(arm.label, kind, facts),
            pause_at=pause_at,
        )
        began[arm.label] += time.perf_counter() - at

    for share in RUNGS if halving else ():
        if len(running) < 2:
            break
        for arm in running:
            run(arm, rounds_to_judge(arm.draft, share))
        running = better_half(running, {arm.label: _held_out(reports[arm.label]) for arm in running})
    rows = {}
    for arm in running:
        run(arm, None)
        at = time.perf_counter()
        rows[arm.label] = _evaluated(ready, arm, counts=counts)
        began[arm.label] += time.perf_counter() - at
        tell(arm.label, "done", {"state": reports[arm.label]["state"]})
    return [
        {"arm": arm.label}
        | rows.get(arm.label, _dropped(arm))
        | {"seconds": began[arm.label], "rounds_done": reports[arm.label]["rounds"]}
        for arm in ready.arms
    ]


def rounds_to_judge(draft: Draft, share: float) -> int:
    """After how many rounds a charter is judged at a rung: the first, from that share of them on, that scored what
    earlier ones had trained.  Version 0 is the same under every method."""
    first = max(2, math.ceil(share * draft.rounds))
    return next((rounds for rounds in range(first, draft.rounds) if draft.scores(rounds - 1)), draft.rounds)


def better_half(arms: Sequence[Arm], losses: dict[str, float | None]) -> list[Arm]:
    """The half with the lower losses, rounded up, in the same order; one without a loss always stays."""
    judged = sorted((arm.label for arm in arms if losses[arm.label] is not None), key=lambda name: losses[name] or 0.0)
    staying = set(judged[: math.ceil(len(judged) / 2)])
    return [arm for arm in arms if arm.label in staying or losses[arm.label] is None]


def _held_out(report: Report) -> float | None:
    """The newest held-out loss of a sum; infinite where no round succeeded, None for a method without any."""
    history = report["history"]
    if not history:
        return math.inf
    return newest(history, "held_out")


def _dropped(arm: Arm) -> dict[str, Any]:
    charter = seal(arm.draft)
    return {
        "run": None,
        "charter": charter.name,
        "hash": charter.digest.hex(),
        "method": charter.method.model_dump(mode="json"),
        "rounds": charter.rounds,
        "state": "dropped",
        "reason": "halving: another half of the arms had lower held-out losses",
        "evaluation": None,
        "evaluation_state": None,
        "departments": [],
    }


def _evaluated(ready: Ready, arm: Arm, *, counts: bool) -> dict[str, Any]:
    """The arm's row, once its evaluation has run; that of an earlier call is read and not run again."""
    federation = reopen(ready.root / "arms" / arm.folder)
    digest = seal(arm.draft).digest.hex()

    def row() -> dict[str, Any]:
        return next(one for one in results_of(federation.coordinator) if one["hash"] == digest)

    if row()["state"] == "finished" and row()["evaluation_state"] != "finished":
        _evaluate(federation, digest, ready.scenario, queued=row()["evaluation"] is not None, counts=counts)
    return row()


def _evaluate(federation: Federation, digest: str, scenario: Scenario, *, queued: bool, counts: bool) -> None:
    """Sign, approve and run the evaluation; departments that are away at the end stay away."""
    coordinator = federation.coordinator
    simulated = SimulatedFederation(federation, MemoryNetwork(seed=scenario.seed))
    try:
        if not queued:
            signed, path = sign_evaluation(
                coordinator, coordinator.charter(coordinator.root / "charters" / f"{digest}.json"), counts=counts
            )
            for folder in federation.departments.values():
                approve(folder, path)
            journal = coordinator.journal()
            try:
                journal.queue(signed)
            finally:
                journal.close()
        for name in scenario.cast().present(scenario.charter.rounds):
            simulated.start(name)
        simulated.run()
    finally:
        simulated.close()
