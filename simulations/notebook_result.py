"""What came out of a simulation, for a notebook: tables, backbones, models and pictures, arm by arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.drawing.charts import gains, losses, seconds
from commonroot.client.notebook import Department
from commonroot.common.errors import ConfigError
from commonroot.server.backbones import BackboneStore
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.arms import Arm
from commonroot.simulations.comparison import on_device, save
from commonroot.simulations.notebook_html import summary
from commonroot.simulations.outcome import kept_model
from commonroot.simulations.pictures import Picture
from commonroot.simulations.scenario import Scenario


class Backbone(NamedTuple):
    """A version of what is shared: ``tensors`` by name, float32, and which ``version`` it is."""

    version: int
    tensors: dict[str, NDArray[np.float32]]


class Result:
    """What came out of a simulation, arm by arm.

    report  everything as JSON values, as ``commonroot simulate --json`` prints it
    """

    def __init__(self, report: dict[str, Any], scenario: Scenario, arms: Sequence[Arm], root: Path) -> None:
        self.report = report
        self.scenario = scenario
        self.folder = root
        self._arms = {arm.label: arm for arm in arms}

    # -- as tables -------------------------------------------------------------------------------------------------

    @property
    def arms(self) -> list[str]:
        """Their labels, as they were asked for."""
        return list(self._arms)

    @property
    def departments(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(row["department"] for row in self.report["table"]))

    @property
    def table(self) -> pl.DataFrame:
        """One row for each department and arm, on its own test rows: ``alone``, ``federated``, ``gain`` of the latter
        with its 95 % interval in ``unit``, and the ``choice`` that the department made without those rows, with what
        that gains.  Empty after a quick simulation."""
        rows = [_flat(row) for row in self.report["table"] if row["task"] is not None]
        return pl.DataFrame(rows, schema=_TABLE, orient="row")

    @property
    def rounds(self) -> pl.DataFrame:
        """Every round of every arm: losses are known only as sums over departments, in multiples of guessing."""
        rows = [
            {"arm": one["arm"]} | {name: row.get(name) for name in list(_ROUNDS)[1:]}
            for one in self.report["arms"]
            for row in one["history"]
        ]
        return pl.DataFrame(rows, schema=_ROUNDS, orient="row")

    @property
    def costs(self) -> pl.DataFrame:
        """What each arm took: rounds, bytes of one upload and of all that was received, seconds of this machine."""
        rows = [{name: one.get(key) for name, (key, _) in _COSTS.items()} for one in self.report["arms"]]
        return pl.DataFrame(rows, schema={name: kind for name, (_, kind) in _COSTS.items()}, orient="row")

    # -- what was learned ------------------------------------------------------------------------------------------

    def backbone(self, arm: str | None = None, *, version: int | None = None) -> Backbone:
        """The shared tensors of an arm: the last version, or another one (0 is what training began with)."""
        chosen = self._federated(arm)
        digest = next(one["charter"] for one in self.report["arms"] if one["arm"] == chosen.label)
        coordinator = CoordinatorFolder(self._root(chosen) / "coordinator")
        journal = coordinator.journal()
        try:
            run = next(run.run for run in journal.runs() if run.digest == digest)
            found = {one.version: one for one in journal.versions(run)}
        finally:
            journal.close()
        wanted = max(found) if version is None else version
        if wanted not in found:
            raise ConfigError(f"{chosen.label} has no version {wanted}", hint=f"0 to {max(found)}")
        one = found[wanted]
        return Backbone(wanted, BackboneStore(coordinator.root / "backbones").read(one.file, one.digest))

    def predictor(self, arm: str | None = None, department: str | None = None) -> Department:
        """The model that a department chose at the end: ``predict`` takes frames, files and queries.

        Raises ConfigError where there is none: after a quick simulation, for ``pooled``, for a recommender.
        """
        chosen = self._federated(arm)
        names = self.departments
        if department not in names:
            raise ConfigError(f"no department {department!r}", hint=f"one of {', '.join(names[:20])}")
        digest = next(one["charter"] for one in self.report["arms"] if one["arm"] == chosen.label)
        newest = kept_model(self._root(chosen) / "departments" / str(department), digest)
        if newest is None:
            raise ConfigError(
                f"{department!r} chose no model under {chosen.label}",
                hint="departments choose at the end: simulate without quick, to the last round",
            )
        return Department(newest)

    # -- for people ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> list[Path]:
        """Write ``report.json`` and ``report.html`` into a folder, made where needed; the files."""
        return save(self.report, Path(path))

    def plot_gains(self, arm: str | None = None) -> Picture:
        """Gain of the federated model over training alone, department by department, with 95 % intervals."""
        wanted = self.arms if arm is None else [self._arm(arm).label]
        panels = []
        for label in wanted:
            rows = [
                {"name": row["department"], "gain": row["gain"], "interval": row["interval"], "unit": row["unit"]}
                for row in self.report["table"]
                if row["arm"] == label and row["gain"] is not None and row["interval"] is not None
            ]
            if rows:
                panels.append((f"{label}: gain over training alone", gains(rows, _name("gains", label))))
        if not panels:
            raise ConfigError(
                "there are no gains to draw", hint="departments compare at the end: simulate without quick"
            )
        return Picture(panels)

    def plot_rounds(self, arm: str | None = None, *, what: str = "loss") -> Picture:
        """Training and held-out loss of the sums over rounds; or their seconds, with ``what="seconds"``."""
        charts: dict[str, tuple[str, Callable[..., str]]] = {
            "loss": ("loss over rounds, held out (whole) and training (dashed)", losses),
            "seconds": ("seconds per round", seconds),
        }
        if what not in charts:
            raise ConfigError(f"what={what!r} cannot be drawn", hint="loss or seconds")
        wanted = self.arms if arm is None else [self._arm(arm).label]
        told, draw = charts[what]
        panels = [
            (f"{one['arm']}: {told}", draw(one["history"], _name(what, one["arm"])))
            for one in self.report["arms"]
            if one["arm"] in wanted and one["history"]
        ]
        if not panels:
            raise ConfigError("there are no rounds to draw")
        return Picture(panels)

    def __repr__(self) -> str:
        about, arms = self.report, "one arm" if len(self.arms) == 1 else f"{len(self.arms)} arms"
        return (
            f"Result of {about['federation']!r}: {arms}, {len(self.departments)} departments, "
            f"{about['rounds_wanted']} rounds, seed {about['seed']}, sum {about['sum']}{on_device(about)}"
        )

    def _repr_html_(self) -> str:
        return summary(repr(self), self.report, self.costs, gains=self.plot_gains, rounds=self.plot_rounds)

    # -- looking things up -----------------------------------------------------------------------------------------

    def _arm(self, label: str | None) -> Arm:
        if label is None and len(self._arms) == 1:
            return next(iter(self._arms.values()))
        if label not in self._arms:
            raise ConfigError(f"no arm {label!r}" if label else "say which arm", hint=f"one of {', '.join(self.arms)}")
        return self._arms[label]

    def _federated(self, label: str | None) -> Arm:
        found = self._arm(label)
        if found.pooled:
            raise ConfigError(
                f"{found.label} is no federation and keeps neither backbone nor models", hint="ask for another arm"
            )
        return found

    def _root(self, arm: Arm) -> Path:
        return self.folder / "arms" / arm.folder


_TABLE: Final = {
    "department": pl.String,
    "arm": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "better": pl.String,
    "alone": pl.Float64,
    "federated": pl.Float64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "unit": pl.String,
    "choice": pl.String,
    "chosen": pl.Float64,
    "chosen_gain": pl.Float64,
    "chosen_low": pl.Float64,
    "chosen_high": pl.Float64,
}
_ROUNDS: Final = {
    "arm": pl.String,
    "round": pl.Int64,
    "version": pl.Int64,
    "cohort": pl.Int64,
    "survivors": pl.Int64,
    "loss": pl.Float64,
    "held_out": pl.Float64,
    "clipped_share": pl.Float64,
    "seconds": pl.Float64,
}
#: A column's name: the report's, and its kind.
_COSTS: Final = {
    "arm": ("arm", pl.String),
    "state": ("state", pl.String),
    "rounds": ("rounds", pl.Int64),
    "lost_rounds": ("lost_rounds", pl.Int64),
    "seconds_per_round": ("seconds_per_round", pl.Float64),
    "seconds": ("wall_seconds", pl.Float64),
    "upload_bytes": ("bytes_per_department_per_round", pl.Int64),
    "received_bytes": ("bytes_received", pl.Int64),
    "backbone": ("backbone", pl.String),
}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["interval"] or (None, None)
    kept_low, kept_high = row["kept_interval"] or (None, None)
    same = {name: row[name] for name in ("department", "arm", "task", "metric", "better", "alone", "federated")}
    return same | {
        "gain": row["gain"],
        "gain_low": low,
        "gain_high": high,
        "unit": row["unit"],
        "choice": row["kept"],
        "chosen": row["kept_score"],
        "chosen_gain": row["kept_gain"],
        "chosen_low": kept_low,
        "chosen_high": kept_high,
    }


def _name(what: str, label: str) -> str:
    """What tells a chart from others on the same page."""
    return "-".join([what, *("".join(c if c.isalnum() else " " for c in label).split())])
