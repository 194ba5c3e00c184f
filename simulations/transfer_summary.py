"""From cells to what they say: by dataset and method, what departments gained, and whether anybody was harmed.

One *arm* is one method on one dataset under one protocol, over all its seeds.  It has two readings: ``kept``, the model
that each department's guard kept, and ``federated``, the shared model whether it was kept or not (what the method would
be without a guard; absent where there is none).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from commonroot.simulations.arms import POOLED
from commonroot.simulations.statistics_of_gain import (
    Finding,
    Interval,
    Series,
    cluster_bootstrap,
    findings,
    interval_over_seeds,
)
from commonroot.simulations.transfer_cells import OWN, Cell, Result

Reading = Literal["kept", "federated"]
READINGS: Final[tuple[Reading, ...]] = ("kept", "federated")
#: Of the bootstrap; results are the same every time.
_SEED: Final = 20


@dataclass(frozen=True, slots=True)
class Department:
    """One department under one arm.  Lists have one entry per seed that it finished."""

    name: str
    task: str
    metric: str
    better: str
    unit: str
    rows: tuple[int, int]
    alone: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    federated: list[float] = field(default_factory=list)
    gains: dict[Reading, list[float]] = field(default_factory=lambda: {"kept": [], "federated": []})
    intervals: dict[Reading, list[tuple[float, float]]] = field(default_factory=lambda: {"kept": [], "federated": []})
    choices: list[str] = field(default_factory=list)
    whys: list[str] = field(default_factory=list)
    changed: list[tuple[int, int] | None] = field(default_factory=list)

    def series(self, reading: Reading) -> Series:
        """For the tests."""
        one = len(self.gains[reading]) == 1
        changed = self.changed[0] if one and reading == "kept" else None
        interval = self.intervals[reading][0] if one else None
        return Series(self.gains[reading], self.alone, self.unit, interval, changed)

    def interval(self, reading: Reading) -> tuple[float, float]:
        """Of the gain: over seeds, or over test rows where there is one."""
        if len(self.gains[reading]) == 1:
            return self.intervals[reading][0]
        return interval_over_seeds(self.gains[reading])


@dataclass(frozen=True, slots=True)
class Arm:
    """One method on one dataset under one protocol, over its seeds."""

    dataset: str
    protocol: str
    method: str
    cells: Sequence[Result] = field(repr=False)
    departments: Sequence[Department] = field(repr=False)

    @property
    def federates(self) -> bool:
        """Is there a shared model in it?"""
        return any(department.gains["federated"] for department in self.departments)

    def having(self, reading: Reading) -> list[Department]:
        """Departments that have such a reading."""
        return [department for department in self.departments if department.gains[reading]]

    def mean_gain(self, reading: Reading = "kept") -> Interval:
        """Mean over departments, cluster-bootstrapped."""
        return cluster_bootstrap([one.gains[reading] for one in self.having(reading)], seed=_SEED)

    def findings(self, reading: Reading = "kept") -> dict[str, Finding]:
        """Who was harmed, Holm-corrected over its departments."""
        return findings({one.name: one.series(reading) for one in self.having(reading)})

    def score(self, which: Literal["alone", "kept", "federated"]) -> float:
        """Mean over departments and seeds of the metric."""
        found = [statistics.mean(values) for one in self.departments if (values := getattr(one, which))]
        return statistics.mean(found) if found else math.nan

    def figure(self, name: str) -> float:
        """Mean over seeds of one of the dataset's own figures; NaN where it has none."""
        found = [cell["figures"][name] for cell in self.cells if name in cell["figures"]]
        return statistics.mean(found) if found else math.nan

    def cost(self, name: str) -> float | None:
        """Median over seeds of ``rounds``, ``bytes_received``, ``seconds`` …; None where nothing is sent."""
        found = [cell[name] for cell in self.cells if cell[name] is not None]
        return statistics.median(found) if found else None

    def choices(self) -> Counter[str]:
        """How often each kind of model was kept."""
        return Counter(choice for one in self.departments for choice in one.choices)

    def curve(self) -> list[dict[str, Any]]:
        """Held-out loss by round, the mean over seeds that have it."""
        by_round: dict[int, list[float]] = defaultdict(list)
        for cell in self.cells:
            for row in cell["history"]:
                if row["held_out"] is not None:
                    by_round[row["round"]].append(row["held_out"])
        return [{"round": at, "held_out": statistics.mean(values)} for at, values in sorted(by_round.items())]


def arms(results: Mapping[Cell, Result]) -> list[Arm]:
    """Cells by what they are, seeds together, in the order they come; the charter's own method goes by its name.

    Where the charter's own method was asked for by its name as well, one of the two is left out.
    """
    grouped: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for cell, result in results.items():
        grouped[cell.dataset, cell.protocol, cell.method].append(result)
    out, seen = [], set()
    for (dataset, protocol, method), cells in grouped.items():
        cells.sort(key=lambda cell: cell["cell"]["seed"])
        ran = (dataset, protocol, str(cells[0]["method"]))
        if ran in seen and method != OWN:
            continue
        seen.add(ran)
        out.append(Arm(dataset, protocol, method, cells, _departments(cells)))
    return out


def label(arm: Arm) -> str:
    """What people call it."""
    if arm.method != OWN:
        return arm.method
    return str(arm.cells[0]["method"]["name"])


def _departments(cells: Sequence[Result]) -> list[Department]:
    found: dict[str, Department] = {}
    for cell in cells:
        for row in cell["departments"]:
            if row["name"] not in found:
                rows = (row["n_train"], row["n_test"])
                about = (row["name"], row["task"], row["metric"], row["better"], row["unit"])
                found[row["name"]] = Department(*about, rows)
            _add(found[row["name"]], row)
    return list(found.values())


def _add(one: Department, row: Mapping[str, Any]) -> None:
    one.alone.append(row["alone"])
    one.kept.append(row["chosen"])
    one.gains["kept"].append(row["gain"])
    low, high = row["interval"]
    one.intervals["kept"].append((low, high))
    one.choices.append(row["choice"])
    one.whys.append(row["why"])
    changed = row["changed"]
    one.changed.append(None if changed is None else (changed["gained"], changed["lost"]))
    effect = row["gain_federated"]
    if effect is not None and row["federated"] is not None:
        one.federated.append(row["federated"])
        one.gains["federated"].append(effect["points"])
        one.intervals["federated"].append((effect["low"], effect["high"]))


def worse(found: Mapping[str, Finding]) -> list[str]:
    """Names of departments that are significantly worse."""
    return [name for name, finding in found.items() if finding.verdict == "worse"]


def as_json(all_arms: Iterable[Arm], failed: Mapping[Cell, str]) -> dict[str, Any]:
    """Everything for machines: one entry per arm, and what could not be run."""
    return {
        "arms": [_arm_json(arm) for arm in all_arms],
        "not_run": [
            {"dataset": c.dataset, "protocol": c.protocol, "method": c.method, "seed": c.seed, "why": why}
            for c, why in failed.items()
        ],
    }


def _arm_json(arm: Arm) -> dict[str, Any]:
    tested = {reading: arm.findings(reading) for reading in READINGS if arm.having(reading)}
    return {
        "dataset": arm.dataset,
        "protocol": arm.protocol,
        "method": label(arm),
        "options": arm.cells[0]["method"].get("options", {}),
        "own": arm.method == OWN,
        "pooled": arm.method == POOLED,
        "about": arm.cells[0]["about"],
        "seeds": [cell["cell"]["seed"] for cell in arm.cells],
        "states": [cell["state"] for cell in arm.cells],
        "scores": {which: _finite(arm.score(which)) for which in ("alone", "federated", "kept")},
        **{
            f"gain_{reading}": {
                **_interval(arm.mean_gain(reading)),
                "worse": worse(found),
                "shown_no_worse": sum(finding.verdict == "no worse" for finding in found.values()),
                "departments": len(found),
            }
            for reading, found in tested.items()
        },
        "choices": dict(arm.choices()),
        "rounds": arm.cost("rounds"),
        "bytes_received": arm.cost("bytes_received"),
        "bytes_per_department_per_round": arm.cost("bytes_per_department_per_round"),
        "seconds": arm.cost("seconds"),
        "figures": {name: arm.figure(name) for name in arm.cells[0]["figures"]},
        "curve": arm.curve(),
        "departments": [_department_json(one, tested) for one in arm.departments],
    }


def _department_json(one: Department, tested: Mapping[Reading, Mapping[str, Finding]]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": one.name,
        "task": one.task,
        "metric": one.metric,
        "better": one.better,
        "unit": one.unit,
        "n_train": one.rows[0],
        "n_test": one.rows[1],
        "alone": statistics.mean(one.alone),
        "federated": statistics.mean(one.federated) if one.federated else None,
        "kept": statistics.mean(one.kept),
        "choices": one.choices,
        "why": one.whys[-1],
    }
    for reading, found in tested.items():
        if one.name in found:
            finding, (low, high) = found[one.name], one.interval(reading)
            out[f"gain_{reading}"] = {
                "by_seed": one.gains[reading],
                "mean": finding.gain,
                "low": low,
                "high": high,
                "margin": finding.margin,
                "p_worse": finding.worse,
                "p_no_worse": finding.safe,
                "verdict": finding.verdict,
            }
    return out


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
