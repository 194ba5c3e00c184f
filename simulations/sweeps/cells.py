"""One cell of a sweep: a scenario, what decides its result, and that result once there is one.

FOLDER/KEY.json     the result, under a hash of scenario, data, program and libraries
FOLDER/work         by KEY, the federation of a cell under way; whoever is killed goes on from the round it had reached
FOLDER/alone/       what departments reach alone, the same in every cell with the same rows
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from commonroot.client.accelerator import kind_of, usable
from commonroot.client.data import DataConfig
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, storage_errors
from commonroot.logs import Tell
from commonroot.server.reports import newest
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.contents import Contents
from commonroot.simulations.datasets import find, get
from commonroot.simulations.given import values_of
from commonroot.simulations.provenance import kept_result, libraries, program_digest
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate
from commonroot.simulations.sweeps.axes import SEED, Setting
from commonroot.simulations.sweeps.validated import validation_of
from commonroot.simulations.worlds import Parts, Published
from commonroot.strategies import seal

LAYOUT: Final = 1

Result = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """What is to be run.

    setting   the value of every axis
    scenario  with them in place, every path absolute
    quick     rounds alone
    device    where networks are computed
    key       the hash that its result is kept under
    """

    setting: Setting
    scenario: Scenario = field(repr=False)
    quick: bool
    device: str
    key: str

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(f"{short(axis)} {told(value)}" for axis, value in self.setting.items()) or "as it is"

    @property
    def seed(self) -> int:
        """Of the scenario."""
        return self.scenario.seed


def short(axis: str) -> str:
    """An axis by its last word, and the one before where that says little."""
    *before, last = axis.split(".")
    return ".".join([*before[-1:], last]) if last in ("name", "kind", "seed") and before else last


def told(value: Any) -> str:
    """A value of an axis for people."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        options = value.get("options") or {}
        listed = ",".join(f"{name}={told(one)}" for name, one in options.items())
        if "name" in value and value.keys() <= {"name", "options"}:
            return f"{value['name']}:{listed}" if listed else str(value["name"])
        return json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)


def key_of(scenario: Scenario, *, quick: bool, device: str, contents: Contents) -> str:
    """The hash of all that decides a result: where files lie does not, what is in them does.

    contents  what files were found to hold, for the next one

    Raises ConfigError for a file that is not there, and for rows that come from a database, which may change unseen.
    """
    asked = [one.name for one in scenario.departments if one.data.url is not None]
    if asked:
        raise ConfigError(
            f"department {asked[0]!r} asks a database, whose rows may change between two cells",
            hint="write them to a file first",
        )

    decided = {
        "layout": LAYOUT,
        "scenario": values_of(_with_published(scenario), lambda path: f"sha256 {contents.of(path)}"),
        "images": [contents.of_images(data, scenario.charter) for data in _sections(scenario)],
        "quick": quick,
        "device": kind_of(usable(device)),
        "program": program_digest(),
        "libraries": libraries(),
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _sections(scenario: Scenario) -> list[DataConfig]:
    """Every section that rows are read by: the departments' own, or that of the table which a world cuts."""
    if isinstance(scenario.world, Parts) and isinstance(scenario.world.data, DataConfig):
        return [scenario.world.data]
    return [one.data for one in scenario.departments]


def _with_published(scenario: Scenario) -> Scenario:
    """The same with the very folder that a published dataset is read from, whoever says where that is.

    Raises ConfigError where it is not on this machine.
    """
    world = scenario.world
    if not isinstance(world, Published) or not (folder := get(world.name).folder):
        return scenario
    source = find(folder, world.data)
    if source is None:
        raise ConfigError(
            f"the files of {world.name!r} are not on this machine", hint=f"commonroot download {world.name}"
        )
    return scenario.model_copy(update={"world": world.model_copy(update={"data": source})})


def kept(key: str, folder: Path) -> Result | None:
    """A cell's result where it is known; a file that cannot be read is as good as none."""
    return kept_result(folder / f"{key}.json")


def request_of(cell: Cell) -> dict[str, Any]:
    """What a worker is asked for."""
    asked = {"key": cell.key, "quick": cell.quick, "device": cell.device}
    return asked | {"scenario": values_of(cell.scenario)}


def run_cell(request: Mapping[str, Any], folder: Path, tell: Tell = lambda kind, facts: None) -> Result:
    """Run a cell to its end, from wherever an earlier attempt stands, and keep what came out.

    The result holds ``report``, everything that ``simulate`` says, and beside it what decides between cells, none of it
    from test rows: ``validation`` (see ``validated``; empty after a quick run) and ``held_out``, the loss that the last
    round's sum carries.

    Raises what ``simulate`` raises, where the setting does not fit the data.
    """
    key = str(request["key"])
    if (found := kept(key, folder)) is not None:
        return found
    scenario = Scenario.model_validate(request["scenario"])
    work = folder / "work" / key
    with storage_errors(folder):
        work.mkdir(parents=True, exist_ok=True)
    try:
        report = simulate(
            scenario,
            folder=work / "run",
            finish=not request["quick"],
            alone=folder / "alone" / _decided(program_digest(), kind_of(usable(request["device"]))),
            device=request["device"],
            tell=lambda arm, kind, facts: tell(kind, facts),
        )
    except ConfigError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    [one] = report["arms"]
    arm = parse_arm(scenario.draft.method.name, scenario.draft, scenario.sum)
    root = work / "run" / "arms" / arm.folder / "departments"
    folders = {path.name: path for path in sorted(root.iterdir())}
    validation = {} if request["quick"] else validation_of(seal(arm.draft), folders)
    history = one["history"]
    found = {
        "state": one["state"],
        "reason": one["reason"],
        "rounds": one["rounds"],
        "held_out": newest(history, "held_out"),
        "validation": validation,
        "seconds": one["wall_seconds"],
        "report": report,
    }
    atomic_write(folder / f"{key}.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
    shutil.rmtree(work, ignore_errors=True)
    return found


def _decided(*by: str) -> str:
    return hashlib.sha256("\n".join(by).encode()).hexdigest()[:16]


def without_seed(setting: Setting) -> Setting:
    """What is judged: all but the axis that repeats."""
    return {axis: value for axis, value in setting.items() if axis != SEED}
