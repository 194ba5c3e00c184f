"""``commonroot.simulate``: a federation in a notebook, from frames, arrays, files or a ``federation.toml``.

    from commonroot import simulate

    result = simulate("charter.toml", {"sales": sales, "service": service, "quality": quality},
                      common={"target": "demand", "task": "regression"}, arms=["fedper", "pooled"])
    result                                      # shows itself
    result.table, result.rounds, result.costs   # polars frames
    result.backbone("fedper").tensors           # arrays by name
    result.predictor("fedper", "sales").predict(sales)

What runs is what ``commonroot simulate`` runs (``simulations.simulate``); this only says it in Python.
"""

from __future__ import annotations

import base64
import html
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from commonroot.client.drawing.charts import gained, gains, losses, number, points, seconds
from commonroot.client.notebook import Department
from commonroot.common.errors import ConfigError
from commonroot.server.backbones import BackboneStore
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.arms import Arm, parse_arm
from commonroot.simulations.comparison import save
from commonroot.simulations.given import scenario_of, without_masks
from commonroot.simulations.outcome import kept_model
from commonroot.simulations.pictures import Picture
from commonroot.simulations.progress import ArmsProgress
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import TellArm, claim
from commonroot.simulations.simulate import simulate as run_arms
from commonroot.simulations.tracking import both, trackers

#: Where tables that came in memory are kept, in the simulation's folder.
TABLES: Final = "data"


def simulate(
    charter: Any,
    departments: Mapping[str, Any] | None = None,
    *,
    arms: Sequence[str] = (),
    common: Mapping[str, Any] | None = None,
    seed: int | None = None,
    sum: str | None = None,
    workers: int = 1,
    quick: bool = False,
    engine: str = "own",
    network: Mapping[str, Any] | None = None,
    events: Sequence[Mapping[str, Any]] | None = None,
    folder: str | Path | None = None,
    track: str | Sequence[str] = (),
    progress: bool = True,
    **sections: Any,
) -> Result:
    """Run a whole federation on this machine, method by method, on the same data.

    charter      the path of a ``charter.toml``, a ``Draft``, or a mapping of a charter's fields, which may leave out
                 ``federation`` and ``name``.  Without departments: the path of a ``federation.toml``, a ``Scenario``,
                 or a mapping of a whole scenario
    departments  by name: the path of a ``department.toml`` or of a table; a ``[data]`` section as a mapping or a
                 ``DataConfig``; a frame of polars or pandas; ``(X, y)`` of NumPy.  A mapping with ``rows`` (a frame, a
                 dict of lists or ``(X, y)``) in place of a path says more about rows in memory
    common       fields of ``[data]`` that every department has unless its own section says otherwise
    arms         as ``simulate --arm``: methods with options, or ``pooled``; by default the charter's own method
    seed, sum, network, events and further ``sections`` (``world``, ``behaviour``, ``statistics`` …) are those of a
                 ``federation.toml`` and stand over what the scenario says.  ``sum`` is ``ring`` where nothing says
                 otherwise: the very same backbone as ``exact``, without the masks
    workers      processes; the result is the same for any number
    quick        rounds alone: no department fine-tunes, compares and chooses at the end
    engine       ``own`` processes of this machine, or ``flower``, its simulation on Ray; the backbone is the same
    folder       keep everything there; killed at any moment, the same call goes on.  Otherwise it is kept as long as
                 the result is, in a temporary folder
    track        ``tensorboard:DIR``, ``mlflow:URI`` or both (``simulations.tracking``)
    progress     show bars, where somebody can see them

    Raises ConfigError naming every wrong field, and DataError naming everything that is wrong with all departments'
    data, before anything runs.
    """
    given = {"seed": seed, "sum": sum, "network": network, "events": events, **sections}
    with ExitStack() as undo:
        if folder is None:
            root = Path(tempfile.mkdtemp(prefix="commonroot-"))
            undo.callback(shutil.rmtree, root, ignore_errors=True)
        else:
            root = Path(folder).resolve()

        def tables() -> Path:
            claim(root)
            return root / TABLES

        scenario = scenario_of(charter, departments, common=common, sections=given, tables=tables)
        scenario = without_masks(scenario)
        chosen = [parse_arm(text, scenario.draft, scenario.sum) for text in arms_of(arms, scenario)]
        with quiet(), shown(progress) as tell, trackers(track, scenario) as tracked:
            report = run_arms(
                scenario,
                arms=[arm.label for arm in chosen],
                folder=root,
                workers=workers,
                finish=not quick,
                engine=engine,
                tell=both(tell, tracked),
            )
            tracked.ended(report)
        result = Result(report, scenario, chosen, root)
        if folder is None:
            undo.pop_all()
            weakref.finalize(result, shutil.rmtree, root, ignore_errors=True)
    return result


def arms_of(arms: str | Sequence[str], scenario: Scenario) -> list[str]:
    """The arms that are asked for; the charter's own method for none."""
    return [arms] if isinstance(arms, str) else list(arms) or [scenario.draft.method.name]


@contextmanager
def quiet() -> Iterator[None]:
    """One thread for torch, as the command takes: departments' networks are small, and more wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seen_console(progress: bool) -> Console | None:
    """Where bars are drawn: a terminal, or a notebook that has widgets; None where nobody would see them move."""
    console = Console(stderr=True)
    seen = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return console if progress and seen else None


@contextmanager
def shown(progress: bool) -> Iterator[TellArm]:
    """Bars for a simulation, or nothing."""
    console = seen_console(progress)
    if console is None:
        yield lambda arm, kind, facts: None
        return
    with ArmsProgress(console) as tell:
        yield tell


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
            f"{about['rounds_wanted']} rounds, seed {about['seed']}, sum {about['sum']}"
        )

    def _repr_html_(self) -> str:
        """A summary, as notebooks show it; every word escaped, pictures with a style of their own."""
        parts = [f"<p><b>{html.escape(repr(self))}</b></p>"]
        shown = [row for row in self.report["table"] if row["task"] is not None]
        if shown:
            parts.append(_html_table(_HEAD, [_cells(row) for row in shown[:_MOST_ROWS]]))
        if len(shown) > _MOST_ROWS:
            parts.append(f"<p>… and {len(shown) - _MOST_ROWS} more rows in <code>.table</code></p>")
        parts += [_html_table(tuple(self.costs.columns), [[_word(v) for v in row] for row in self.costs.iter_rows()])]
        for one in self.report["arms"]:
            if one["state"] != "finished":
                parts.append(f"<p>{html.escape(one['arm'])} is {one['state']}: {html.escape(str(one['reason']))}</p>")
            if "note" in one:
                parts.append(f"<p>{html.escape(one['arm'])}: {html.escape(one['note'])}</p>")
        told = self.report["arms"][0].get("faults", {}).get("told", ())
        parts += [f"<p>on purpose: {html.escape(line)}</p>" for line in told]
        if 0 < len(shown) <= _MOST_ROWS and any(row["gain"] is not None for row in shown):
            parts.append(_image(self.plot_gains(), "gain of each department, as in the table above"))
        if any(one["history"] for one in self.report["arms"]):
            parts.append(_image(self.plot_rounds(), "losses over rounds"))
        return "".join(parts)

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


#: Beyond so many rows a summary is no summary.
_MOST_ROWS: Final = 40
_HEAD: Final = ("department", "metric", "arm", "alone", "federated", "gain [95 %]", "keeps", "gain kept")
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


def _cells(row: Mapping[str, Any]) -> list[str]:
    gain = "–"
    if row["gain"] is not None and row["interval"] is not None:
        gain = f"{gained(row['gain'], row)} [{', '.join(points(end) for end in row['interval'])}]"
    return [
        *(str(row[name]) for name in ("department", "metric", "arm")),
        number(row["alone"]),
        number(row["federated"]),
        gain,
        str(row["kept"]),
        gained(row["kept_gain"], row),
    ]


def _word(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)[:16]


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _image(picture: Picture, told: str) -> str:
    data = base64.b64encode(picture.svg.encode()).decode()
    return f'<img alt="{html.escape(told)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def _name(what: str, label: str) -> str:
    """What tells a chart from others on the same page."""
    return "-".join([what, *("".join(c if c.isalnum() else " " for c in label).split())])
