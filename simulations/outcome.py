"""A run as one report: what each department gained, what the coordinator saw, how the rounds went.

Departments' own reports are read from their folders, which is possible only where one person owns them all (the demo, a
simulation).  In deployment every department reads its own and nobody reads them together.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from commonroot.client.learner import read_report
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.status import status_of


def outcome(coordinator: Path, departments: dict[str, Path], *, charter: str | None = None) -> dict[str, Any]:
    """The report of the newest run, or of the run of the charter with this hash: see the keys below.

    Gains and intervals are in points (1 point = 0.01).
    """
    status = status_of(CoordinatorFolder(coordinator))
    run = [run for run in status["runs"] if charter in (None, run["charter"])][-1]
    closed = [r for r in run["rounds"] if r["state"] == "closed"]
    history = [
        {
            "round": r["round"],
            "version": r["version"] + 1,
            "cohort": len(r["report"]["cohort"]),
            "survivors": len(r["report"]["survivors"]),
            "loss": r["report"].get("loss"),
            "held_out": r["report"].get("held_out"),
            "seconds": r["report"]["seconds"],
            "clipped_share": r["report"]["clipped_share"],
        }
        for r in closed
    ]
    wire = [r["report"]["upload_bytes"] + r["report"]["share_bytes"] for r in closed]
    return {
        "federation": status["federation"],
        "charter": run["charter"],
        "state": run["state"],
        "reason": run["reason"],
        "rounds": len(closed),
        "rounds_wanted": run["rounds_wanted"],
        "lost_rounds": sum(1 for r in run["rounds"] if r["state"] == "lost"),
        "seconds_per_round": statistics.median(row["seconds"] for row in history) if history else 0.0,
        "departments": [read_report(folder) for folder in departments.values() if (folder / "report.json").exists()],
        "coordinator_saw": status["received"],
        "bytes_per_department_per_round": round(statistics.median(wire)) if wire else 0,
        "history": history,
    }


def kept_model(department: Path, charter: str) -> Path | None:
    """Where the model lies that a department chose under the charter of this hash; None where it chose none."""
    kept = (department / "predictors").glob(f"{charter[:16]}-version-*")
    return max(kept, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def kept_models(departments: Path, charter: str) -> dict[str, Path]:
    """The same of every department below a folder that chose one."""
    found = {folder.name: kept_model(folder, charter) for folder in sorted(departments.iterdir())}
    return {name: path for name, path in found.items() if path is not None}
