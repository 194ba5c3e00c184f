"""Metrics on resampled rows, all resamplings at once: ``counts`` is (repeats, n), how often each row is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean(values: NDArray[Any], counts: Floats) -> Floats:
    """Σ c·v / Σ c; (repeats,)."""
    return np.asarray(counts @ values.astype(np.float64) / np.maximum(counts.sum(axis=1), 1e-300), dtype=np.float64)


def ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """above / below, and 0 where nothing is below."""
    safe = np.where(below > 0, below, 1.0)
    return np.asarray(np.where(below > 0, above / safe, 0.0), dtype=np.float64)


def root_mean_square(errors: NDArray[Any], counts: Floats) -> Floats:
    """√(Σ c·e² / Σ c)."""
    return np.asarray(np.sqrt(mean(np.square(errors), counts)), dtype=np.float64)


def balanced_accuracy(hits: NDArray[np.bool_], y: NDArray[np.int64], classes: int, counts: Floats) -> Floats:
    """Mean recall over the classes that a resampling holds."""
    member = (y[:, None] == np.arange(classes)).astype(np.float64)
    there = counts @ member
    recalls = ratio(counts @ (member * hits[:, None]), there)
    return ratio(recalls.sum(axis=1), (there > 0).sum(axis=1))


def auc(ranked: NDArray[Any], positive: NDArray[np.bool_], counts: Floats) -> Floats:
    """Probability that a positive row is ranked above a negative one, ties counting half (Hanley, McNeil, 1982).

    One half where a resampling lacks either.
    """
    values, place = np.unique(ranked, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    above = np.empty(len(counts))
    for at, line in enumerate(counts):  # a line at a time: memory stays that of one resampling
        good = np.add.reduceat((line * positive)[order], starts)
        bad = np.add.reduceat((line * ~positive)[order], starts)
        pairs = good.sum() * bad.sum()
        below = np.cumsum(bad) - bad
        above[at] = (good * (below + 0.5 * bad)).sum() / pairs if pairs > 0 else 0.5
    return above


def f1(true: NDArray[Any], missed: NDArray[Any], wrong: NDArray[Any], counts: Floats) -> Floats:
    """2·TP / (2·TP + FN + FP) of counts per row; 0 where there is nothing to find and nothing was said."""
    hits = counts @ true.astype(np.float64)
    return ratio(2.0 * hits, 2.0 * hits + counts @ missed.astype(np.float64) + counts @ wrong.astype(np.float64))
