"""``bench simulation``: how fast departments are simulated, beside Flower, pfl, and a loop that does nothing else.

Everybody runs the same network on rows of the same shapes with the same local steps (``bench_simulation_world``), in
two worker processes, in turns.  A system is compared in the same turn; rows are medians over turns.  The time of a
round is the median over rounds after the first, which reads rows; the whole run, from the start of the process to the
end of its last round, is told apart.  Of 1,000 departments there is one turn, with five rounds to take the median of.

    mlp     20 local steps of a small network on digits          10, 100, 1,000 departments
    cnn     3 local steps of a residual network on 28 × 28       10, 100, 1,000 departments
    memory  what a department that waits takes                   of the difference between 500 and 2,500
    linear  time of a round up to 10,000 departments, of 2 steps
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_simulation_peers import THIS, around, command, environment
from commonroot.simulations.bench_simulation_world import Job

CASES: Final = ("mlp", "cnn", "memory", "linear")
OPTIONS: Final = ("most",)
SIZES: Final = (10, 100, 1000)
_STEPS: Final = {"mlp": 20, "cnn": 3}
_TURNS: Final = {10: 5, 100: 5, 1000: 1}
_ROUNDS: Final = {10: 6, 100: 4, 1000: 6}
#: Seconds that one run may take; one that would take longer, going by a tenth of its departments, is left out.
_PATIENCE: Final = 600.0
#: What runs, and under which name it is told.
SYSTEMS: Final[Mapping[str, str]] = {
    "bare": "a bare PyTorch loop",
    "ring": "ours, ring",
    "exact": "ours, exact",
    "flower": "Flower's simulation",
    "pfl": "pfl",
}
_PEERS: Final = ("flower", "pfl")
#: Under the whole protocol every department joins first, with keys of its own: for 1,000 that takes many minutes.
_MOST: Final = {"exact": 100}
_LINEAR: Final = (1000, 2000, 5000, 10_000)
_IDLE: Final = (500, 2500)
#: Bytes that an idle department may take beside its private state.
_ALLOWED: Final = 50_000


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one run: a round after the first, and all of it from the start of the process."""

    per_round: float
    whole: float


def run(
    console: Console, only: Sequence[str] = (), *, data: Path | None = None, out: Path, most: int | None = None
) -> list[Row]:
    """The rows of these cases, of all of them where none is named.

    out   the peers' environment is kept beside it
    most  departments at most, for a shorter run of ``mlp`` and ``cnn``

    Raises ConfigError for a case that there is not.
    """
    unknown = [case for case in only if case not in CASES]
    if unknown:
        raise ConfigError(f"simulation has no case {unknown[0]!r}", hint=f"one of {', '.join(CASES)}")
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress, tempfile.TemporaryDirectory() as folder:
        for case in only or CASES:
            bar = progress.add_task(case, total=None)
            if case == "memory":
                rows += _memory(Path(folder), progress, bar)
            elif case == "linear":
                rows += _linear(Path(folder), progress, bar)
            else:
                sizes = [size for size in SIZES if most is None or size <= most]
                rows += _compared(case, sizes, Path(folder), out.resolve().parent.parent / "peers", progress, bar)
            progress.remove_task(bar)
    return rows


# -- beside each other -------------------------------------------------------------------------------------------------


def _compared(case: str, sizes: Sequence[int], folder: Path, peers: Path, progress: Progress, bar: TaskID) -> list[Row]:
    rows: list[Row] = []
    before: dict[str, Run] = {}
    for size in sizes:
        job = Job("mlp" if case == "mlp" else "cnn", size, _ROUNDS[size], str(folder / f"{case}-{size}"), _STEPS[case])
        job.write()
        late = {
            name: f"not run: it would take about {10 * one.whole:.0f} s, going by {size // 10} departments"
            for name, one in before.items()
            if 10 * one.whole > _PATIENCE
        } | {name: f"not run: compared up to {most} departments" for name, most in _MOST.items() if size > most}
        found: dict[str, list[Run | None]] = {name: [] for name in SYSTEMS if name not in late}
        progress.update(bar, completed=0, total=_TURNS[size] * len(SYSTEMS))
        for _ in range(_TURNS[size]):
            for name in SYSTEMS:
                progress.update(bar, description=f"{case}, {size} departments: {SYSTEMS[name]}")
                if name in found:
                    try:
                        found[name].append(_timed(name, job, peers))
                    except ProcessDied as error:  # the other turns still say something
                        found[name].append(None)
                        late[name] = str(error)
                progress.advance(bar)
        ran = {name: runs for name, runs in found.items() if any(runs)}
        rows += _rows(case, job, ran, late)
        before = {name: _median(runs) for name, runs in ran.items()}
    return rows


def _rows(case: str, job: Job, found: Mapping[str, Sequence[Run | None]], late: Mapping[str, str]) -> list[Row]:
    """What is told of one size."""
    at = f"{case}, {job.departments} departments, {job.steps} steps"
    rows = []
    for name, told in SYSTEMS.items():
        if name in found:
            middle = _median(found[name])
            failed = found[name].count(None)
            but = f"{failed} of {len(found[name])} turns failed: {late[name]}" if failed else ""
            rows.append(Row(f"{told}: milliseconds of a round, {at}", 1e3 * middle.per_round, why=but))
            rows.append(
                Row(f"{told}: seconds of {job.rounds} rounds from the start of the process, {at}", middle.whole)
            )
        else:
            rows.append(Row(f"{told}: milliseconds of a round, {at}", None, why=late.get(name, "")))
    limits = {"ring": 1.10, "exact": 1.25}
    for name, bound in limits.items():
        target = job.departments == 100 or name == "ring"
        rows.append(_ratio(f"{SYSTEMS[name]} ÷ bare loop, a round, {at}", name, "bare", found, late,
                           ("<=", bound) if target else None))  # fmt: skip
    five = ">=", 5.0 if case == "mlp" and job.departments == 100 else 1.0
    rows.append(_ratio(f"Flower's simulation ÷ ours (ring), a round, {at}", "flower", "ring", found, late, five))
    rows.append(_ratio(f"pfl ÷ ours (ring), a round, {at}", "pfl", "ring", found, late, (">=", 1.0)))
    for name in ("flower", "pfl"):
        rows.append(_ratio(f"{SYSTEMS[name]} ÷ ours (ring), whole run with its start, {at}", name, "ring", found, late,
                           None, whole=True))  # fmt: skip
    return rows


def _ratio(
    what: str,
    over: str,
    under: str,
    found: Mapping[str, Sequence[Run | None]],
    late: Mapping[str, str],
    target: tuple[str, float] | None,
    *,
    whole: bool = False,
) -> Row:
    relation, bound = target or ("", 0.0)
    missing = [name for name in (over, under) if name not in found]
    if missing:
        return Row(what, None, why=late.get(missing[0], ""))
    pairs = [(a, b) for a, b in zip(found[over], found[under], strict=True) if a and b]
    if not pairs:
        return Row(what, None, why="no turn in which both ran")
    value = statistics.median((a.whole / b.whole) if whole else (a.per_round / b.per_round) for a, b in pairs)
    if relation == "<=":
        return Row(
            what, value, "<=", bound, 1.0, "the rest of a round: rows held out are scored, contributions encoded"
        )
    return Row(what, value, ">=", bound) if relation else Row(what, value)


def _median(runs: Sequence[Run | None]) -> Run:
    ran = [run for run in runs if run is not None]
    return Run(statistics.median(run.per_round for run in ran), statistics.median(run.whole for run in ran))


def _timed(name: str, job: Job, peers: Path) -> Run:
    """One run of one system, in a process of its own.  Raises ProcessDied."""
    module = f"bench_simulation_{'ours' if name in ('ring', 'exact') else name}"
    python = _environment(peers) if name in _PEERS else THIS
    if name in ("ring", "exact"):
        job = replace(job, sum="ring" if name == "ring" else "exact")
    began = time.time()
    ended = json.loads(_last_line(command(python, module, job.text()), SYSTEMS[name]))["ended"]
    return Run(statistics.median(np.diff(ended).tolist()), ended[-1] - began)


@cache
def _environment(folder: Path) -> Path:
    return environment(folder)


def _last_line(call: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(
            call, env=around(), capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ProcessDied(f"{what} took longer than {_PATIENCE:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ProcessDied(f"{what} ended with status {done.returncode}: {said}", hint="run it alone to see more")
    return lines[-1]


# -- ours alone --------------------------------------------------------------------------------------------------------


def _memory(folder: Path, progress: Progress, bar: TaskID) -> list[Row]:
    """Anonymous memory of all processes after two rounds in which nobody stays awake; per department by difference."""
    held = []
    progress.update(bar, total=len(_IDLE))
    for size in _IDLE:
        progress.update(bar, description=f"memory: {size} departments")
        job = Job("mlp", size, 2, str(folder / f"memory-{size}"), steps=1, heads="private")
        job.write()
        last = _last_line(command(THIS, "bench_simulation_ours", job.text(), "memory"), "ours")
        held.append(int(json.loads(last)["held"]))
        progress.advance(bar)
    each = (held[1] - held[0]) / (_IDLE[1] - _IDLE[0])
    state = 2 * 4 * (32 * 10 + 10)  # a private head and its momentum
    return [
        Row("private state of a department, bytes (on disk)", state),
        Row(f"memory of an idle department, bytes ({_IDLE[0]} against {_IDLE[1]} departments)", each, "<=",
            state + _ALLOWED),
        Row(f"all processes with {_IDLE[1]} departments, MB", held[1] / 1e6),
    ]  # fmt: skip


def _linear(folder: Path, progress: Progress, bar: TaskID) -> list[Row]:
    """Time of a round against the number of departments."""
    seconds = []
    progress.update(bar, total=len(_LINEAR))
    for size in _LINEAR:
        progress.update(bar, description=f"linear: {size} departments")
        job = Job("mlp", size, 4, str(folder / "linear"), steps=2)
        job.write()
        seconds.append(_timed("ring", job, folder).per_round)
        progress.advance(bar)
    n, t = np.array(_LINEAR, dtype=float), np.array(seconds)
    slope, offset = np.polyfit(n, t, 1)
    left = float(((t - (slope * n + offset)) ** 2).sum() / ((t - t.mean()) ** 2).sum())
    rows = [Row(f"milliseconds of a round, {size} departments, 2 steps", 1e3 * s) for size, s in zip(n, t, strict=True)]
    return [
        *rows,
        Row("fit of a line: milliseconds per department", 1e3 * float(slope)),
        Row("fit of a line: milliseconds of a round without departments", 1e3 * float(offset)),
        Row("fit of a line: R²", 1 - left, ">=", 0.99),
        Row("time per department, 10,000 ÷ 1,000", float((t[-1] / n[-1]) / (t[0] / n[0])), "<=", 1.1),
    ]
