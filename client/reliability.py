"""Can a model's probabilities be believed?  Of the rows it was 80 % sure about, 80 % should be right.

Expected calibration error as Naeini, Cooper, Hauskrecht (AAAI 2015) and Guo, Pleiss, Sun, Weinberger (2017,
arXiv:1706.04599) have it: rows are put into ten bins by confidence, and the mean distance of confidence from accuracy
is weighted by rows.  It is 0 for a model that is always as sure as it is right, and can be at most 1.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import Floats, Task

BINS: Final = 10


def reliability(task: Task, predicted: Floats, y: NDArray[Any]) -> dict[str, Any] | None:
    """Confidence against accuracy on test rows; None for tasks that give no probabilities.

    ``error`` is the expected calibration error; ``bins`` are those with rows, each with ``confidence`` (mean),
    ``right`` (share of rows) and ``rows``.  A task of several labels asks for each of them by itself whether it is
    there.
    """
    if not len(y):
        return None
    if task.learns == "label":
        return _bins(predicted.max(axis=1), predicted.argmax(axis=1) == y)
    if task.learns == "labels":
        sure = np.maximum(predicted, 1.0 - predicted).ravel()
        return _bins(sure, ((predicted >= 0.5) == (y >= 0.5)).ravel())
    return None


def changed(task: Task, chosen: Floats, alone: Floats, y: NDArray[Any]) -> dict[str, int] | None:
    """Rows that only one of two classifiers got right: ``gained`` by the chosen one, ``lost`` to the other; else None.

    Only where accuracy is what is told: McNemar's test (1947) says nothing about other metrics.
    """
    if task.learns != "label" or task.metric != "accuracy":
        return None
    ours, theirs = chosen.argmax(axis=1) == y, alone.argmax(axis=1) == y
    return {"gained": int((ours & ~theirs).sum()), "lost": int((theirs & ~ours).sum())}


def _bins(sure: Floats, right: NDArray[np.bool_]) -> dict[str, Any]:
    at = np.clip((sure * BINS).astype(np.int64), 0, BINS - 1)
    rows = np.bincount(at, minlength=BINS).astype(np.float64)
    confidence = np.bincount(at, sure, minlength=BINS)
    hits = np.bincount(at, right.astype(np.float64), minlength=BINS)
    some = np.flatnonzero(rows)
    return {
        "error": float(np.abs(confidence - hits).sum() / rows.sum()),
        "bins": [
            {"confidence": float(confidence[b] / rows[b]), "right": float(hits[b] / rows[b]), "rows": int(rows[b])}
            for b in some
        ],
    }
