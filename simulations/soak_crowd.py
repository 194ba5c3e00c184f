"""Many departments' daemons on one machine: do they complete rounds, and what does their waiting cost?"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from commonroot.simulations.processes import free_port, processes
from commonroot.simulations.trial import COORDINATOR, Shape, Trial, books, plant, queue
from commonroot.simulations.usage import Usage, usage_of

_ROUNDS: Final = 5
#: How long daemons may take to start, and rounds to be made, in seconds.
_STARTING: Final = 900.0
_LEARNING: Final = 900.0
#: How long they are watched while nothing happens, in seconds.
_IDLE: Final = 20.0


def run(root: Path, departments: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Start them all, watch them wait, and have them make some rounds."""
    tell(f"{departments} departments' daemons are starting …")
    shape = Shape(departments=departments, rounds=_ROUNDS, gather=600, upload=300, opening=300, absence=60)
    federation = plant(root / "federation", shape, port=free_port(), queued=False)
    with processes(root / "logs") as running, Trial(federation, running) as trial:
        began = time.monotonic()
        trial.start_all()
        trial.until(lambda: _loaded(root, trial), "all daemons to join", seconds=_STARTING)
        joined = time.monotonic() - began
        tell(f"all are there after {joined:.0f} s; now they wait …")
        before, waited = _usage(trial), time.monotonic()
        time.sleep(_IDLE)
        after, waited = _usage(trial), time.monotonic() - waited
        tell("now they learn …")
        queue(federation)
        trial.until(lambda: trial.version() >= _ROUNDS, "the last version", seconds=_LEARNING)
        learned = _usage(trial)
    with books(federation) as journal:
        closed = [r for r in journal.rounds(1) if r.state == "closed"]
        versions = len(journal.versions(1)) - 1
    ended = [r.ended for r in closed if r.ended is not None]
    idle = {name: (after[name].seconds - before[name].seconds) / waited for name in after}
    return {
        "departments": departments,
        "cores": len(os.sched_getaffinity(0)),
        "rounds": _ROUNDS,
        "versions": versions,
        "survivors": len(closed[-1].report["survivors"]),
        "seconds_per_round": statistics.median(b - a for a, b in itertools.pairwise(ended)),
        "seconds_to_join": joined,
        "own": statistics.median(after[name].own for name in trial.names),
        "resident": statistics.median(after[name].resident for name in trial.names),
        "all_own": sum(one.own for one in learned.values()),
        "hub_idle": idle[COORDINATOR],
        "daemon_idle": statistics.median(idle[name] for name in trial.names),
    }


def _loaded(root: Path, trial: Trial) -> bool:
    """Whether every daemon has joined, by its own words, and has loaded its learner."""
    for name in trial.names:
        lines = (root / "logs" / f"{name}.log").read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        if not any(one.get("event") == "loaded" for one in told):
            return False
    return True


def _usage(trial: Trial) -> dict[str, Usage]:
    found = {name: usage_of(trial.processes.pid(name)) for name in (COORDINATOR, *trial.names)}
    return {name: one for name, one in found.items() if one is not None}
