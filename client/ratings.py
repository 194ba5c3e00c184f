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

from commonroot.client.data import (
    FEWEST_ROWS,
    DataConfig,
    Problem,
    Problems,
    Reading,
    open_data,
    read_cells,
    split_rows,
)
from commonroot.client.tables.source import Source
from commonroot.client.tasks.recommendation import RECOMMENDATION
from commonroot.common.backbone.factors import FactorsSpec
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
    problems = Problems()
    cells, first = _read(path, path.name, (config.item,), config, problems, empty=True)
    problems.refuse()
    names = tuple(cells[config.item].tolist())
    seen: set[str] = set()
    for row, name in enumerate(names):
        if not name or name in seen:
            found = "an item twice" if name else "an empty cell"
            fix = "list every item once"
            problems.add(
                Problem(
                    file=path.name, row=row + first, column=config.item, found=found, expected="a new item", fix=fix
                )
            )
        seen.add(name)
    problems.refuse()
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
    if config.goal_kind != RECOMMENDATION or config.user is None or config.item is None:
        raise ConfigError(
            f"method 'als' learns from ratings; this department's task is {config.goal_kind}",
            hint='task = "recommendation" with user, item and target under [data]',
        )
    items = read_catalogue(config, folder, spec)
    columns = (config.user, config.item, config.targets[0])
    problems = Problems()
    read = []
    for later in (False, True) if config.test_path is not None else (False,):
        source = open_data(config, folder, problems, columns=columns, test=later)
        if source is not None:
            read.append((source.name, *_read(source, source.name, columns, config, problems)))
    problems.refuse()
    cells = {name: np.concatenate([one[name] for _, one, _ in read]) for name in columns}
    places = _Places(tuple((file, first, len(one[config.user])) for file, one, first in read))
    if items is None:
        items = tuple(sorted(set(cells[config.item].tolist())))
    users, user = np.unique(cells[config.user], return_inverse=True)
    item = _positions(cells[config.item], items, places, config.item, problems)
    rating = _numbers(cells[config.targets[0]], places, config.targets[0], problems)
    count = places.files[0][2]
    if count < FEWEST_ROWS:
        found, expected = f"{count} ratings", f"at least {FEWEST_ROWS}"
        problems.add(Problem(file=config.source_name, found=found, expected=expected, fix="collect more ratings"))
    if not problems:
        _refuse_twice(user, item, places, problems)
    problems.refuse()
    every = Ratings(user.astype(np.int64), item, rating)
    own, tested = every.take(np.arange(count)), every.take(np.arange(count, len(every)))
    test = 0 if config.test_path is not None else config.test_rows or max(1, round(config.test_share * count))
    share, seed = config.validation_share, config.split_seed
    parts = split_rows(own.rating, test=test, validation=share, seed=seed, stratify=False)
    train, validation, held = (own.take(part) for part in parts)
    return Book(tuple(users.tolist()), items, train, validation, held if config.test_path is None else tested)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where rows of several files, one after another, stand: (name, number of its first row, rows) of each file."""

    files: tuple[tuple[str, int, int], ...]

    def problem(self, row: int, found: str, expected: str, fix: str, column: str | None = None) -> Problem:
        """About the cell of a column, or a whole row."""
        ends = np.cumsum([count for _, _, count in self.files])
        which = int(np.searchsorted(ends, row, side="right"))
        file, first, count = self.files[which]
        at = row - int(ends[which]) + count + first
        return Problem(file=file, row=at, column=column, found=found, expected=expected, fix=fix)


def _read(
    source: Path | Source,
    file: str,
    columns: tuple[str, ...],
    config: DataConfig,
    problems: Problems,
    *,
    empty: bool = False,
) -> tuple[dict[str, NDArray[Any]], int]:
    """(text of the columns, number of the first row); a problem for every empty cell unless they may be ``empty``."""
    read = read_cells(source, columns, Reading.of(config), problems, numbers=config.targets)
    if read is None:
        return {}, 1
    cells, first = read
    text = {name: np.char.strip(_whole(cells[name]).astype(np.str_)) for name in columns}
    for name in columns if not empty else ():
        for row in np.flatnonzero((text[name] == "") | (text[name] == "nan")):
            fix = "drop the row"
            at = int(row) + first
            problems.add(Problem(file=file, row=at, column=name, found="an empty cell", expected="a value", fix=fix))
    return text, first


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers that were stored as floats, as whole numbers: 3 and 3.0 name one item."""
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        return array.astype(np.int64)
    return array


def _positions(
    cells: NDArray[Any], items: tuple[str, ...], places: _Places, column: str, problems: Problems
) -> Positions:
    place = {name: at for at, name in enumerate(items)}
    different, at = np.unique(cells, return_inverse=True)
    found = np.array([place.get(name, -1) for name in different.tolist()], dtype=np.int64)[at]
    for row in np.flatnonzero(found < 0):
        fix = "mend the cell, or ask for a charter with a catalogue that has the item"
        expected = f"one of the catalogue's {len(items)}"
        problems.add(places.problem(int(row), "an unknown item", expected, fix, column))
    return found


def _numbers(cells: NDArray[Any], places: _Places, column: str, problems: Problems) -> NDArray[np.float64]:
    different, at = np.unique(cells, return_inverse=True)
    parsed = np.full(len(different), np.nan)
    for place, text in enumerate(different.tolist()):
        with suppress(ValueError):
            parsed[place] = float(text)
    values = parsed[at]
    for row in np.flatnonzero(~np.isfinite(values)):
        problems.add(places.problem(int(row), "no number", "a finite number", "mend the cell", column))
    return values


def _refuse_twice(user: NDArray[Any], item: Positions, places: _Places, problems: Problems) -> None:
    """One rating per user and item: two would count the user twice among the item's."""
    order = np.lexsort((item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    for row in np.sort(order[1:][same]):
        fix = "keep one, or their mean"
        expected = "one rating per user and item"
        problems.add(places.problem(int(row), "a second rating of an item", expected, fix))
