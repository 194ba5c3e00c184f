"""Real data, end to end: each dataset's departments simulated with the real rounds, as a data team would set them up.

For every dataset the row is the mean over departments of the test score of the model each department kept, beside what
departments are known to reach alone under the same protocol (the targets, all from the first published or measured
figures for these splits).  ``commonroot bench data heart engines`` runs those; without names, all that are on this
machine.  What was found for each department is written beside the rows.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console

from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.simulations.bench import Row
from commonroot.simulations.datasets import find, get
from commonroot.simulations.progress import ArmsProgress
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate
from commonroot.simulations.transfer_figures import wape

Relation = Literal["<=", ">=", ""]
SEEDS: Final = (1,)


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset under one protocol.

    figure    what is reported, of the column ``chosen`` or ``alone`` of departments' reports
    relation  in which the mean of what departments keep must stand to ``bound``
    """

    dataset: str
    protocol: str
    metric: str
    relation: Relation = ""
    bound: float = 0.0

    @property
    def name(self) -> str:
        """As it is called in rows."""
        return f"{self.dataset} ({self.protocol})"


#: Bounds are what departments reach alone.
CASES: Final = (
    Case("sentiment", "even", "accuracy", ">=", 0.771),
    Case("sentiment", "uneven", "accuracy", ">=", 0.702),
    Case("stars", "raw", "RMSE"),
    Case("clothing", "recommended", "AUC", ">=", 0.895),
    Case("clothing", "stars", "RMSE"),
    Case("heart", "flamby", "accuracy", ">=", 0.838),
    Case("engines", "forty", "RMSE", "<=", 18.1),
    Case("valves", "benchmark", "F1", ">=", 0.29),
    Case("sales", "weeks-13", "WAPE", "<=", 0.0855),
    Case("films", "occupations", "RMSE", "<=", 0.943),
    Case("office", "surf", "accuracy", ">=", 0.463),
    Case("office", "googlenet", "accuracy", ">=", 0.964),
    Case("tags", "templates", "F1"),
)


def run(console: Console, names: Sequence[str] = (), *, data: Path | None = None, out: Path | None = None) -> list[Row]:
    """Every case of the named datasets, or of all that are on this machine.

    data  where published files are looked for first
    out   folder for what was found for each department; nothing is written without it

    Raises ConfigError for an unknown dataset, or a named one whose files are not here.
    """
    for name in names:
        get(name)
    rows: list[Row] = []
    for case in CASES:
        if names and case.dataset not in names:
            continue
        folder = get(case.dataset).folder
        source = find(folder, data) if folder else Path()
        if source is None:
            if names:
                raise ConfigError(f"{folder} is not on this machine", hint=f"commonroot download {case.dataset}")
            console.print(f"{case.name}: skipped, its data is not on this machine")
            continue
        rows += _rows(case, source, console, out)
    return rows


def _rows(case: Case, source: Path, console: Console, out: Path | None) -> list[Row]:
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as scratch:
            found.append(_simulated(case, source, Path(scratch), seed, console))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        told = json.dumps([reports for reports, _ in found], indent=1).encode()
        atomic_write(out / f"{case.dataset}-{case.protocol}.json", told)
    kept = statistics.mean(figures["chosen"] for _, figures in found)
    alone = statistics.mean(figures["alone"] for _, figures in found)
    return [
        Row(f"{case.name}: {case.metric} of the models kept, mean over departments", kept, case.relation, case.bound),
        Row(f"{case.name}: {case.metric} of the best models alone", alone),
    ]


def _simulated(
    case: Case, source: Path, scratch: Path, seed: int, console: Console
) -> tuple[dict[str, Any], dict[str, float]]:
    world = get(case.dataset).write(source, scratch / "tables", seed=seed, protocol=case.protocol)
    scenario = Scenario.model_validate(
        {
            "seed": seed,
            "charter": {"federation": case.dataset, "name": case.protocol, **world.charter},
            "departments": [{"name": name, "data": section} for name, section in world.departments.items()],
        }
    )
    with ArmsProgress(console) as tell:
        result = simulate(scenario, folder=scratch / "run", tell=tell)
    reports = {report["name"]: report for report in result["arms"][0]["departments"]}
    figures = {which: _figure(reports, which) for which in ("chosen", "alone")}
    if case.dataset == "sales":
        folders = next((scratch / "run" / "arms").iterdir()) / "departments"
        figures["chosen"] = statistics.mean(wape(folders / name, world.departments[name]) for name in reports)
    return reports, figures


def _figure(reports: Mapping[str, dict[str, Any]], which: str) -> float:
    return statistics.mean(float(report[which]) for report in reports.values())
