"""An arm of a comparison under ``ring`` or ``off``: founded without keys, run without masks, reported like any other.

FOLDER/coordinator/        charter, journal, backbones, as a coordinator has them
FOLDER/departments/NAME/   what a department keeps: its split, its models, its report
FOLDER/plan/HASH/          what worker processes read, and private states, by charter
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

from commonroot.client.data import DataConfig
from commonroot.common.charter import Draft
from commonroot.files import atomic_write
from commonroot.logs import Tell
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.arms import Arm, Paused, Report, report_of
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.run import Unsigned, drive
from commonroot.simulations.engine.workers import Hire, hire
from commonroot.simulations.founding import to_toml
from commonroot.simulations.scenario import Scenario
from commonroot.strategies import check_roster, seal

#: Bytes of encoded rows that departments which are awake may hold, all processes together.
MEMORY: Final = 4 << 30


def run_unmasked(
    folder: Path,
    arm: Arm,
    scenario: Scenario,
    sections: dict[str, DataConfig],
    tell: Tell,
    *,
    alone: Path,
    workers: int = 1,
    finish: bool = True,
    pause_at: int | None = None,
    engine: Hire = hire,
) -> Report:
    """Run an arm in ``folder`` to its end, from wherever its journal stands; its report, as ``run_federated`` has it.

    alone     where departments keep what they found alone, for arms that come later
    workers   processes; the result is the same for any number
    finish    let departments fine-tune, compare and choose at the end
    pause_at  leave off once this version of the backbone is made; called again, the arm goes on from there
    engine    who lets departments work: processes of this machine, or Flower's (``flower_app``)

    Raises ConfigError or TooFewDepartments where the charter does not fit the departments; what ``drive`` raises.
    """
    check_roster(arm.draft, Unsigned(tuple(sections)))
    coordinator = _founded(folder, arm, scenario)
    calm = scenario.calm()  # nothing befalls what is counted first
    drafts = [arm.draft] if scenario.statistics is None else [scenario.statistics, arm.draft]
    for draft in drafts:
        own = draft is arm.draft
        behaviour = scenario.behaviour if own else ()
        plan = Plan(folder, seal(draft), arm.sum, scenario.seed, sections, alone, behaviour)
        plan.save()
        making = 1

        def on_event(kind: str, facts: dict[str, Any], own: bool = own) -> None:
            nonlocal making
            if kind in _OF_DEPARTMENTS:
                tell(kind, facts)
                return
            if kind == "closed":
                making = facts["version"] + 1
            if own:
                tell(f"run-{kind}", facts | {"making": making})
            if own and kind == "closed" and facts["version"] == pause_at:
                raise Paused

        _queue(coordinator, draft)
        if own and pause_at is not None and _version(coordinator, draft) >= pause_at:
            break
        making = _version(coordinator, draft) + 1
        tell("stands", {"version": making - 1})
        try:
            drive(
                coordinator,
                plan,
                scenario if own else calm,
                workers=workers,
                finish=finish or not own,
                memory=MEMORY,
                engine=engine,
                on_event=on_event,
            )
        except Paused:
            break
    return report_of(coordinator, {name: plan.folder(name) for name in sections}, arm, scenario)


#: What crews tell, and not the rounds.
_OF_DEPARTMENTS: Final = frozenset({"checked", "trained", "abstained", "finished"})


def _founded(folder: Path, arm: Arm, scenario: Scenario) -> CoordinatorFolder:
    """The coordinator's folder with its charters signed; one that was half made when it was killed is made anew."""
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        made = CoordinatorFolder.create(
            fresh / "coordinator",
            federation=arm.draft.federation,
            host="127.0.0.1",
            port=9443,
            names=("localhost", "127.0.0.1"),
            random=os.urandom,
        )
        drafts = [arm.draft] if scenario.statistics is None else [scenario.statistics, arm.draft]
        for at, draft in enumerate(drafts):
            path = fresh / f"charter-{at}.toml"
            atomic_write(path, to_toml(draft.model_dump(mode="json", exclude_none=True)).encode())
            made.sign_charter(path, backbone=scenario.warm_start if draft is arm.draft else None)
        fresh.rename(folder)
    return CoordinatorFolder(folder / "coordinator")


def _queue(coordinator: CoordinatorFolder, draft: Draft) -> None:
    """Have the charter's run in the journal, once."""
    digest = seal(draft).digest.hex()
    journal = coordinator.journal()
    try:
        if digest not in {run.digest for run in journal.runs()}:
            journal.queue(coordinator.charter(coordinator.root / "charters" / f"{digest}.json"))
    finally:
        journal.close()


def _version(coordinator: CoordinatorFolder, draft: Draft) -> int:
    """The newest version of the charter's backbone; 0 before there is one."""
    digest = seal(draft).digest.hex()
    journal = coordinator.journal()
    try:
        run = next(run.run for run in journal.runs() if run.digest == digest)
        versions = journal.versions(run)
        return versions[-1].version if versions else 0
    finally:
        journal.close()
