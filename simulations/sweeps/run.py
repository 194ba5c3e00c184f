"""``commonroot sweep`` and ``commonroot.sweep``: every cell over worker processes, each kept, the settings ranked.

    FOLDER/cells/KEY.json, cells/work    results and federations under way, see ``cells``
    FOLDER/sweep.json, .csv, .parquet, .html

Killed at any moment, the same call goes on: cells that are done are read, and those under way go on from their round.
``search`` chooses a method for a charter and runs it as a federation would; a sweep varies any field of a scenario and
ranks by the very sum that ``search`` opens.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console

from commonroot.client.drawing.charts import number
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.files import storage_errors
from commonroot.simulations.cell_pool import Work, run_missing
from commonroot.simulations.given import scenario_of
from commonroot.simulations.notebook import TABLES, kept_folder, seen_console
from commonroot.simulations.pictures import Picture
from commonroot.simulations.simulate import require_workers
from commonroot.simulations.sweeps.axes import SEED
from commonroot.simulations.sweeps.cells import Cell, kept, request_of
from commonroot.simulations.sweeps.drawing import marginal
from commonroot.simulations.sweeps.plan import Draws, Plan, described, make_plan, read_plan
from commonroot.simulations.sweeps.ranking import ranked, rows_of
from commonroot.simulations.sweeps.shown import frame_of_rows, save, settings_frame
from commonroot.simulations.tracking import params_of, trackers

CELLS: Final = "cells"


def sweep(
    base: Any,
    axes: Mapping[str, Any] | None = None,
    departments: Mapping[str, Any] | None = None,
    *,
    draws: int | None = None,
    draw_seed: int = 1,
    quick: bool = False,
    device: str = "cpu",
    common: Mapping[str, Any] | None = None,
    workers: int = 1,
    folder: str | Path | None = None,
    track: str | Sequence[str] = (),
    progress: bool = True,
    **sections: Any,
) -> Sweep:
    """Run a scenario under every setting of some of its fields, and rank the settings.

    base       the path of a ``SWEEP.toml``, alone; or what ``simulate`` takes as a charter, and ``departments``, with
               ``axes``
    axes       by dotted field of the scenario: a list of values, or ``{"low": …, "high": …, "scale": "log"}`` with
               ``steps`` in a grid.  ``seed`` repeats every setting
    draws      that many settings at random, under ``draw_seed``, in place of every combination
    quick      rounds alone: settings are ranked by the held-out loss of the last round's sum
    folder     keep every cell there: whatever is done is not run again.  Otherwise as long as the result is kept
    others     as in ``simulate``

    Raises ConfigError that lists every wrong axis, field and setting, before anything runs.
    """
    with ExitStack() as undo:
        root = kept_folder(folder, undo)
        if axes is None:
            plan = _from_file(base, departments, common, draws, quick or device != "cpu", sections)
        else:
            scenario = scenario_of(base, departments, common=common, sections=sections, tables=lambda: root / TABLES)
            drawn = None if draws is None else Draws(draws=draws, seed=draw_seed)
            plan = make_plan(
                scenario,
                axes,
                random_draws=drawn,
                quick=quick,
                device=device,
                beside=Path.cwd(),
                where="the sweep",
                name="sweep",
            )
        result = run_plan(plan, root, workers=workers, track=track, console=seen_console(progress))
        found = Sweep(result, plan, root)
        if folder is None:
            undo.pop_all()
            weakref.finalize(found, shutil.rmtree, root, ignore_errors=True)
    return found


def _from_file(base: Any, departments: Any, common: Any, draws: int | None, more: bool, sections: Any) -> Plan:
    if not isinstance(base, str | Path):
        raise ConfigError("a sweep needs axes", hint='{"charter.training.learning_rate": [0.01, 0.1]}')
    if departments is not None or common or draws is not None or more or sections:
        raise ConfigError(f"{base} says all that a sweep is", hint="give axes, or the path of a SWEEP.toml alone")
    return read_plan(Path(base))


def run_plan(
    plan: Plan, root: Path, *, workers: int, track: str | Sequence[str] = (), console: Console | None = None
) -> dict[str, Any]:
    """Run what is not known yet; the result as JSON values.

    ``name``, ``federation``, ``told`` (what was varied), ``quick``, ``axes``, ``cells`` (``ranking.rows_of``) and
    ``settings`` (``ranking.ranked``), best first.

    Raises ConfigError for fewer than one of ``workers``, and where another process uses the folder.
    """
    require_workers(workers)
    listening = trackers(track, plan.base)
    folder = root / CELLS
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    by_key = {cell.key: cell for cell in plan.cells}
    work = Work[str](
        "commonroot.simulations.sweeps.worker",
        (str(folder),),
        request=lambda key: request_of(by_key[key]),
        name=lambda key: by_key[key].name,
        like=lambda key: f"{plan.name} {'quick' if plan.quick else ''}".strip(),
        turn=lambda key: by_key[key].seed,
    )

    def tracked(key: str) -> None:
        cell, found = by_key[key], kept(key, folder)
        if found is not None and found["state"] == "finished":
            scores = {f"validation {name}": found["validation"].get(name) for name in ("alone", "federated", "gain")}
            scores |= {"held_out": found["held_out"], "seconds": found["seconds"]}
            params = params_of(cell.scenario.draft, cell.scenario) | {"sweep": plan.name}
            params |= {axis: str(value) for axis, value in cell.setting.items() if axis != SEED}
            listening.cell(f"{plan.name} {cell.name}", key, params, found["report"]["arms"][0]["history"], scores)

    for key in by_key:
        tracked(key)
    results, failed = run_missing(
        list(by_key),
        folder,
        work,
        lambda key: kept(key, folder),
        workers=workers,
        console=Console(quiet=True) if console is None else console,
        busy=(f"another sweep uses {root}", "wait for it, or choose another folder"),
        on_done=tracked,
    )
    rows = rows_of(plan.cells, results, failed)
    return {
        "name": plan.name,
        "federation": plan.base.charter.federation,
        "told": described(plan),
        "quick": plan.quick,
        "axes": [axis.field for axis in plan.axes],
        "cells": rows,
        "settings": ranked(rows, quick=plan.quick),
    }


class Sweep:
    """What came out of a sweep.

    result  everything as JSON values, see ``run_plan``
    """

    def __init__(self, result: dict[str, Any], plan: Plan, root: Path) -> None:
        self.result = result
        self.folder = root
        self._plan = plan

    @property
    def settings(self) -> pl.DataFrame:
        """Settings, best first: means over seeds of scores on validation rows."""
        return settings_frame(self.result["settings"], self._judged)

    @property
    def table(self) -> pl.DataFrame:
        """One row for each cell.  No figure in it is of test rows."""
        return frame_of_rows(self.result)

    @property
    def best(self) -> dict[str, Any]:
        """The best setting's values, by field.  Raises ConfigError where nothing has a score."""
        found: dict[str, Any] = dict(self._best_row()["setting"])
        return found

    @property
    def best_charter(self) -> Draft:
        """Its charter, to be run, simulated with further seeds, or given to ``coordinator charter`` as TOML."""
        setting = self._best_row()["setting"]
        cell = next(cell for cell in self._plan.cells if _same(cell, setting))
        return cell.scenario.charter

    def report(self, setting: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
        """Everything that ``simulate`` says of one cell, departments' test rows included: for the setting that was
        chosen, once it is."""
        cells = [cell for cell in self._plan.cells if _same(cell, setting) and seed in (None, cell.seed)]
        if not cells:
            raise ConfigError("no cell has this setting and seed", hint="as in .best, or a row of .table")
        found = kept(cells[0].key, self.folder / CELLS)
        if found is None:
            raise ConfigError("this cell has not run")
        report: dict[str, Any] = found["report"]
        return report

    def save(self, path: str | Path, *, show_test: bool = False) -> list[Path]:
        """Write ``sweep.json``, ``.csv``, ``.parquet`` and ``.html`` into a folder; the files."""
        return save(self.result, Path(path), show_test=show_test)

    def plot(self, axis: str | None = None) -> Picture:
        """Scores by the values of an axis, or of each of them."""
        score = "held-out loss" if self.result["quick"] else "gain"
        wanted = self._judged if axis is None else [axis]
        unknown = [one for one in wanted if one not in self._judged]
        if unknown or not wanted:
            raise ConfigError(f"no axis {axis!r} was varied", hint=f"one of {', '.join(self._judged)}")
        rows = self.result["settings"]
        drawn = [(one, marginal(one, rows, score=score, name=f"m{at}")) for at, one in enumerate(wanted)]
        return Picture([(f"{score} by {one}", svg) for one, svg in drawn if svg])

    def __repr__(self) -> str:
        return f"Sweep of {self.result['federation']!r}: {self.result['told']}"

    def _repr_html_(self) -> str:
        import html

        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.settings.columns)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(number(v) if isinstance(v, float) else str(v))}</td>" for v in row)
            + "</tr>"
            for row in self.settings.head(30).iter_rows()
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p><b>{html.escape(repr(self))}</b></p>{table}"

    @property
    def _judged(self) -> list[str]:
        return [axis for axis in self.result["axes"] if axis != SEED]

    def _best_row(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.result["settings"]
        if not rows or rows[0]["score"] is None:
            raise ConfigError("nothing has a score, so nothing is the best", hint="see .table for what failed")
        return rows[0]


def _same(cell: Cell, setting: Mapping[str, Any]) -> bool:
    return all(cell.setting.get(axis) == value for axis, value in setting.items() if axis != SEED)
