"""Parting rows into training, validation and test: random, stratified, grouped or by time; private and seeded.

Training rows fit everything; validation rows only choose; test rows are read once, for the report.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tables.coded import counts_of

Positions = NDArray[np.int64]
Parts = tuple[Positions, Positions, Positions]

#: Places of the parts in an array that says where each row went; LEFT_OUT belongs to none.
TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, 3
_SPLIT: Final = 0x73706C6974
#: From that many rows on, those for choosing and for the test are drawn, and no longer all rows shuffled.
LARGE: Final = 1 << 19
#: Rows of so few labels are put together label by label.
_FEW_LABELS: Final = 16


def split_rows(y: NDArray[Any], *, test: int, validation: float, seed: int, stratify: bool) -> Parts:
    """Positions of training, validation and test rows, each ascending; as ``place_rows`` parts them."""
    return _positions(place_rows(y, test=test, validation=validation, seed=seed, stratify=stratify))


def place_rows(y: NDArray[Any], *, test: int, validation: float, seed: int, stratify: bool) -> NDArray[np.uint8]:
    """(n,) part of each row.

    test        that many test rows
    validation  share of the other rows; at least one row
    stratify    keep the shares of labels, and one row of every label for training where there are enough rows
    """
    random = np.random.default_rng([_SPLIT, seed])
    if len(y) >= LARGE:
        return _drawn(_dense(y) if stratify else np.zeros(len(y), dtype=np.uint8), test, validation, random)
    # the same order as of 64 bits, in half the memory
    order = random.permutation(np.arange(len(y), dtype=np.uint32 if len(y) < 1 << 32 else np.int64))
    first = np.empty(0, dtype=np.int64)
    if stratify:
        order, first = _by_label(order, y, random)
    free = np.ones(len(y), dtype=np.bool_)  # of the places along the order
    tested = _every_so_often(free, first, test)
    free[tested] = False
    left = len(y) - len(tested)
    held = _every_so_often(free, first, min(max(1, round(validation * left)), left - 1))
    part = np.full(len(y), TRAIN, dtype=np.uint8)
    part[order[held]], part[order[tested]] = VALIDATION, TEST
    return part


def _drawn(groups: NDArray[Any], test: int, validation: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """(n,) part of each row of a large table: as many rows of each label to each part as of a small one, but only those
    that leave the training rows are drawn, where shuffling all rows takes longer than reading them."""
    labels = int(groups.max()) + 1
    sizes = counts_of(groups, labels)
    ranks = random.permutation(labels)
    tested = _shares(sizes, ranks, test)
    left = len(groups) - test
    held = _shares(sizes - tested, ranks, min(max(1, round(validation * left)), left - 1))
    part = np.full(len(groups), TRAIN, dtype=np.uint8)
    each = (
        [np.flatnonzero(groups == one) for one in range(len(sizes))]
        if len(sizes) <= _FEW_LABELS
        else np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    )
    for rows, some, more in zip(each, tested.tolist(), held.tolist(), strict=True):
        chosen = rows[random.choice(len(rows), some + more, replace=False)]
        part[chosen[:some]], part[chosen[some:]] = TEST, VALIDATION
    return part


def _shares(sizes: NDArray[np.int64], ranks: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """How many of ``wanted`` rows are of each label: as many as lie evenly spaced in its stretch, one kept back."""
    order = np.argsort(ranks)
    free = np.cumsum(np.maximum(sizes - 1, 0)[order])
    if free[-1] < wanted:
        free = np.cumsum(sizes[order])
    out = np.empty_like(sizes)
    out[order] = np.diff(free * wanted // max(1, int(free[-1])), prepend=0)
    return out


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


def _dense(y: NDArray[Any]) -> NDArray[Any]:
    """(n,) position of each value among the different ones, ascending; a byte each where there are few."""
    if y.dtype.kind not in "iu" or not len(y) or (y.dtype.kind == "i" and y.min() < 0):
        return np.asarray(np.unique(y, return_inverse=True)[1], dtype=np.int64)
    if y.dtype.itemsize > 1 and y.max() < 1 << 8:
        y = y.astype(np.uint8)
    there = counts_of(y, int(y.max()) + 1) > 0
    return y if there.all() else (np.cumsum(there) - 1)[y].astype(y.dtype)


def _positions(part: NDArray[Any]) -> Parts:
    train, validation, test = (np.flatnonzero(part == place).astype(np.int64) for place in (TRAIN, VALIDATION, TEST))
    return train, validation, test


def _first_groups(sizes: NDArray[np.int64], order: NDArray[np.int64], wanted: int, *, keep: int) -> int:
    """How many of the ordered groups reach ``wanted`` rows, leaving ``keep`` groups."""
    reached = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    return max(1, min(reached, len(order) - keep))


def _nearest(cuts: NDArray[np.int64], wanted: int) -> int:
    return int(cuts[np.abs(cuts - wanted).argmin()])


def _by_label(
    order: NDArray[Any], y: NDArray[Any], random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(rows by label, labels in a shuffled order and rows of one in that of ``order``; the place of each label's first
    one)."""
    groups = _dense(y)
    sizes = counts_of(groups, int(groups.max()) + 1)
    ranks = random.permutation(len(sizes))
    rank = ranks.astype(np.min_scalar_type(len(ranks))).take(groups)
    ranked = rank.take(order)
    if len(sizes) <= _FEW_LABELS:  # cheaper than sorting
        order = np.concatenate([order.take(np.flatnonzero(ranked == one)) for one in range(len(sizes))])
    else:
        order = order[np.argsort(ranked, kind="stable")]  # few bits sort in linear time
    ends = np.cumsum(sizes[np.argsort(ranks)])
    return order, np.concatenate([ends[:1] * 0, ends[:-1]])


def _every_so_often(free: NDArray[np.bool_], reserved: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """``wanted`` of the free places, evenly spaced, so that every stretch of them gives its share; none reserved."""
    unreserved = free.copy()
    unreserved[reserved] = False
    places = np.flatnonzero(unreserved)
    if len(places) < wanted:
        places = np.flatnonzero(free)  # too few rows to keep one of each label back
    # the first place k at which ⌊(k + 1)·wanted/n⌋ reaches 1, 2, …, wanted
    n = len(places)
    return np.asarray(places[-(-np.arange(1, wanted + 1) * n // max(1, wanted)) - 1], dtype=np.int64)
