"""Real data, end to end: each dataset's departments simulated as a data team would set them up.

For every case the row is what the models that departments kept come to on test rows (see ``Figures``), beside what
departments are known to reach alone under the same protocol (the targets, all from the first published or measured
figures for these splits).  ``commonroot bench data heart engines`` runs those; without names, all that are on this
machine.  What was found for each department is written beside the rows.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console

from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.simulations import bench_data_loading
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_data_further import (
    ROUNDING,
    Further,
    apart_from_pooled,
    cost_of_median_orders,
    not_better,
    order_cost,
    worse_off,
)
from commonroot.simulations.datasets import find, get
from commonroot.simulations.datasets.world import World
from commonroot.simulations.outcome import kept_models
from commonroot.simulations.progress import ArmsProgress
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate
from commonroot.simulations.transfer_figures import explained, test_targets, wape

Relation = Literal["<=", ">=", ""]
Reports = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """One simulated run of a case.

    reports   by department, as each wrote its own
    sections  ``[data]`` by department
    models    by department, where the one it kept lies
    charter   the fields of the charter, its seed included
    """

    reports: Reports = field(repr=False)
    sections: Mapping[str, Mapping[str, Any]] = field(repr=False)
    models: Mapping[str, Path] = field(repr=False)
    charter: Mapping[str, Any] = field(default_factory=dict, repr=False)


#: What a run comes to: the figure of the models kept, and that of the best models alone.
Figures = Callable[[Found], tuple[float, float]]


def mean_of_departments(found: Found) -> tuple[float, float]:
    """The mean over departments of their own metric."""
    kept, alone = (
        statistics.mean(float(report[key]) for report in found.reports.values()) for key in ("chosen", "alone")
    )
    return kept, alone


def explained_of_all(found: Found) -> tuple[float, float]:
    """The share of everybody's variance explained at once; departments report that of their own."""
    targets = [test_targets(found.sections[name]) for name in found.reports]
    kept, alone = ([float(report[key]) for report in found.reports.values()] for key in ("chosen", "alone"))
    return explained(kept, targets), explained(alone, targets)


def absolute_share(found: Found) -> tuple[float, float]:
    """The mean over stores of Σ|sales - forecast| / Σ sales; of the best models alone only their reports are left."""
    kept = statistics.mean(wape(found.models[name], found.sections[name]) for name in found.reports)
    return kept, mean_of_departments(found)[1]


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset under one protocol.

    metric    in words
    relation  in which the figure of what departments keep must stand to ``bound``
    bound     None: the figure of the best models alone in the same runs
    seeds     of runs, whose figures are averaged; many where runs are cheap and departments small
    figures   what a run comes to
    scale     of the figure of the best models alone, where it is not that of the models kept
    further   more rows
    """

    dataset: str
    protocol: str
    metric: str
    relation: Relation = ""
    bound: float | None = 0.0
    seeds: tuple[int, ...] = (1,)
    figures: Figures = mean_of_departments
    scale: str = ""
    further: tuple[Further, ...] = ()

    @property
    def name(self) -> str:
        """As it is called in rows."""
        return f"{self.dataset} ({self.protocol})"


#: Bounds are what departments reach alone.
CASES: Final = (
    Case("sentiment", "even", "accuracy", ">=", 0.771),
    Case("sentiment", "uneven", "accuracy", ">=", 0.702),
    Case("stars", "raw", "RMSE", "<=", None),
    Case("clothing", "recommended", "AUC", ">=", 0.895),
    Case("clothing", "stars", "RMSE", "<=", None),
    Case("heart", "flamby", "accuracy", ">=", 0.838, seeds=tuple(range(1, 11))),
    Case("school", "quarter", "explained variance", ">=", 0.328, figures=explained_of_all),
    Case("engines", "forty", "RMSE", "<=", 18.1, further=(Further("fleets worse off than alone", worse_off),)),
    Case(
        "valves",
        "benchmark",
        "F1",
        ">=",
        0.29,
        further=(Further("lines worse off than alone", worse_off, "<=", 0),),
    ),
    Case(
        "sales",
        "weeks-13",
        "WAPE",
        "<=",
        0.0855,
        figures=absolute_share,
        scale=", in multiples of each row's level",
        further=(
            Further("WAPE of the models kept, in multiples of each row's level", lambda f: mean_of_departments(f)[0]),
            Further("cost of the newsvendor's orders per unit of sales", order_cost),
            Further("the same of ordering the median forecast", cost_of_median_orders),
        ),
    ),
    Case(
        "films",
        "occupations",
        "RMSE",
        "<=",
        0.943,
        further=(
            Further("largest |federated - pooled| of an item's factors", apart_from_pooled, "<=", ROUNDING, max),
            Further("groups whose federated RMSE is not below that alone", not_better, "<=", 0, max),
        ),
    ),
    Case("office", "surf", "accuracy", ">=", 0.463, seeds=(1, 2, 3)),
    Case("office", "googlenet", "accuracy", ">=", 0.964, seeds=(1, 2, 3)),
    Case("digit-images", "labels", "accuracy", ">=", None),
    Case("tags", "templates", "F1"),
)


def run(console: Console, names: Sequence[str] = (), *, data: Path | None = None, out: Path | None = None) -> list[Row]:
    """Every case of the named datasets, or of all that are on this machine.

    data  where published files are looked for first
    out   folder for what was found for each department; nothing is written without it

    Raises ConfigError for an unknown dataset, or a named one whose files are not here.
    """
    for name in names:
        _ = get(name) if name != bench_data_loading.NAME else None
    rows: list[Row] = []
    if not names or bench_data_loading.NAME in names:
        rows += bench_data_loading.run(console, out=out)
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
    reports: list[Reports] = []
    figures, further = [], []
    for seed in case.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            found = _simulated(case, source, Path(scratch), seed, console)
            figures.append(case.figures(found))
            further.append([one.of(found) for one in case.further])
            reports.append(found.reports)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / f"{case.dataset}-{case.protocol}.json", json.dumps(reports, indent=1).encode())
    kept, alone = (statistics.mean(column) for column in zip(*figures, strict=True))
    over = f"mean over {len(case.seeds)} seeds" if len(case.seeds) > 1 else f"seed {case.seeds[0]}"
    bound = alone if case.bound is None else case.bound
    return [
        Row(f"{case.name}: {case.metric} of the models kept, {over}", kept, case.relation, bound),
        Row(f"{case.name}: {case.metric} of the best models alone{case.scale}, {over}", alone),
        *(
            Row(f"{case.name}: {one.what}", one.over(values), one.relation, one.bound)
            for one, values in zip(case.further, zip(*further, strict=True), strict=True)
        ),
    ]


def _simulated(case: Case, source: Path, scratch: Path, seed: int, console: Console) -> Found:
    world, scenario = scenario_of(case, source, scratch / "tables", seed)
    with ArmsProgress(console) as tell:
        result = simulate(scenario, folder=scratch / "run", sum="ring", tell=tell)  # what the whole protocol gives
    [report] = result["arms"]
    reports = {one["name"]: one for one in report["departments"]}
    models = kept_models(next((scratch / "run" / "arms").iterdir()) / "departments", report["charter"])
    charter = scenario.draft.model_dump(mode="json", exclude={"federation", "name"}, exclude_none=True)
    return Found(reports, world.departments, models, charter)


def scenario_of(case: Case, source: Path, target: Path, seed: int) -> tuple[World, Scenario]:
    """A case's tables, written into ``target``, and the federation of their departments."""
    world = get(case.dataset).write(source, target, seed=seed, protocol=case.protocol)
    charter = {**world.charter, "training": {"seed": seed, **world.charter.get("training", {})}}
    scenario = Scenario.model_validate(
        {
            "seed": seed,
            "charter": {"federation": case.dataset, "name": case.protocol, **charter},
            "departments": [{"name": name, "data": section} for name, section in world.departments.items()],
        }
    )
    return world, scenario
