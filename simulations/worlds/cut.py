"""Cutting a table: who deals which rows among themselves, by what, and the files that come of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from commonroot.client.data import FEWEST_ROWS, DataConfig
from commonroot.client.tables.leaks import find_leaks
from commonroot.client.tasks.registry import task_class
from commonroot.common.errors import ConfigError
from commonroot.common.roster import FEWEST_DEPARTMENTS
from commonroot.files import storage_errors
from commonroot.simulations.worlds.by import Column, Dirichlet, Labels, Quantity, Shift
from commonroot.simulations.worlds.by.base import Codes
from commonroot.simulations.worlds.codes import codes_of, joint, most_frequent
from commonroot.simulations.worlds.deal import Kinds, Sizes, deal
from commonroot.simulations.worlds.table import Table

if TYPE_CHECKING:
    from commonroot.simulations.worlds.parts import Parts

#: Groups of rows that a department needs: to learn from, to choose by, to test on.
FEWEST_GROUPS: Final = 3
#: Departments' files in one folder.
_FOLDER: Final = 1000
_SEED: Final = 0x7061727473
_DEAL, _SHIFT = 1, 2


@dataclass(frozen=True, slots=True)
class _Share:
    """Departments that deal some units among themselves.

    told  whose rows they are, for messages
    """

    names: tuple[str, ...]
    units: NDArray[np.int64]
    told: str = ""


class Cut:
    """One cutting of one table."""

    def __init__(self, world: Parts, section: DataConfig, table: Table, seed: int) -> None:
        self._world, self._section, self._table, self._seed = world, section, table, seed
        if not len(table):
            raise ConfigError("world.data: the table has no rows", hint="fill the table")
        together = world.together or _belonging(section)
        codes = [self._codes(together, "together")] if together else []
        self._groups = (
            None if world.column is None else self._codes(world.column.column, f"{_place(world, Column)}.column")
        )
        codes += [self._groups] if codes and self._groups is not None else []
        self._unit = joint(codes) if codes else None
        self._units = len(table) if self._unit is None else int(self._unit.max()) + 1
        self._what = "rows" if self._unit is None else "groups of rows"
        self._least = FEWEST_ROWS + (section.test_rows or 0)  # rows without which a department cannot begin
        floor = self._least if self._unit is None else FEWEST_GROUPS
        self._fewest = floor if world.fewest is None else world.fewest
        if self._fewest < floor:
            raise ConfigError(
                f"world.fewest: {self._fewest} {self._what} are too few to learn from, to choose by and to test on",
                hint=f"at least {floor}",
            )

    def write(self, folder: Path, seed: int) -> dict[str, DataConfig]:
        """See ``Parts.write``."""
        names, rows, owner = self._dealt()
        table = self._table.taken(rows)
        for at, one in enumerate(self._world.by):
            if isinstance(one, Shift):
                random = np.random.default_rng([_SEED, self._seed, _SHIFT, at])
                try:
                    table = table.shifted(one, owner, len(names), random)
                except ConfigError as error:
                    raise ConfigError(f"world.by.{at}: {error}", hint=error.advice) from error
        changes: dict[str, Any] = {} if "seed" in self._section.model_fields_set else {"seed": seed}
        labels = self._labels()
        if labels is not None and self._section.labels is None and self._world.labels == "all":
            changes["labels"] = labels
        if labels is not None:
            changes["trusted"] = self._trusted()
        if table.suffix == ".csv":
            changes["encoding"] = "utf-8"
        begins = np.searchsorted(owner, np.arange(len(names) + 1)).tolist()
        self._large_enough(names, np.diff(begins))
        sections: dict[str, DataConfig] = {}
        with storage_errors(folder):
            for at in range(0, len(names), _FOLDER):
                (folder / str(at // _FOLDER)).mkdir(parents=True, exist_ok=True)
            for at, name in enumerate(names):
                path = (folder / str(at // _FOLDER) / f"{name}{table.suffix}").absolute()
                table.write(path, begins[at], begins[at + 1])
                sections[name] = self._section.model_copy(update={**changes, "path": path})
        return sections

    def _dealt(self) -> tuple[list[str], NDArray[np.int64], Codes]:
        """Departments, rows ordered by department, and the department of each."""
        names: list[str] = []
        units: list[NDArray[np.int64]] = []
        owner: list[Codes] = []
        kinds, sizes = self._partitioners()
        labels = self._target_codes()
        for at, share in enumerate(self._shares()):
            random = np.random.default_rng([_SEED, self._seed, _DEAL, at])
            own = [Kinds(one.by, one.place, one.codes[share.units]) for one in kinds]
            known = None if labels is None else labels[share.units]
            try:
                dealt = deal(
                    len(share.units), len(share.names), own, sizes, fewest=self._fewest, random=random, labels=known
                )
            except ConfigError as error:
                raise ConfigError(f"{share.told}{error}", hint=error.advice) from error
            units.append(share.units)
            owner.append(dealt + len(names))
            names += share.names
        every, whose = np.concatenate(units), np.concatenate(owner)
        if self._unit is None:
            order = np.lexsort((every, whose))
            return names, every[order], whose[order]
        # from units to their rows, which keep the table's order within a department
        by_unit = np.argsort(self._unit, kind="stable")
        counts = np.bincount(self._unit, minlength=self._units)
        begins = np.cumsum(counts) - counts
        many = counts[every]
        within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        rows, whose = by_unit[np.repeat(begins[every], many) + within], np.repeat(whose, many)
        order = np.lexsort((rows, whose))
        return names, rows[order], whose[order]

    def _large_enough(self, names: list[str], sizes: NDArray[np.int64]) -> None:
        """Groups of rows can be small."""
        short = np.flatnonzero(sizes < self._least)
        if len(short):
            raise ConfigError(
                f"world.fewest: {len(short)} departments have fewer than {self._least} rows, {names[short[0]]} first "
                f"({sizes[short[0]]} rows in {self._fewest} or more groups)",
                hint="a larger `fewest`, or fewer departments",
            )

    def _partitioners(self) -> tuple[list[Kinds], list[Sizes]]:
        kinds, sizes = [], []
        for at, one in enumerate(self._world.by):
            place = f"world.by.{at}"
            if isinstance(one, Quantity):
                sizes.append(Sizes(one, place))
            elif isinstance(one, Labels | Dirichlet):
                column = one.column or self._target(place)
                kinds.append(Kinds(one, place, self._of_units(self._codes(column, f"{place}.column", bins=one.bins))))
        return kinds, sizes

    def _shares(self) -> Iterator[_Share]:
        """Whoever deals the same rows among themselves: everybody, or the departments of a value; for every copy."""
        world = self._world
        everything = np.arange(self._units)
        if self._groups is None:
            values: list[tuple[str, NDArray[np.int64]]] = [("", everything)]
        else:
            values = self._values(self._of_units(self._groups))
        total = len(values) if world.departments is None else world.departments
        if total < FEWEST_DEPARTMENTS:
            raise ConfigError(
                f"world.by: {total} departments; at least {FEWEST_DEPARTMENTS} sum together",
                hint="give more `departments`, or a column with more values",
            )
        least = world.copies * len(values)
        if total < least:
            raise ConfigError(
                f"world.departments: {total} for {len(values)} values"
                + (f", {world.copies} times" if world.copies > 1 else ""),
                hint=f"at least {least}, or leave it out for one department a value",
            )
        self._enough(total)
        rooms = np.array([len(units) // self._fewest for _, units in values])
        numbers = iter(numbered("d", total))
        for copy in range(world.copies):
            here = total // world.copies + (copy < total % world.copies)
            many = _in_proportion(np.array([len(units) for _, units in values]), rooms, here)
            for (value, units), count in zip(values, many.tolist(), strict=True):
                names = (
                    tuple(next(numbers) for _ in range(count)) if not value else _of_value(value, count, copy, world)
                )
                yield _Share(names, units, f"{value}: " if value else "")

    def _enough(self, total: int) -> None:
        need = total * self._fewest
        there = self._units * self._world.copies
        if need > there:
            raise ConfigError(
                f"world.departments: {total} departments of at least {self._fewest} {self._what} need {need}, "
                f"and there are {there}",
                hint=f"at most {there // self._fewest} departments, or copies = {-(-need // self._units)}",
            )

    def _values(self, codes: Codes) -> list[tuple[str, NDArray[np.int64]]]:
        """A name and units for every value of the column, small ones merged or refused."""
        column = self._world.column
        if column is None or self._groups is None:
            raise ValueError("no column says what departments are")
        series = self._table.column(column.column)
        first = np.unique(self._groups, return_index=True)[1]
        told = [_text(series[int(row)]) for row in first]
        held = [np.flatnonzero(codes == code) for code in range(len(told))]
        small = [at for at, units in enumerate(held) if len(units) < self._fewest]
        place = f"{_place(self._world, Column)}.column"
        if small and column.small == "refuse":
            listed = ", ".join(f"{told[at]!r} ({len(held[at])})" for at in small[:10]) + (", …" if small[10:] else "")
            raise ConfigError(
                f"{place}: {len(small)} values have fewer than {self._fewest} {self._what}: {listed}",
                hint='small = "merge" makes one department of them',
            )
        kept = [(told[at], held[at]) for at in range(len(told)) if at not in set(small)]
        names = _distinct([name for name, _ in kept], taken={"others"} if small else set())
        out = list(zip(names, (units for _, units in kept), strict=True))
        if small:
            others = np.sort(np.concatenate([held[at] for at in small]))
            if len(others) < self._fewest:
                raise ConfigError(
                    f"{place}: the small values have {len(others)} {self._what} together; {self._fewest} are needed",
                    hint="lower `fewest`, or leave those rows out of the table",
                )
            out.append(("others", others))
        return out

    # -- codes ---------------------------------------------------------------------------------------------------------

    def _target(self, place: str) -> str:
        if len(self._section.targets) != 1:
            raise ConfigError(f"{place}: the task has {len(self._section.targets)} targets", hint="name a column")
        return self._section.targets[0]

    def _codes(self, column: str, place: str, *, bins: int | None = None) -> Codes:
        return codes_of(self._table, column, _dotted(place), bins=bins)

    def _of_units(self, codes: Codes) -> Codes:
        return codes if self._unit is None else most_frequent(codes, self._unit, self._units)

    def _target_codes(self) -> Codes | None:
        """Each unit's label, where the task needs two of them."""
        if task_class(self._section.goal_kind).learns != "label" or len(self._section.targets) != 1:
            return None
        codes = self._of_units(self._codes(self._section.targets[0], "data.target", bins=len(self._table) + 1))
        if int(codes.max()) == 0:
            raise ConfigError("world.data.target: one label alone cannot be learned", hint="mend the target")
        return codes

    def _labels(self) -> tuple[str | int, ...] | None:
        """Every label there is, as a section lists them; None where they are not that simple, or there are none."""
        if task_class(self._section.goal_kind).learns != "label" or len(self._section.targets) != 1:
            return None
        series = self._table.column(self._section.targets[0]).drop_nulls()
        if series.dtype == pl.String:
            return tuple(sorted({text for text in series.str.strip_chars().unique().to_list() if text}))
        return tuple(sorted(series.unique().to_list())) if series.dtype.is_integer() else None

    def _trusted(self) -> tuple[str, ...]:
        """Columns that are no copy of the label in the whole table: in a few rows with two labels, one can look so."""
        features = self._table.features
        codes = self._codes(self._section.targets[0], "data.target", bins=len(self._table) + 1)
        copies = set(find_leaks(features, features.columns, codes, labels=True))
        return tuple(dict.fromkeys([*self._section.trusted, *(one for one in features.columns if one not in copies)]))


def _place(world: Parts, kind: type[BaseModel]) -> str:
    return next(f"world.by.{at}" for at, one in enumerate(world.by) if isinstance(one, kind))


def _dotted(place: str) -> str:
    return place if place.startswith("world.") else f"world.{place}"


def _belonging(data: DataConfig) -> str | None:
    """The column whose rows stay together whatever a scenario says."""
    if data.window is not None:
        return data.window.group
    if data.split is not None and data.split.kind == "grouped":
        return data.split.column
    return data.user


def _in_proportion(weights: NDArray[np.int64], rooms: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """(n,) numbers from 1 to their room that sum to ``total``, near the proportions.  Raises ConfigError."""
    if total > rooms.sum():
        raise ConfigError(
            f"world.departments: {total} of them do not fit: the values have rows for {int(rooms.sum())}",
            hint="fewer departments, or a lower `fewest`",
        )
    share = weights / weights.sum() * total
    out: NDArray[np.int64] = np.clip(np.floor(share).astype(np.int64), 1, rooms)
    while (left := total - int(out.sum())) != 0:
        free = out < rooms if left > 0 else out > 1
        off = np.where(free, (share - out) * np.sign(left), -np.inf)
        at = np.argsort(-off, kind="stable")[: min(abs(left), int(free.sum()))]
        out[at] += np.sign(left)
    return out


def numbered(stem: str, many: int) -> tuple[str, ...]:
    """``stem`` and a number from 1, each with as many digits as the last."""
    return tuple(f"{stem}{at:0{len(str(many))}d}" for at in range(1, many + 1))


def _of_value(value: str, count: int, copy: int, world: Parts) -> tuple[str, ...]:
    stem = value if world.copies == 1 else f"{value}.{copy + 1}"
    return (stem,) if count == 1 else numbered(f"{stem}-", count)


def _text(value: Any) -> str:
    return str(value).strip()


def _distinct(values: list[str], *, taken: set[str]) -> list[str]:
    """Names that a department may have, one for each value."""
    used, out = set(taken), []
    for value in values:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-._")[:40] or "value"
        name, at = plain, 1
        while name in used:
            at += 1
            name = f"{plain}.{at}"
        used.add(name)
        out.append(name)
    return out
