"""``SWEEP.toml``, and every cell that it asks for, held against what scenarios and methods take before anything runs.

scenario = "federation.toml"     # what is varied; its path starts at this file.  Or a table: a scenario's own sections
quick = false                    # rounds alone, ranked by the held-out loss of the last sum
device = "cpu"                   # where networks are computed, as of `simulate`
[axes]                           # what of it, see ``axes``
[random]                         # leave it out for every combination
draws = 20
seed = 1
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from commonroot.client.accelerator import usable
from commonroot.common.charter import field_of, model_from_toml, plainly
from commonroot.common.errors import ConfigError, TooFewDepartments
from commonroot.files import read_text
from commonroot.simulations.arms import Arm, parse_arm
from commonroot.simulations.contents import Contents
from commonroot.simulations.engine.run import Unsigned
from commonroot.simulations.given import absolute, scenario_from_values, values_of, without_masks
from commonroot.simulations.scenario import Scenario, read_scenario
from commonroot.simulations.simulate import require_fitting
from commonroot.simulations.sweeps.axes import SEED, Axis, Setting, axes_of, grid, random, refuse, varied
from commonroot.simulations.sweeps.cells import Cell, key_of, told
from commonroot.strategies import build, check_roster, gathers, seal

#: So many wrong settings are told one by one.
_MOST_TOLD = 30
#: Axes that may ask of a method what it cannot do begin so.
_ASKING = ("behaviour", "charter.method", "coordinator", "departments", "sum", "world")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Draws(_Frozen):
    """Settings drawn at random.

    draws  how many
    seed   of the dice: the first draws are the same however many there are
    """

    draws: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0)] = 1


class SweepFile(_Frozen):
    """``SWEEP.toml``."""

    scenario: str | dict[str, Any]
    quick: bool = False
    device: str = "cpu"
    axes: dict[str, Any]
    random: Draws | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep that can run.

    base    the scenario that is varied, every path absolute
    settings that are compared and their axes, without ``seed``, are those of ``cells``
    """

    name: str
    base: Scenario
    axes: list[Axis]
    cells: list[Cell]
    quick: bool


def read_plan(path: Path) -> Plan:
    """A sweep from its file.  Raises ConfigError that names the file and every wrong field at once."""
    try:
        found = model_from_toml(SweepFile, read_text(path, what="the sweep"), path=str(path))
    except ConfigError as error:
        raise ConfigError(
            str(error), hint="a sweep holds scenario, [axes], and if need be quick, device and [random]"
        ) from error
    beside = path.resolve().parent
    if isinstance(found.scenario, str):
        file = (beside / found.scenario).resolve()
        base = absolute(read_scenario(file), file.parent)
    else:
        base = absolute(scenario_from_values(found.scenario, path=f"{path}, [scenario]"), beside)
    return make_plan(
        base,
        found.axes,
        random_draws=found.random,
        quick=found.quick,
        device=found.device,
        beside=beside,
        where=str(path),
        name=path.stem,
    )


def make_plan(
    base: Scenario,
    axes: Mapping[str, Any],
    *,
    random_draws: Draws | None,
    quick: bool,
    device: str,
    beside: Path,
    where: str,
    name: str,
) -> Plan:
    """A sweep over a scenario with absolute paths.

    beside  the folder that paths among the axes' values start at
    where   what errors call it

    Raises ConfigError for a device that is not here, and one that lists every wrong axis and every setting that no
    scenario takes.
    """
    usable(device)  # said once, and not of every setting
    listed = axes_of(axes, where=where)
    base = without_masks(base)
    if random_draws is None:
        settings = grid(listed, where=where)
    else:
        settings = random(listed, random_draws.draws, random_draws.seed, where=where)
    cells = _cells(base, settings, quick=quick, device=device, beside=beside, where=where)
    return Plan(name, base, listed, cells, quick)


def _cells(
    base: Scenario, settings: Sequence[Setting], *, quick: bool, device: str, beside: Path, where: str
) -> list[Cell]:
    values, contents = values_of(base), Contents()
    cells: list[Cell] = []
    problems: dict[str, None] = {}  # in order, each once
    for setting in settings:
        found, wrong = _scenario(base, values, setting, beside, quick=quick)
        if found is not None and not wrong:
            try:
                key = key_of(found, quick=quick, device=device, contents=contents)
            except ConfigError as error:
                near = {axis: value for axis, value in setting.items() if str(value) in str(error)}
                wrong.append(f"{_named(near)}: {error}" if near else str(error))
            else:
                cells.append(Cell(setting, found, quick, device, key))
        problems |= dict.fromkeys(wrong)
    lines = list(problems)
    if len(lines) > _MOST_TOLD:
        lines = [*lines[:_MOST_TOLD], f"… and {len(lines) - _MOST_TOLD} more"]
    refuse(lines, where)
    return cells


def _scenario(
    base: Scenario, values: Mapping[str, Any], setting: Setting, beside: Path, *, quick: bool
) -> tuple[Scenario | None, list[str]]:
    """The scenario of a setting, and everything that is wrong with it: what is wrong is left out, and the rest tried
    again."""
    with_it, problems = varied(values, setting)
    try:
        scenario = absolute(Scenario.model_validate(with_it), beside)
    except ValidationError as error:
        found = [(field_of(one["loc"]), plainly(one)) for one in error.errors()]
        problems += [_blamed(base, setting, field, message) for field, message in found]
        blamed = {axis for field, _ in found for axis in _near(setting, field)}
        rest = {axis: value for axis, value in setting.items() if axis not in blamed}
        if blamed and rest:
            problems += _scenario(base, values, rest, beside, quick=quick)[1]
        return None, list(dict.fromkeys(problems))
    arm = None
    try:
        arm = parse_arm(scenario.draft.method.name, scenario.draft, scenario.sum)
        seal(arm.draft)
        if scenario.names:  # some worlds know them only once they are made
            check_roster(arm.draft, Unsigned(scenario.names))
    except (ConfigError, TooFewDepartments) as error:
        text = str(error).partition(": ")[2] if str(error).startswith("--arm ") else str(error)
        nearest = {a: v for a, v in setting.items() if a.startswith("charter.method")}
        nearest = nearest or {a: v for a, v in setting.items() if a.startswith("charter")}
        problems.append(f"{_named(nearest or setting)}: {' '.join(text.split())}")
    if arm is not None:
        problems += _misfits(scenario, arm, setting, quick=quick)
    return scenario, problems


def _misfits(scenario: Scenario, arm: Arm, setting: Setting, *, quick: bool) -> list[str]:
    """What is asked of a method that it cannot do, each with the axes that ask for it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    try:
        require_fitting(scenario, [arm])
    except ConfigError as error:
        found.append((f"{error} (hint: {error.advice})", _ASKING))
    if quick and gathers(build(arm.draft)):
        text = f"sums of {arm.label} carry no held-out loss, by which a quick sweep ranks (hint: leave `quick` out)"
        found.append((text, ("charter.method",)))
    problems = []
    for text, sections in found:
        near = {a: v for a, v in setting.items() if a.startswith(sections) and ".options." not in a}
        problems.append(f"{_named(near)}: {text}" if near else text)
    return problems


def _near(setting: Setting, field: str) -> Setting:
    """The axes that a field belongs to, or that belong to it; else those of the same section."""
    exact = {
        axis: value
        for axis, value in setting.items()
        if field == axis or field.startswith(f"{axis}.") or axis.startswith(f"{field}.")
    }
    section = field.partition(".")[0]
    return exact or {axis: value for axis, value in setting.items() if axis.partition(".")[0] == section}


def _blamed(base: Scenario, setting: Setting, field: str, message: str) -> str:
    """A wrong field with the axis that made it wrong."""
    near = _near(setting, field)
    if list(near) == [field]:
        close = _meant(base, field) if message.startswith("Extra inputs") else ""
        if close:
            return f"{field}: there is no such field{close}"
        return f"{_named(near)}: {message}"
    return f"{_named(near or setting)}: {field}: {message}"


def _named(setting: Setting) -> str:
    return ", ".join(f"{axis} = {told(value)}" for axis, value in setting.items())


def _meant(base: Scenario, field: str) -> str:
    """What a field that does not exist may have been meant to be."""
    *way, last = field.split(".")
    at: Any = base.model_dump()
    model: Any = base
    for part in way:
        at = at.get(part) if isinstance(at, Mapping) else None
        model = getattr(model, part, None)
    if not isinstance(at, Mapping) or last in at:
        return ""
    # fields are left out of a charter as long as they say nothing
    silent = [name for name in type(model).model_fields if name not in at] if isinstance(model, BaseModel) else []
    names = [*map(str, at), *silent]
    close = [name for name in names if last in name] or difflib.get_close_matches(last, names, n=1)
    return f"; did you mean {'.'.join([*way, close[0]])}?" if close else f"; there are {', '.join(names[:20])}"


def described(plan: Plan) -> str:
    """What was varied, as one line for people."""
    varied_ones = [axis.field for axis in plan.axes if axis.field != SEED]
    seeds = len({cell.seed for cell in plan.cells})
    settings = len({json.dumps(_judged(cell), sort_keys=True, default=str) for cell in plan.cells})
    found = f"{_many(settings, 'setting')} of {', '.join(varied_ones)}, " if varied_ones else ""
    return f"{found}{_many(seeds, 'seed')}, {_many(len(plan.cells), 'cell')}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _judged(cell: Cell) -> Setting:
    return {axis: value for axis, value in cell.setting.items() if axis != SEED}
