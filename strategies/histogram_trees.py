"""Decision trees over columns cut into slots: how rows walk them, and how a level of one is chosen from sums alone.

Every column is a run of slots, the last of which holds the rows without a value.  A split is one whole number:

    0                  none; every row goes left
    1 + 2·slot + way   of an ordered column: slots up to this one go left, and rows without a value do if ``way`` is 1;
                       of a column of labels: this slot alone goes left (``way`` is 0)

A tree of depth d is 2^d - 1 splits, level by level, and 2^d leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.common.schema import CategoryColumn, Column, NumberColumn

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
#: More slots than this make sums that no department wants to send every round.
MOST_SLOTS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Slots:
    """Where each column's slots lie among all.

    starts, sizes  (columns,) first slot and number of slots, the one for no value included
    ordered        (columns,) numbers; the others are labels
    column         (slots,) which column a slot belongs to
    """

    starts: Ints = field(repr=False)
    sizes: Ints = field(repr=False)
    ordered: NDArray[np.bool_] = field(repr=False)
    column: Ints = field(repr=False)

    @classmethod
    def of(cls, columns: Sequence[Column]) -> Slots:
        """Of a charter's ``[[columns]]``.  Raises ConfigError for kinds that trees do not read."""
        sizes = []
        for one in columns:
            if isinstance(one, NumberColumn):
                sizes.append(one.bins + 1)
            elif isinstance(one, CategoryColumn) and one.labels:
                sizes.append(one.slots + 1)
            else:
                raise ConfigError(
                    f"column {one.name!r} is neither a number nor a category with labels",
                    hint="leave it out of the charter's [[columns]]",
                )
        if not sizes:
            raise ConfigError("the charter lists no [[columns]]", hint="list what the departments have in common")
        if sum(sizes) > MOST_SLOTS:
            raise ConfigError(f"the charter's columns have {sum(sizes)} slots; at most {MOST_SLOTS}", hint="fewer bins")
        ordered = np.array([isinstance(one, NumberColumn) for one in columns])
        column = np.repeat(np.arange(len(sizes)), sizes)
        return cls(np.cumsum([0, *sizes[:-1]]), np.array(sizes, np.int64), ordered, column)

    @property
    def width(self) -> int:
        """Slots of all columns."""
        return len(self.column)

    def is_split(self, codes: Ints) -> NDArray[np.bool_]:
        """Which whole numbers are splits of these columns."""
        slot, way = np.divmod(codes - 1, 2)
        inside = (codes >= 1) & (slot < self.width)
        at = np.where(inside, slot, 0)
        column = self.column[at]
        last = at - self.starts[column] == self.sizes[column] - 1
        fits = np.where(self.ordered[column], ~last, way == 0)
        return np.asarray((codes == 0) | (inside & fits))


def goes_left(slots: Slots, splits: Ints, codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(n,) by the split (n,) that each row (n, columns) of positions in its columns stands at."""
    slot, way = np.divmod(np.maximum(splits - 1, 0), 2)
    column = slots.column[slot]
    code = codes[np.arange(len(codes)), column].astype(np.int64)
    at = slot - slots.starts[column]
    missing = code == slots.sizes[column] - 1
    left = np.where(slots.ordered[column], np.where(missing, way == 1, code <= at), code == at)
    return np.asarray(left | (splits == 0))


def walk(slots: Slots, tree: Ints, codes: NDArray[np.integer], levels: int) -> Ints:
    """(n,) where rows stand after that many levels of a tree (its splits), counted from the left."""
    node = np.zeros(len(codes), dtype=np.int64)
    for level in range(levels):
        splits = tree[(1 << level) - 1 + node]
        node = 2 * node + ~goes_left(slots, splits, codes)
    return node


def histogram(slots: Slots, codes: NDArray[np.integer], node: Ints, nodes: int, weights: Doubles | None) -> Doubles:
    """(nodes, slots) sums of weights (n,), or counts; exact for whole numbers whose sums stay below 2^53."""
    out = np.zeros((nodes, slots.width))
    for at, (start, size) in enumerate(zip(slots.starts.tolist(), slots.sizes.tolist(), strict=True)):
        found = np.bincount(node * size + codes[:, at], weights, minlength=nodes * size)
        out[:, start : start + size] = found.reshape(nodes, size)
    return out


@dataclass(frozen=True, slots=True)
class Rule:
    """What a split must keep to.

    penalty       λ on the square of a leaf's value
    least_rows    rows of all departments on either side
    least_weight  summed hessian on either side
    """

    penalty: float
    least_rows: int
    least_weight: float


@dataclass(frozen=True, slots=True)
class Level:
    """What was chosen for some nodes: splits (nodes,), and of both sides (nodes, 2) summed gradients and hessians."""

    splits: Ints
    gradients: Doubles
    hessians: Doubles


def choose_splits(slots: Slots, counts: Ints, gradients: Ints, hessians: Ints, unit: float, rule: Rule) -> Level:
    """The best split of each node from its histograms (nodes, slots), whole numbers, of ``unit`` but for counts.

    Gain of a split: G_l²/(H_l + λ) + G_r²/(H_r + λ) - G²/(H + λ) (Chen, Guestrin, 2016, doi 10.1145/2939672.2939785,
    equation 7 but for its half), which must be positive.  Of equal gains the first wins, in the order of columns, of
    their slots, and of rows without a value going right before left: the same sums give the same tree.
    """
    left = [_lefts(slots, one) for one in (counts, gradients, hessians)]
    total = [_totals(slots, one)[:, None] for one in (counts, gradients, hessians)]
    rows_left, rows_right = left[0], total[0] - left[0]
    g, h = left[1] * unit, left[2] * unit
    g_right, h_right = (total[1] - left[1]) * unit, (total[2] - left[2]) * unit
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = (total[1] * unit) ** 2 / (total[2] * unit + rule.penalty)
        gain = g**2 / (h + rule.penalty) + g_right**2 / (h_right + rule.penalty) - whole
    possible = slots.is_split(np.arange(1, 2 * slots.width + 1))
    possible = possible & (np.minimum(rows_left, rows_right) >= max(1, rule.least_rows))
    possible &= np.minimum(h, h_right) >= rule.least_weight
    gain = np.where(possible & np.isfinite(gain), gain, 0.0)
    best = gain.argmax(axis=1)
    line = np.arange(len(best))
    split = gain[line, best] > 0
    sides = []
    for one, other, whole_of in ((g, g_right, total[1]), (h, h_right, total[2])):
        kept = np.stack([one[line, best], other[line, best]], axis=1)
        alone = np.concatenate([whole_of * unit, np.zeros((len(best), 1))], axis=1)
        sides.append(np.where(split[:, None], kept, alone))
    return Level(np.where(split, best + 1, 0), sides[0], sides[1])


def _lefts(slots: Slots, found: Ints) -> Ints:
    """(nodes, 2·slots) what would go left by every possible split, in the order of their numbers less one.

    Differences of running sums of whole numbers modulo 2^64 are exact whatever the running sums are.
    """
    before = np.cumsum(found, axis=1) - found
    within = before + found - before[:, slots.starts[slots.column]]
    last = slots.starts + slots.sizes - 1
    missing = found[:, last[slots.column]]
    right = np.where(slots.ordered[slots.column], within, found)
    return np.stack([right, right + missing], axis=2).reshape(len(found), -1)


def _totals(slots: Slots, found: Ints) -> Ints:
    """(nodes,) over the first column, in one slot of which every row stands."""
    return np.asarray(found[:, : int(slots.sizes[0])].sum(axis=1))
