"""A thousand rounds of real processes: is anything lost, does memory grow, and how many departments fit on a machine?

``kills``  five departments, and processes of either side killed with SIGKILL at random moments all the way.  Afterwards
           every version, ledger and head is compared with the same run undisturbed.
``flat``   five departments and nobody killed, so that every process lives through all rounds.  A kill gives memory
           back, so only here can a leak be seen: the last tenth of the rounds is compared with the second, process by
           process.
``crowd``  32 departments' daemons on this machine: they complete rounds, and what their waiting costs.

A case that was interrupted goes on where it stood; one that was finished begins anew.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from commonroot.common.errors import ConfigError
from commonroot.simulations import soak_crowd, soak_rounds
from commonroot.simulations.bench import Row
from commonroot.simulations.soak_rounds import Soaked

CASES: Final = ("kills", "flat", "crowd")
OPTIONS: Final = ("rounds",)
ROUNDS: Final = 1000
_CROWD: Final = 32
_MEBI: Final = 2**20


def run(
    console: Console,
    only: Sequence[str] = (),
    *,
    data: Path | None = None,
    out: Path,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Rows of the named cases, or of all.  ``data`` is not used.  ConfigError for a case that there is none of."""
    unknown = [name for name in only if name not in CASES]
    if unknown or rounds < 20:
        what = f"no case {unknown[0]!r} of soak" if unknown else "a tenth of fewer than 20 rounds says nothing"
        raise ConfigError(what, hint=f"cases: {', '.join(CASES)}")
    rows: list[Row] = []
    for name in only or CASES:
        if name == "crowd":
            rows += _crowd_rows(soak_crowd.run(_fresh(out / "crowd"), _CROWD, console.print))
            continue
        with _bar(console, name, rounds) as tell:
            soaked = soak_rounds.soak(out / f"{name}-{rounds}", rounds, kills=name == "kills", tell=tell)
        rows += _kill_rows(soaked) if name == "kills" else _flat_rows(soaked)
    return rows


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _kill_rows(soaked: Soaked) -> list[Row]:
    f, rounds = soaked.findings, soaked.rounds
    told = f"5 departments, {len(soaked.kills)} SIGKILLs"
    return [
        Row(f"rounds completed, {told}", soaked.versions, ">=", rounds),
        Row("versions that are missing, or made twice", f.versions_missing + f.rounds_twice, "<=", 0),
        Row("survivor sets or answers that changed after a kill", f.sets_changed + f.answers_changed, "<=", 0),
        Row("ledgers whose chain is broken", f.chains_broken, "<=", 0),
        Row("versions that differ from the same run undisturbed", soaked.different, "<=", 0),
        Row("departments whose heads differ from the same run undisturbed", soaked.heads_changed, "<=", 0),
        Row("memory of all processes together, last tenth of the rounds over the second", soaked.together, "<=", 1.05),
        Row("kills of the coordinator", sum(who == "coordinator" for who in soaked.kills)),
        Row("kills of departments", sum(who != "coordinator" for who in soaked.kills)),
        Row("median seconds from one version to the next", soaked.seconds_per_round),
        Row("longest time from one version to the next, kills included, in seconds", soaked.slowest),
    ]


def _flat_rows(soaked: Soaked) -> list[Row]:
    worst = max(soaked.growth, key=lambda name: soaked.growth[name])
    departments = [name for name in soaked.growth if name != "coordinator"]
    return [
        Row("rounds completed, 5 departments, nobody killed", soaked.versions, ">=", soaked.rounds),
        Row("processes that were started again", soaked.restarts, "<=", 0),
        Row(f"resident memory, last tenth over second, the process that grew most ({worst})", soaked.growth[worst],
            "<=", 1.05),
        Row("the same of the coordinator", soaked.growth["coordinator"], "<=", 1.05),
        Row("the same of all processes together", soaked.together, "<=", 1.05),
        Row("coordinator at the end, resident MiB", soaked.last["coordinator"] / _MEBI),
        Row("a department at the end, resident MiB (median)",
            statistics.median(soaked.last[name] for name in departments) / _MEBI),
        Row("the coordinator's journal, bytes a round", soaked.journal_bytes / soaked.rounds),
        Row("a department's database, bytes a round (median)", soaked.ledger_bytes / soaked.rounds),
        Row("median seconds from one version to the next", soaked.seconds_per_round),
    ]  # fmt: skip


def _crowd_rows(found: dict[str, Any]) -> list[Row]:
    n = found["departments"]
    return [
        Row(f"{n} departments' daemons on {found['cores']} cores: rounds completed", found["versions"], ">=",
            found["rounds"]),
        Row("departments in the last sum", found["survivors"], ">=", n),
        Row(f"median seconds of a round among {n} departments", found["seconds_per_round"]),
        Row("seconds until all of them were there", found["seconds_to_join"]),
        Row("one daemon, waiting: own memory in MiB (median)", found["own"] / _MEBI),
        Row("one daemon, waiting: resident memory in MiB, shared pages included (median)", found["resident"] / _MEBI),
        Row("all daemons and the coordinator: own memory in MiB", found["all_own"] / _MEBI),
        Row(f"what {n} waiting daemons cost the hub, in % of one core", 100 * found["hub_idle"]),
        Row("what a waiting daemon costs, in % of one core (median)", 100 * found["daemon_idle"]),
    ]  # fmt: skip


class _bar:
    """A progress bar over rounds; call it with what was reached and a word."""

    def __init__(self, console: Console, name: str, rounds: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )
        self._task = self._progress.add_task(f"soak: {name}", total=rounds, told="")

    def __enter__(self) -> Callable[[int, str], None]:
        self._progress.start()
        return lambda version, told: self._progress.update(self._task, completed=version, told=told)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def write(path: Path, facts: dict[str, Any]) -> None:
    """Facts as JSON, for whoever wants to look closer."""
    path.write_text(json.dumps(facts, indent=2))
