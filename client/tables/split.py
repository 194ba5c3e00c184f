"""Parting rows into training, validation and test: random, stratified, grouped or by time; private and seeded.

Training rows fit everything; validation rows only choose; test rows are read once, for the report.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Parts = tuple[Positions, Positions, Positions]

#: Places of the parts in an array that says where each row went; LEFT_OUT belongs to none.
TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, 3
_SPLIT: Final = 0x73706C6974


def split_rows(y: NDArray[Any], *, test: int, validation: float, seed: int, stratify: bool) -> Parts:
    """Positions of training, validation and test rows, each ascending.

    test        that many test rows
    validation  share of the other rows; at least one row
    stratify    keep the shares of labels, and one row of every label for training where there are enough rows
    """
    random = np.random.default_rng([_SPLIT, seed])
    # the same order as of 64 bits, in half the memory
    order = random.permutation(np.arange(len(y), dtype=np.uint32 if len(y) < 1 << 32 else np.int64))
    reserved = np.zeros(len(y), dtype=bool)
    if stratify:
        groups = _dense(y)
        # within shuffled rows: by label, labels in a shuffled order
        ranks = random.permutation(int(groups.max()) + 1)
        rank = ranks.astype(np.min_scalar_type(len(ranks)))[groups]  # few bits sort in linear time
        del groups
        order = order[np.argsort(rank[order], kind="stable")]
        ranked = rank[order]
        first = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
        reserved[order[:1]] = True
        reserved[order[first]] = True
    chosen_test = _every_so_often(order, reserved, test)
    left = _without(order, chosen_test)
    chosen_validation = _every_so_often(left, reserved, min(max(1, round(validation * len(left))), len(left) - 1))
    part = np.full(len(y), TRAIN, dtype=np.uint8)
    part[chosen_validation], part[chosen_test] = VALIDATION, TEST
    return _positions(part)


def split_groups(group: NDArray[np.int64], *, test: int, validation: float, seed: int) -> Parts:
    """Whole groups to each part, shuffled; each part has the first size that reaches what was asked for.

    group  (n,) codes 0 … groups - 1; at least three groups, or two where no test rows are wanted
    """
    random = np.random.default_rng([_SPLIT, seed, 1])
    sizes = np.bincount(group)
    order = random.permutation(len(sizes))
    tested = _first_groups(sizes, order, test, keep=2) if test else 0
    rest = int(sizes[order[tested:]].sum())
    held = _first_groups(sizes, order[tested:], max(1, round(validation * rest)), keep=1)
    part = np.full(len(sizes), TRAIN)
    part[order[:tested]] = TEST
    part[order[tested : tested + held]] = VALIDATION
    return _positions(part[group])


def split_time(when: NDArray[np.float64], *, test: int, validation: float) -> Parts:
    """The latest rows for the test, those before them for choosing; rows of one time stay together.

    when  (n,) finite; at least three different times, or two where no test rows are wanted
    """
    order = np.argsort(when, kind="stable")
    times = when[order]
    different = np.unique(times, return_index=True)[1]  # where each time begins
    end = len(order)
    cut_test = _nearest(different[2:], end - test) if test else end
    held = max(1, round(validation * cut_test))
    cut_validation = _nearest(different[(different >= 1) & (different < cut_test)], cut_test - held)
    part = np.full(len(when), TRAIN)
    part[order[cut_validation:cut_test]] = VALIDATION
    part[order[cut_test:]] = TEST
    return _positions(part)


def where_of(parts: Parts, rows: int) -> NDArray[np.uint8]:
    """(rows,) part of each row; LEFT_OUT for one that is in none."""
    where = np.full(rows, LEFT_OUT, dtype=np.uint8)
    for place, positions in enumerate(parts):
        where[positions] = place
    return where


def folds(y: NDArray[Any], *, count: int, seed: int, stratify: bool) -> NDArray[np.int64]:
    """(n,) fold of each row, in 0 … count - 1, sizes within one of each other and labels spread evenly."""
    random = np.random.default_rng([0x666F6C6473, seed])
    order = random.permutation(len(y))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    out = np.empty(len(y), dtype=np.int64)
    out[order] = np.arange(len(y)) % count
    return out


def balanced(y: NDArray[Any], *, seed: int) -> Positions:
    """Positions in which every label is as frequent as the most frequent one; each row at least once, ascending."""
    random = np.random.default_rng([0x62616C616E63, seed])
    labels, counts = np.unique(y, return_counts=True)
    most = int(counts.max(initial=0))
    more = [
        random.choice(np.flatnonzero(y == label), most - count) for label, count in zip(labels, counts, strict=True)
    ]
    return np.sort(np.concatenate([np.arange(len(y)), *more])).astype(np.int64)


def _dense(y: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) position of each value among the different ones, ascending."""
    if y.dtype.kind != "i" or y.min(initial=0) < 0:
        return np.asarray(np.unique(y, return_inverse=True)[1], dtype=np.int64)
    there = np.bincount(y) > 0
    return np.asarray((np.cumsum(there) - 1)[y], dtype=np.int64)


def _positions(part: NDArray[Any]) -> Parts:
    train, validation, test = (np.flatnonzero(part == place).astype(np.int64) for place in (TRAIN, VALIDATION, TEST))
    return train, validation, test


def _first_groups(sizes: NDArray[np.int64], order: NDArray[np.int64], wanted: int, *, keep: int) -> int:
    """How many of the ordered groups reach ``wanted`` rows, leaving ``keep`` groups."""
    reached = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    return max(1, min(reached, len(order) - keep))


def _nearest(cuts: NDArray[np.int64], wanted: int) -> int:
    return int(cuts[np.abs(cuts - wanted).argmin()])


def _without(order: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
    gone = np.zeros(int(order.max()) + 1 if len(order) else 0, dtype=bool)
    gone[chosen] = True
    left: NDArray[Any] = order[~gone[order]]
    return left


def _every_so_often(order: NDArray[Any], reserved: NDArray[np.bool_], wanted: int) -> NDArray[Any]:
    """``wanted`` of the rows, evenly spaced along ``order``, so that every stretch of it gives its share."""
    free = order[~reserved[order]]
    if len(free) < wanted:
        free = order  # too few rows to keep one of each label back
    # the first place k at which ⌊(k + 1)·wanted/n⌋ reaches 1, 2, …, wanted
    n = len(free)
    chosen: NDArray[Any] = free[-(-np.arange(1, wanted + 1) * n // max(1, wanted)) - 1]
    return chosen
