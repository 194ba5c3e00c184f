"""A founded federation run as it is deployed: a coordinator and a daemon for each department, over TLS on loopback.

Nothing here takes part in the run.  Processes are started as a person would start them, and what the journal says is
followed until the run has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from commonroot.client.data import DataConfig
from commonroot.client.setup import approve
from commonroot.common.charter import Draft
from commonroot.common.errors import RunStopped
from commonroot.files import atomic_write
from commonroot.logs import Tell
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal_rows import Round, Run
from commonroot.simulations.arms import Report, fingerprint
from commonroot.simulations.founding import Federation, found, to_toml
from commonroot.simulations.outcome import outcome
from commonroot.simulations.processes import Processes, free_port, processes
from commonroot.simulations.scenario import Scenario

#: A run is given up after this many seconds.
LIMIT: Final = 1800.0


def start(running: Processes, federation: Federation) -> None:
    """Ask for a run of the federation's charter, and start everybody."""
    queue(federation)
    running.start_coordinator(federation.coordinator.root)
    for name, folder in federation.departments.items():
        running.start_department(name, folder.root)


def queue(federation: Federation) -> None:
    """Ask for a run of the federation's charter."""
    journal = federation.coordinator.journal()
    try:
        journal.queue(federation.charter)
    finally:
        journal.close()


def follow(
    federation: Federation,
    running: Processes,
    look: Callable[[Run, Sequence[Round], Collection[str]], None],
    *,
    limit: float = LIMIT,
    every: float = 0.2,
) -> None:
    """Follow the newest run until it has finished or stopped.

    look   called again and again with the run, its rounds, and the departments that have chosen
    limit  seconds after which RunStopped is raised
    every  seconds between two looks

    Raises ProcessDied where a program ended by itself.
    """
    deadline = time.monotonic() + limit
    journal = federation.coordinator.journal()
    try:
        while time.monotonic() < deadline:
            running.check()
            run = journal.runs()[-1]
            look(run, journal.rounds(run.run), journal.closed_departments(run.run))
            if run.state in ("finished", "stopped"):
                return
            time.sleep(every)
    finally:
        journal.close()
    raise RunStopped(f"the run did not end within {limit:.0f} s")


def run_deployed(root: Path, scenario: Scenario, sections: dict[str, DataConfig], tell: Tell) -> Report:
    """Found a scenario's federation in ``root`` and run it deployed, to its end; ``outcome``'s report.

    What is simulated from the same scenario begins with the same training secrets and the same charter.  Weather and
    events of the scenario are left out: a real network has its own.

    Raises RunStopped where the run, or that of its statistics, did not finish; ProcessDied where a program ended.
    """
    first = scenario.statistics or scenario.draft
    federation = found(
        root,
        federation=scenario.draft.federation,
        charter_toml=_toml(first),
        departments=sections,
        port=free_port(),
        seed=scenario.seed,
    )
    with processes(root / "logs") as running:
        start(running, federation)
        if scenario.statistics is not None:
            _finish(federation, running, lambda kind, facts: None)
            federation = _with_charter(federation, scenario.draft)
            queue(federation)
        _finish(federation, running, tell)
    return outcome(federation.coordinator.root, {name: d.root for name, d in federation.departments.items()})


def _finish(federation: Federation, running: Processes, tell: Tell) -> None:
    told = 0
    begun = False
    ended: list[Run] = []

    def look(run: Run, rounds: Sequence[Round], chosen: Collection[str]) -> None:
        nonlocal told, begun
        if not begun:
            begun = True
            tell("run-run", {"rounds": run.charter.charter.rounds, "making": 1})
        closed = [one for one in rounds if one.state == "closed"]
        for one in closed[told:]:
            tell("run-closed", {"round": one.round, "version": one.version + 1} | one.report)
        told = len(closed)
        if run.state in ("finished", "stopped"):
            ended.append(run)

    follow(federation, running, look)
    if ended[0].state != "finished":
        raise RunStopped(f"the run of charter {ended[0].charter.charter.name!r} stopped: {ended[0].reason}")


def _with_charter(federation: Federation, draft: Draft) -> Federation:
    """Sign another charter, and have every department approve it while its daemon is up."""
    path = federation.root / "training.toml"
    atomic_write(path, _toml(draft).encode())
    signed, where = federation.coordinator.sign_charter(path)
    for folder in federation.departments.values():
        approve(folder, where)
    return Federation(federation.root, federation.coordinator, federation.departments, signed, where)


def _toml(draft: Draft) -> str:
    return to_toml(draft.model_dump(mode="json", exclude_none=True))


def backbones(coordinator: Path) -> list[str]:
    """SHA-256, hex, of the file of every version that the newest run made, from the first on.

    Raises OSError where a file is not there.
    """
    journal = CoordinatorFolder(coordinator).journal()
    try:
        versions = journal.versions(journal.runs()[-1].run)
    finally:
        journal.close()
    return [fingerprint(coordinator / "backbones" / version.file) for version in versions]
