"""Who holds which row: everybody's weights become one deal in which every row is dealt once.

Rows that belong together are one unit and are dealt as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.by.base import ByKind, BySize, Codes, Random
from commonroot.simulations.worlds.margins import near, rounded, whole_sizes

Whole = NDArray[np.int64]
#: Units looked at by chance for a trade before all are looked at.
_GLANCES: Final = 64


@dataclass(frozen=True, slots=True)
class Kinds:
    """A partitioner, where its section stands in the file, and each unit's kind."""

    by: ByKind
    place: str
    codes: Codes


@dataclass(frozen=True, slots=True)
class Sizes:
    """The same of one that says how much departments hold."""

    by: BySize
    place: str


def deal(
    units: int,
    departments: int,
    kinds: Sequence[Kinds],
    sizes: Sequence[Sizes],
    *,
    fewest: int,
    random: Random,
    labels: Codes | None = None,
) -> Whole:
    """(units,) the department of each, from 0.

    fewest  units that every department has at least
    labels  (units,) of which every department has two at least, since nothing can be learned from one alone

    Raises ConfigError that names the partitioners whose weights leave rows to nobody or somebody without enough.
    """
    relative = np.ones(departments)
    for one in sizes:
        relative = relative * one.by.sizes(departments, random)
    wanted = whole_sizes(relative, units, fewest)
    places = ", ".join(one.place for one in kinds)
    if kinds:
        cells, codes, counts = np.unique(
            np.stack([one.codes for one in kinds], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        codes = codes.ravel()
        weights = _weights(kinds, cells, departments, random)
        if (weights.sum(axis=0) == 0).any() or (weights.sum(axis=1) == 0).any():
            raise ConfigError(
                f"{places}: together they leave some rows to nobody, or a department without any",
                hint="fewer departments, more classes, or one of them alone",
            )
        many = rounded(near(weights, wanted, counts), counts, random)
        may = weights > 0
        _fill(many, may, fewest, places)
        # units kind by kind in random order, and departments kind by kind as often as they get one
        order = np.lexsort((random.random(units), codes))
        out = np.empty(units, dtype=np.int64)
        out[order] = np.repeat(np.tile(np.arange(departments), len(cells)), many.T.ravel())
    else:
        codes, may = np.zeros(units, dtype=np.int64), np.ones((departments, 1), dtype=np.bool_)
        out = random.permutation(np.repeat(np.arange(departments), wanted))
    if labels is not None:
        _two_labels(out, np.unique(labels, return_inverse=True)[1], codes, may, fewest, random, places)
    return out


def _weights(kinds: Sequence[Kinds], cells: Whole, departments: int, random: Random) -> NDArray[np.float64]:
    """(departments, cells) the product of everybody's."""
    weights = np.ones((departments, len(cells)))
    for at, one in enumerate(kinds):
        values, inverse = np.unique(one.codes, return_inverse=True)
        try:
            own = one.by.weights(np.bincount(inverse), departments, random)
        except ConfigError as error:
            raise ConfigError(f"{one.place}.{error}", hint=error.advice) from error
        weights *= own[:, np.searchsorted(values, cells[:, at])]
    return weights


def _fill(many: Whole, may: NDArray[np.bool_], fewest: int, places: str) -> None:
    """Bring departments up to the floor, from those that have most of what they may hold."""
    sizes = many.sum(axis=1)
    for low in np.flatnonzero(sizes < fewest):
        while sizes[low] < fewest:
            spare = np.where((many > 0) & may[low], (sizes - fewest)[:, None], 0)
            spare[low] = 0
            if spare.max() <= 0:
                raise ConfigError(
                    f"{places}: a department cannot have {fewest} rows of what it may hold",
                    hint="fewer departments, more classes, or a lower `fewest`",
                )
            donor, kind = np.unravel_index(int(spare.argmax()), spare.shape)
            given = min(fewest - int(sizes[low]), int(many[donor, kind]), -(-int(sizes[donor] - fewest) // 2))
            many[donor, kind] -= given
            many[low, kind] += given
            sizes[donor] -= given
            sizes[low] += given


def _two_labels(
    owner: Whole, labels: Codes, kinds: Codes, may: NDArray[np.bool_], fewest: int, random: Random, places: str
) -> None:
    """Where a department would have a single label, it trades a unit with another one, or gets one.

    may  (departments, kinds) what each may hold
    """
    departments, width = len(may), int(labels.max()) + 1
    have = np.bincount(owner * width + labels, minlength=departments * width).reshape(departments, width)
    sizes = have.sum(axis=1)
    everything = np.arange(len(labels))
    for poor in np.flatnonzero((have > 0).sum(axis=1) == 1).tolist():
        own = int(have[poor].argmax())
        given = int(random.choice(np.flatnonzero(owner == poor)))

        def spare(unit: Whole, poor: int = poor, own: int = own) -> NDArray[np.bool_]:
            other = (labels[unit] != own) & (have[owner[unit], labels[unit]] > 1)
            found: NDArray[np.bool_] = other & may[poor, kinds[unit]]
            return found

        def trades(unit: Whole, given: int = given) -> NDArray[np.bool_]:
            found: NDArray[np.bool_] = may[owner[unit], kinds[given]]
            return found

        glance = random.integers(0, len(labels), _GLANCES)
        good = glance[spare(glance) & trades(glance)]
        if not len(good):
            left = everything[spare(everything)]
            good = left[trades(left)]
            if not len(good):
                good, given = left[sizes[owner[left]] > fewest], -1
        if not len(good):
            raise ConfigError(
                f"{places or 'world.departments'}: a department would have rows of one label alone, from which nothing "
                "can be learned",
                hint="fewer departments, more classes or a larger `fewest`",
            )
        got = int(good[0] if given >= 0 else random.choice(good))
        donor = int(owner[got])
        owner[got] = poor
        have[poor, labels[got]] += 1
        have[donor, labels[got]] -= 1
        if given >= 0:
            owner[given] = donor
            have[poor, own] -= 1
            have[donor, own] += 1
        else:
            sizes[poor] += 1
            sizes[donor] -= 1
