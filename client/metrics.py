"""What the report says about test rows: a metric, and how sure the gain over training alone is.

Test rows are read here for the first time, after everything is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import POINTS, Floats, Task, score

__all__ = ["POINTS", "REPEATS", "Gain", "gain"]

REPEATS: Final = 2000
#: Bootstrap counts are drawn in blocks of about this many numbers, and no more in all than this.
_BLOCK: Final = 4_000_000
_MOST_DRAWS: Final = 400_000_000
_FEWEST_REPEATS: Final = 200


@dataclass(frozen=True, slots=True)
class Gain:
    """What one model is better than another by, with a 95 % interval; above 0 is better whichever way the metric goes.

    points  in the task's ``unit``: hundredths of a metric that is a fraction, or the % of an error that is gone
    """

    points: float
    low: float
    high: float


def gain(task: Task, chosen: Floats, alone: Floats, y: NDArray[Any], *, seed: int, repeats: int = REPEATS) -> Gain:
    """``chosen`` against ``alone``; percentile interval of a paired bootstrap over rows.

    Efron and Tibshirani, 1993, chapter 13.  Both models are scored on the same resampled rows.  Beyond a few hundred
    thousand rows there are fewer resamplings, and the interval is so narrow that nobody misses them.
    """
    repeats = min(repeats, max(_FEWEST_REPEATS, _MOST_DRAWS // len(y)))
    if chosen is alone:
        return Gain(0.0, 0.0, 0.0)
    random = np.random.default_rng([0x626F6F74, seed])
    n = len(y)
    step = max(1, _BLOCK // n)
    found = []
    for start in range(0, repeats, step):
        times = min(step, repeats - start)
        drawn = random.integers(n, size=(times, n)) + n * np.arange(times)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=times * n).reshape(times, n).astype(np.float64)
        found.append(_better_by(task, task.scores(chosen, y, counts), task.scores(alone, y, counts)))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    exact = _better_by(task, np.array([score(task, chosen, y)]), np.array([score(task, alone, y)]))
    return Gain(float(exact[0]), float(low), float(high))


def _better_by(task: Task, chosen: Floats, alone: Floats) -> Floats:
    """In the task's unit; an error of exactly nothing cannot be made smaller, and growing from it counts as 100 %."""
    if task.unit == "points":
        return np.asarray(POINTS * (chosen - alone), dtype=np.float64)
    gone = 1.0 - chosen / np.where(alone > 0, alone, 1.0)
    return np.asarray(100.0 * np.where(alone > 0, gone, np.where(chosen > 0, -1.0, 0.0)), dtype=np.float64)
