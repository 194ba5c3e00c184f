"""How many of each kind of row each department gets: whole numbers with given sums both ways, near given weights.

Weights say what departments tend to hold; sizes and the rows that there are say how much there is to hold.  Scaling
rows and columns in turn (Deming and Stephan, 1940; Sinkhorn, 1967) finds the table with those sums that is nearest to
the weights in relative entropy; then it is rounded without changing a sum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Whole = NDArray[np.int64]

_SCALINGS: Final = 200
#: Sums that are off by less than this share of a row are right after rounding.
_NEAR: Final = 0.05


def whole_sizes(weights: Real, total: int, fewest: int) -> Whole:
    """(n,) sizes in proportion to the weights that sum to ``total``, none below ``fewest``; ValueError where n · fewest
    is more than there is."""
    n = len(weights)
    if n * fewest > total:
        raise ValueError(f"{n} · {fewest} > {total}")
    held = np.zeros(n, dtype=np.bool_)  # at the floor
    while True:
        free = total - fewest * int(held.sum())
        sizes = np.where(held, float(fewest), 0.0)
        if not held.all():
            sizes[~held] = weights[~held] / weights[~held].sum() * free
        low = ~held & (sizes < fewest)
        if not low.any():
            break
        held |= low
    out = np.floor(sizes + 1e-9).astype(np.int64)
    largest = np.argsort(-(sizes - out), kind="stable")[: total - int(out.sum())]
    out[largest] += 1
    return out


def near(weights: Real, sizes: Whole, counts: Whole) -> Real:
    """(departments, kinds) with column sums ``counts``, and row sums ``sizes`` where weights of 0 allow that."""
    found: Real = weights * (counts / weights.sum(axis=0))
    for _ in range(_SCALINGS):
        rows = found.sum(axis=1)
        if np.abs(rows - sizes).max() < _NEAR:
            break
        found *= np.divide(sizes, rows, out=np.zeros(len(rows)), where=rows > 0)[:, None]
        sums = found.sum(axis=0)
        found *= np.divide(counts, sums, out=np.zeros(len(sums)), where=sums > 0)
    return found


def rounded(real: Real, counts: Whole, random: np.random.Generator) -> Whole:
    """Whole numbers near ``real``, with column sums ``counts`` exactly; 0 stays 0.

    Row sums are those of ``real`` to the next whole number, but where too many zeros forbid it.
    """
    rows = real.sum(axis=1)
    sizes = whole_sizes(rows, int(counts.sum()), 0)
    scaled = real * np.divide(sizes, rows, out=np.zeros(len(rows)), where=rows > 0)[:, None]
    # one random step for each row, the same for all its cells: a cell is off by less than 1 and its row by nothing
    ends = np.floor(np.cumsum(scaled, axis=1) + random.random(len(real))[:, None]).astype(np.int64)
    ends[:, -1] = sizes
    out = np.diff(ends, axis=1, prepend=0)
    out[real == 0] = 0
    np.maximum(out, 0, out=out)
    _trade_kinds(out, real, counts)
    _give_and_take(out, real, counts)
    return out


def _trade_kinds(whole: Whole, real: Real, counts: Whole) -> None:
    """Where a kind is dealt too often and another not often enough, departments trade one for the other."""
    over = whole.sum(axis=0) - counts
    for much in np.flatnonzero(over > 0):
        for little in np.argsort(over, kind="stable"):
            if over[much] <= 0 or over[little] >= 0:
                break
            gain = (real[:, little] - whole[:, little]) - (real[:, much] - whole[:, much])
            gain[(whole[:, much] == 0) | (real[:, little] == 0)] = -np.inf
            many = min(int(over[much]), int(-over[little]), int(np.isfinite(gain).sum()))
            if many == 0:
                continue
            at = np.argpartition(-gain, many - 1)[:many]
            whole[at, much] -= 1
            whole[at, little] += 1
            over[much] -= many
            over[little] += many


def _give_and_take(whole: Whole, real: Real, counts: Whole) -> None:
    """What is left of that changes sizes: rows are taken from and given to whoever is furthest off its number."""
    for kind in range(len(counts)):
        while (over := int(whole[:, kind].sum()) - int(counts[kind])) != 0:
            off = (whole[:, kind] - real[:, kind]) * np.sign(over)
            off[(real[:, kind] == 0) | ((over > 0) & (whole[:, kind] == 0))] = -np.inf
            many = min(abs(over), int(np.isfinite(off).sum()))
            if many == 0:
                raise ValueError("a kind of row that nobody holds")
            whole[np.argpartition(-off, many - 1)[:many], kind] -= np.sign(over)
