"""From a department's file of ratings to positions: users of its own, items of the catalogue that everybody shares.

    [data]
    path = "ratings.csv"        # one line per user and item
    task = "recommendation"
    user = "customer"           # names of this department's users; they never leave
    item = "product"
    target = "stars"            # the rating
    catalogue = "products.csv"  # where the charter pins one: every item there is, in a column named as ``item``

Without a catalogue, items are the whole numbers from 1 to as many as the charter says.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import FEWEST_ROWS, DataConfig, split_rows
from commonroot.client.table import Problem, read_cells, refuse
from commonroot.common.backbone_factors import FactorsSpec
from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import tagged_hash

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated what, by position.  They never leave the department.

    user, item  (n,) int64
    rating      (n,) float64
    """

    user: Positions = field(repr=False)
    item: Positions = field(repr=False)
    rating: NDArray[np.float64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rating)

    def take(self, at: Positions) -> Ratings:
        """The ratings at these positions."""
        return Ratings(self.user[at], self.item[at], self.rating[at])

    def join(self, other: Ratings) -> Ratings:
        """These, then the others."""
        return Ratings(
            np.concatenate([self.user, other.user]),
            np.concatenate([self.item, other.item]),
            np.concatenate([self.rating, other.rating]),
        )


@dataclass(frozen=True, slots=True)
class Book:
    """A department's ratings, split, and what its positions mean.

    users  names of its users, sorted; positions point into them
    items  names of the catalogue's items, in its order
    """

    users: tuple[str, ...] = field(repr=False)
    items: tuple[str, ...] = field(repr=False)
    train: Ratings
    validation: Ratings
    test: Ratings


def catalogue_digest(names: tuple[str, ...]) -> bytes:
    """32 bytes that name a catalogue: its items' names in order."""
    return tagged_hash("catalogue", *(name.encode() for name in names))


def read_catalogue(config: DataConfig, folder: Path, spec: FactorsSpec | None) -> tuple[str, ...] | None:
    """Names of all items in order; None where neither a catalogue nor a charter says how many there are.

    Raises DataError for a list with gaps or repeats, ConfigError for one that is not the charter's.
    """
    if config.catalogue is None or config.item is None:
        if spec is not None and spec.catalogue is not None:
            raise ConfigError(
                "the charter pins a catalogue, and [data] names none", hint='catalogue = "items.csv" under [data]'
            )
        return None if spec is None else tuple(str(at + 1) for at in range(spec.items))
    path = folder / config.catalogue
    cells, problems = read_cells(path, [config.item])
    refuse(problems)
    names = tuple(str(one) for one in (cells or {})[config.item].tolist())
    seen: set[str] = set()
    for row, name in enumerate(names):
        if not name or name in seen:
            found = "an item twice" if name else "an empty cell"
            fix = "list every item once"
            problems.append(
                Problem(file=path.name, row=row + 2, column=config.item, found=found, expected="a new item", fix=fix)
            )
        seen.add(name)
    refuse(problems)
    if spec is not None:
        if len(names) != spec.items:
            raise ConfigError(f"{path.name} lists {len(names)} items; the charter's catalogue has {spec.items}")
        if spec.catalogue is not None and catalogue_digest(names).hex() != spec.catalogue:
            raise ConfigError(f"{path.name} is not the catalogue that the charter pins: other items or another order")
    return names


def read_book(config: DataConfig, folder: Path, spec: FactorsSpec | None) -> Book:
    """Read, check and split.  ``spec`` is None where there is no charter yet.

    Raises DataError that lists everything wrong at once, ConfigError where data and charter speak of other things.
    """
    if config.task != "recommendation" or config.user is None or config.item is None:
        raise ConfigError(
            f"method 'als' learns from ratings; this department's task is {config.task}",
            hint='task = "recommendation" with user, item and target under [data]',
        )
    items = read_catalogue(config, folder, spec)
    columns = (config.user, config.item, config.target)
    read = [_read(folder / config.path, columns)]
    if config.test_path is not None:
        read.append(_read(folder / config.test_path, columns))
    refuse([problem for _, problems in read for problem in problems])
    cells = {name: np.concatenate([one[name] for one, _ in read]) for name in columns}
    first, lengths = config.path.name, [len(one[config.user]) for one, _ in read]
    if items is None:
        items = tuple(sorted(set(cells[config.item].tolist())))
    problems: list[Problem] = []
    users, user = np.unique(cells[config.user], return_inverse=True)
    item = _positions(cells[config.item], items, first, config.item, problems)
    rating = _numbers(cells[config.target], first, config.target, problems)
    if lengths[0] < FEWEST_ROWS:
        found, expected = f"{lengths[0]} ratings", f"at least {FEWEST_ROWS}"
        problems.append(Problem(file=first, found=found, expected=expected, fix="collect more ratings"))
    if not problems:
        _refuse_twice(user, item, first, problems)
    refuse(problems)
    every = Ratings(user.astype(np.int64), item, rating)
    own, tested = every.take(np.arange(lengths[0])), every.take(np.arange(lengths[0], len(every)))
    test = 0 if config.test_path is not None else config.test_rows or max(1, round(config.test * len(own)))
    parts = split_rows(own.rating, test=test, validation=config.validation, seed=config.seed, stratify=False)
    train, validation, held = (own.take(part) for part in parts)
    return Book(tuple(users.tolist()), items, train, validation, held if config.test_path is None else tested)


def _read(path: Path, columns: tuple[str, str, str]) -> tuple[dict[str, NDArray[Any]], list[Problem]]:
    cells, problems = read_cells(path, columns)
    if cells is None:
        return {}, problems
    text = {name: np.char.strip(_whole(cells[name]).astype(np.str_)) for name in columns}
    for name in columns:
        for row in np.flatnonzero(text[name] == ""):
            problems.append(
                Problem(
                    file=path.name,
                    row=int(row) + 2,
                    column=name,
                    found="an empty cell",
                    expected="a value",
                    fix="drop the row",
                )
            )
    return text, problems


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers that were stored as floats, as whole numbers: 3 and 3.0 name one item."""
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        return array.astype(np.int64)
    return array


def _positions(
    cells: NDArray[Any], items: tuple[str, ...], file: str, column: str, problems: list[Problem]
) -> Positions:
    place = {name: at for at, name in enumerate(items)}
    different, at = np.unique(cells, return_inverse=True)
    found = np.array([place.get(name, -1) for name in different.tolist()], dtype=np.int64)[at]
    for row in np.flatnonzero(found < 0):
        fix = "mend the cell, or ask for a charter with a catalogue that has the item"
        problems.append(
            Problem(
                file=file,
                row=int(row) + 2,
                column=column,
                found="an unknown item",
                expected=f"one of the catalogue's {len(items)}",
                fix=fix,
            )
        )
    return found


def _numbers(cells: NDArray[Any], file: str, column: str, problems: list[Problem]) -> NDArray[np.float64]:
    different, at = np.unique(cells, return_inverse=True)
    parsed = np.full(len(different), np.nan)
    for place, text in enumerate(different.tolist()):
        with suppress(ValueError):
            parsed[place] = float(text)
    values = parsed[at]
    for row in np.flatnonzero(~np.isfinite(values)):
        problems.append(
            Problem(
                file=file,
                row=int(row) + 2,
                column=column,
                found="no number",
                expected="a finite number",
                fix="mend the cell",
            )
        )
    return values


def _refuse_twice(user: NDArray[Any], item: Positions, file: str, problems: list[Problem]) -> None:
    """One rating per user and item: two would count the user twice among the item's."""
    order = np.lexsort((item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    for row in np.sort(order[1:][same]):
        fix = "keep one, or their mean"
        expected = "one rating per user and item"
        problems.append(
            Problem(file=file, row=int(row) + 2, found="a second rating of an item", expected=expected, fix=fix)
        )
