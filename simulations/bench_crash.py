"""What crashes and faults do to a run: nothing that lasts.  See ``docs/crashes.md``.

``matrix``   SIGKILL at every numbered point, in real processes over TLS; afterwards every version of the backbone is
             compared with the same run undisturbed
``restart``  from the start of a process that was killed to the first request that is accepted
``faults``   slow and cut lines, full disks, wrong clocks, a coordinator and a department that move
``lies``     a network in memory that delays, repeats, reorders and drops
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from commonroot.common.errors import ConfigError
from commonroot.simulations import bench_crash_faults, bench_crash_lies, bench_crash_matrix, bench_crash_restart
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_crash_matrix import Outcome, Strike
from commonroot.simulations.crash_points import POINTS, point

CASES: Final = ("matrix", "restart", "faults", "lies")


def run(console: Console, only: Sequence[str] = (), *, data: Path | None = None, out: Path) -> list[Row]:
    """Rows of the named cases, or of all.  ``data`` is not used.  ConfigError for a case that there is none of."""
    unknown = [name for name in only if name not in CASES]
    if unknown:
        raise ConfigError(f"no case {unknown[0]!r} of crash", hint=f"cases: {', '.join(CASES)}")
    rows: list[Row] = []
    for name in only or CASES:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        rows += {
            "matrix": matrix,
            "restart": bench_crash_restart.run,
            "faults": bench_crash_faults.run,
            "lies": bench_crash_lies.run,
        }[name](out / name, console)
    return rows


def matrix(root: Path, console: Console) -> list[Row]:
    """Every point.  The scenarios run two at a time: most of their time is spent waiting for a process to start."""
    scenarios = bench_crash_matrix.scenarios()
    total = sum(len(one.points) for one in scenarios)
    with _bar(console, total) as tell, ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(bench_crash_matrix.run_scenario, root / f"scenario-{at}", scenario, tell)
            for at, scenario in enumerate(scenarios, start=1)
        ]
        outcomes = [one.result() for one in running]
    records = [bench_crash_matrix.as_record(one) for one in outcomes]
    (root / "matrix.json").write_text(json.dumps(records, indent=2))
    return matrix_rows(outcomes)


def matrix_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for all points together, what the books say, and one row a point."""
    strikes = [strike for outcome in outcomes for strike in outcome.strikes]
    well = {number for number in (p.number for p in POINTS) if _well(number, strikes)}
    missing = [p.number for p in POINTS if p.number not in well]
    took = [strike.seconds for strike in strikes if strike.seconds is not None]
    troubles = "; ".join(f"{one.scenario}: {told}" for one in outcomes for told in one.trouble)
    rows = [
        Row("points of a run at which SIGKILL leaves the aggregates of the undisturbed run, share of all",
            len(well) / len(POINTS), ">=", 1.0, why=", ".join(missing)),
        Row("numbered points", len(POINTS)),
        Row("kills", sum(strike.happened for strike in strikes)),
        Row("runs that did not go on by themselves", sum(not one.ended for one in outcomes), "<=", 0, why=troubles),
        Row("processes that ended by themselves", sum(len(one.trouble) for one in outcomes), "<=", 0, why=troubles),
        Row("versions made twice, or missing",
            sum(one.findings.rounds_twice + one.findings.versions_missing for one in outcomes), "<=", 0),
        Row("survivor sets or answers that changed",
            sum(one.findings.sets_changed + one.findings.answers_changed for one in outcomes), "<=", 0),
        Row("departments whose heads are not those of the undisturbed run", sum(one.heads_changed for one in outcomes),
            "<=", 0),
        Row("ledgers whose chain is broken", sum(one.findings.chains_broken for one in outcomes), "<=", 0),
        Row("from a kill to the next version: slowest, in seconds", max(took, default=0.0)),
    ]  # fmt: skip
    return rows + [_point_row(strike) for strike in strikes]


def _well(number: str, strikes: Sequence[Strike]) -> bool:
    """Whether a point was struck at, and every time without a trace."""
    here = [strike for strike in strikes if strike.number == number]
    return bool(here) and all(strike.identical for strike in here)


def _point_row(strike: Strike) -> Row:
    of = point(strike.number)
    who = "everybody" if strike.everybody else strike.who
    what = f"{strike.label}  {of.place}: {who} killed, the run ends as if nothing had happened"
    return Row(what, float(strike.identical), ">=", 1, why=strike.why or "another version, or none")


class _bar:
    """A bar over the points; call it with every strike."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("kill -9"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )
        self._task = self._progress.add_task("kill -9", total=total, told="")

    def __enter__(self) -> Callable[[Strike], None]:
        self._progress.start()
        return partial(self._tell)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _tell(self, strike: Strike) -> None:
        self._progress.update(self._task, advance=1, told=f"{strike.label} {strike.who} {strike.why}")
