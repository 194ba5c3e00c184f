"""What a sweep varies: dotted fields of a scenario, and the settings that a grid or random draws make of them.

    [axes]
    seed = [1, 2, 3]                                              # repeats every setting
    charter.training.learning_rate = { low = 0.01, high = 0.1, scale = "log" }
    charter.method = [{ name = "fedper" }, { name = "fedrep", options = { head_epochs = 3 } }]

The axis ``seed`` is no setting: every other setting is run under each seed, and judged by the mean.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from commonroot.common.errors import ConfigError

SEED: Final = "seed"
#: More cells than this are a mistake.
MOST_CELLS: Final = 10_000

#: Values by axis.
Setting = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, both included; whole numbers where both ends are.

    scale  ``linear`` or ``log``
    steps  how many a grid takes, evenly spaced on the scale; random draws take none
    """

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"
    steps: int | None = None

    @property
    def whole(self) -> bool:
        """Are these whole numbers?"""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float | int:
        """The number at a share of the way from low to high."""
        if self.whole:  # every whole number has an equal part of the way, on either scale
            low, high = (
                (math.log(self.low - 0.5 + 1e-9), math.log(self.high + 0.5 - 1e-9))
                if self.scale == "log"
                else (self.low - 0.5, self.high + 0.5)
            )
            value = low + share * (high - low)
            found = round(math.exp(value) if self.scale == "log" else value)
            return int(min(max(found, self.low), self.high))
        if self.scale == "log":
            return float(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return float(self.low + share * (self.high - self.low))

    def grid(self) -> list[float | int]:
        """``steps`` of them; whole numbers once each."""
        steps = self.steps or 1
        shares = [at / (steps - 1) if steps > 1 else 0.5 for at in range(steps)]
        if not self.whole:
            return [float(f"{self.at(share):.6g}") for share in shares]
        if self.scale == "log":
            ends = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            ends = [self.low + share * (self.high - self.low) for share in shares]
        return list(dict.fromkeys(round(one) for one in ends))


@dataclass(frozen=True, slots=True)
class Axis:
    """One field and the values it takes."""

    field: str
    values: tuple[Any, ...] | Range


def axes_of(given: Mapping[str, Any], *, where: str) -> list[Axis]:
    """Axes from what TOML or a notebook holds, nested or dotted.

    Raises ConfigError that lists everything that is wrong.
    """
    problems: list[str] = []
    found = [axis for field, value in _leaves(given, "") for axis in _axis(field, value, problems)]
    fields = [axis.field for axis in found]
    problems += [f"{name}: stands twice" for name in sorted({name for name in fields if fields.count(name) > 1})]
    problems += [
        f"{inner}: lies inside {outer}, which is varied as a whole"
        for outer in fields
        for inner in fields
        if inner.startswith(f"{outer}.")
    ]
    if not found and not problems:
        problems.append("axes: nothing is varied")
    refuse(problems, where)
    return found


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise ConfigError with everything that is wrong, if anything is."""
    if problems:
        lines = "".join(f"\n  {line}" for line in problems)
        raise ConfigError(
            f"{where} has {len(problems)} wrong field(s):{lines}",
            hint="an axis is a field of the scenario, as in charter.training.batch = [16, 32]",
        )


_RANGE: Final = frozenset({"low", "high", "scale", "steps"})


def _leaves(given: Mapping[str, Any], before: str) -> list[tuple[str, Any]]:
    """Every axis under its whole name: a table that is no range is a part of the way."""
    out: list[tuple[str, Any]] = []
    for name, value in given.items():
        field = f"{before}.{name}" if before else str(name)
        if isinstance(value, Mapping) and not (value.keys() & {"low", "high"}):
            out += _leaves(value, field) if value else [(field, value)]
        else:
            out.append((field, value))
    return out


def _axis(field: str, value: Any, problems: list[str]) -> list[Axis]:
    if isinstance(value, Mapping):
        found = _range(field, value, problems)
        return [] if found is None else [Axis(field, found)]
    if isinstance(value, Range):
        return [Axis(field, value)]
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | range | np.ndarray):
        problems.append(f"{field}: {value!r} is neither a list of values nor {{ low = …, high = … }}")
        return []
    values = tuple(one.item() if isinstance(one, np.generic) else one for one in value)
    if not values:
        problems.append(f"{field}: an empty list")
        return []
    if len({json.dumps(one, sort_keys=True, default=str) for one in values}) < len(values):
        problems.append(f"{field}: a value stands twice")
        return []
    return [Axis(field, values)]


def _range(field: str, value: Mapping[str, Any], problems: list[str]) -> Range | None:
    before = len(problems)
    problems += [f"{field}.{name}: no such word of a range; low, high, scale, steps" for name in value.keys() - _RANGE]
    ends: dict[str, float] = {}
    for name in ("low", "high"):
        one = value.get(name)
        if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one):
            problems.append(f"{field}.{name}: {one!r} is no number")
        else:
            ends[name] = one
    scale, steps = value.get("scale", "linear"), value.get("steps")
    if scale not in ("linear", "log"):
        problems.append(f"{field}.scale: {scale!r} is neither 'linear' nor 'log'")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 2):
        problems.append(f"{field}.steps: {steps!r} is no number of values, at least 2")
    if len(ends) == 2 and ends["low"] >= ends["high"]:
        problems.append(f"{field}: low {ends['low']} is not below high {ends['high']}")
    if "low" in ends and scale == "log" and ends["low"] <= 0:
        problems.append(f"{field}.low: a log scale begins above 0, not at {ends['low']}")
    return None if len(problems) > before else Range(ends["low"], ends["high"], scale, steps)


# -- settings ----------------------------------------------------------------------------------------------------------


def grid(axes: Sequence[Axis], *, where: str) -> list[Setting]:
    """Every combination, the last axis the quickest.  Raises ConfigError for a range without steps."""
    refuse(
        [
            f"{axis.field}: a range in a grid says how many `steps` it takes; or draw at random"
            for axis in axes
            if isinstance(axis.values, Range) and axis.values.steps is None
        ],
        where,
    )
    values = [axis.values.grid() if isinstance(axis.values, Range) else axis.values for axis in axes]
    if (count := math.prod(map(len, values))) > MOST_CELLS:
        refuse([f"axes: {count:,} cells; {MOST_CELLS:,} at most"], where)
    return [dict(zip((axis.field for axis in axes), one, strict=True)) for one in itertools.product(*values)]


def random(axes: Sequence[Axis], draws: int, seed: int, *, where: str) -> list[Setting]:
    """``draws`` settings under every value of the axis ``seed``; equal ones once.

    An axis has dice of its own, so more draws begin with the same ones, and another axis leaves the others as they are.
    """
    varied = [axis for axis in axes if axis.field != SEED]
    seeds = [axis for axis in axes if axis.field == SEED]
    refuse(
        [
            f"{axis.field}.steps: random draws take none"
            for axis in varied
            if isinstance(axis.values, Range) and axis.values.steps is not None
        ],
        where,
    )
    columns = [_drawn(axis, draws, seed) for axis in varied]
    found = [dict(zip((axis.field for axis in varied), one, strict=True)) for one in zip(*columns, strict=True)]
    distinct = list({json.dumps(one, sort_keys=True, default=str): one for one in found or [{}]}.values())
    repeats = grid(seeds, where=where) if seeds else [{}]
    if (count := len(distinct) * len(repeats)) > MOST_CELLS:
        refuse([f"random.draws: {count:,} cells; {MOST_CELLS:,} at most"], where)
    return [setting | repeat for setting in distinct for repeat in repeats]


def _drawn(axis: Axis, draws: int, seed: int) -> list[Any]:
    shares = np.random.default_rng([seed, zlib.crc32(axis.field.encode())]).random(draws)
    if isinstance(axis.values, Range):
        return [axis.values.at(float(share)) for share in shares]
    return [axis.values[int(share * len(axis.values))] for share in shares]


# -- into a scenario ---------------------------------------------------------------------------------------------------


def varied(values: Mapping[str, Any], setting: Setting) -> tuple[dict[str, Any], list[str]]:
    """A scenario's values with these fields put in place, and what is wrong with fields that lead nowhere.

    Tables that are not there yet are made; a list of tables is entered by position or by ``name``.
    """
    out, problems = copy.deepcopy(dict(values)), []
    for field, value in setting.items():
        try:
            _put(out, field, value)
        except ConfigError as error:
            problems.append(str(error))
    return out, problems


def _put(out: dict[str, Any], field: str, value: Any) -> None:
    *way, last = field.split(".")
    at: Any = out
    for part in way:
        at = _step(at, part, field)
    if isinstance(at, list):
        at[_position(at, last, field)] = value
    elif isinstance(at, dict):
        at[last] = copy.deepcopy(value)
    else:
        raise ConfigError(f"{field}: {'.'.join(way)} is no table")


def _step(at: Any, part: str, field: str) -> Any:
    if isinstance(at, list):
        return at[_position(at, part, field)]
    if not isinstance(at, dict):
        raise ConfigError(f"{field}: there is no table before {part!r}")
    return at.setdefault(part, {})


def _position(at: list[Any], part: str, field: str) -> int:
    if part.isdigit() and int(part) < len(at):
        return int(part)
    named = [n for n, one in enumerate(at) if isinstance(one, Mapping) and one.get("name") == part]
    if not named:
        names = [str(one["name"]) for one in at if isinstance(one, Mapping) and "name" in one]
        known = f"; there are {', '.join(names[:12])}" if names else ""
        raise ConfigError(f"{field}: no {part!r} in that list{known}")
    return named[0]
