"""``commonroot demo``: a real federation on this machine, from nothing to a table of what each department gained.

One coordinator and five department daemons as separate processes over TLS on loopback, on scikit-learn's handwritten
digits; every update inside a secure sum, every head on its department's own disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from commonroot.common.errors import ConfigError, RunStopped
from commonroot.files import atomic_write
from commonroot.server.journal_rows import Round, Run
from commonroot.simulations.deployment import follow, start
from commonroot.simulations.digits import write_departments
from commonroot.simulations.faults import FaultScript
from commonroot.simulations.founding import Federation, found
from commonroot.simulations.outcome import outcome
from commonroot.simulations.processes import Processes, free_port, processes
from commonroot.simulations.report import render_table, write_html

_MARK = "made-by-commonroot-demo"
#: The whole demo is given up after this many seconds.
_LIMIT = 600.0

CHARTER = """\
federation = "digits"
name = "demo"
rounds = {rounds}

[method]
name = "fedper"

[backbone]
inputs = 64
widths = [128, 64]

[training]
seed = {seed}
weight_cap = 1000
"""


def run_demo(root: Path, *, rounds: int, seed: int, faults: bool, console: Console) -> dict[str, Any]:
    """Found, run and report; returns the report, which also lies in ``root/report.json`` and ``root/report.html``."""
    _fresh(root)
    console.print(f"founding a federation of five departments in {root} …")
    sections = write_departments(root / "data", seed=seed)
    federation = found(
        root,
        federation="digits",
        charter_toml=CHARTER.format(rounds=rounds, seed=seed),
        departments=sections,
        port=free_port(),
        seed=seed,
    )
    script = FaultScript(federation, rounds) if faults else None
    with processes(root / "logs") as running:
        start(running, federation)
        with _progress(console, rounds) as tell:
            _watch(federation, running, script, tell)
    report = outcome(federation.coordinator.root, {n: d.root for n, d in federation.departments.items()})
    if script is not None:
        report["faults"] = script.verdict()
    atomic_write(root / "report.json", json.dumps(report, indent=2).encode())
    write_html(report, root / "report.html")
    if report["state"] != "finished" or len(report["departments"]) != len(federation.departments):
        raise RunStopped(f"the run is {report['state']} after {report['rounds']} rounds: {report['reason'] or 'late'}")
    return report


def show(report: dict[str, Any], root: Path, console: Console) -> None:
    """The report for people."""
    console.print(render_table(report))
    saw = ", ".join(f"{row['parcels']} {row['kind']} ({row['bytes']:,} B)" for row in report["coordinator_saw"])
    console.print(
        f"{report['rounds']} rounds, median {report['seconds_per_round']:.2f} s; "
        f"{report['bytes_per_department_per_round']:,} bytes a department and round"
    )
    console.print(f"the coordinator received: {saw}; none of it opens but as a sum")
    if "faults" in report:
        for line in report["faults"]["told"]:
            console.print(f"fault: {line}")
    console.print(f"report: {root / 'report.html'}", soft_wrap=True)


def _watch(
    federation: Federation,
    running: Processes,
    script: FaultScript | None,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Follow the run to its end; the fault script strikes in between."""
    told = 0

    def look(run: Run, rounds: Sequence[Round], chosen: Collection[str]) -> None:
        nonlocal told
        closed = [r for r in rounds if r.state == "closed"]
        for done in closed[told:]:
            tell({"round": done.version + 1, "cohort": len(done.report["cohort"])} | done.report)
        told = len(closed)
        if script is not None:
            script.look(rounds, running)
        if run.state == "running" and len(closed) == run.charter.charter.rounds:
            tell({"closing": len(chosen)})

    follow(federation, running, look, limit=_LIMIT, every=0.05 if script is not None else 0.2)


@contextmanager
def _progress(console: Console, rounds: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task("starting", total=rounds, told="")

        def tell(facts: dict[str, Any]) -> None:
            if "closing" in facts:
                told = f"{facts['closing']} departments have chosen"
                progress.update(task, description="choosing", told=told)
                return
            told = f"cohort {facts['cohort']}  summed loss {facts.get('held_out', 0):.3f}  {facts['seconds']:.2f} s"
            progress.update(task, completed=facts["round"], description="rounds", told=told)

        yield tell


def _fresh(root: Path) -> None:
    """An empty folder.  One that an earlier demo made is replaced; anything else is left alone."""
    if root.exists() and any(root.iterdir()):
        if not (root / _MARK).exists():
            raise ConfigError(f"{root} exists and no demo made it", hint="choose another folder with --folder")
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    atomic_write(root / _MARK, b"")
