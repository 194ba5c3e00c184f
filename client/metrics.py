"""What the report says about test rows: a metric, and how sure the gain over training alone is.

Test rows are read here for the first time, after everything is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import Floats, Task, score

#: Metrics are fractions; gains are told in hundredths of them.
POINTS: Final = 100.0
REPEATS: Final = 2000
#: Bootstrap counts are drawn in blocks of about this many numbers.
_BLOCK: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of metrics in points, with a 95 % interval."""

    points: float
    low: float
    high: float


def gain(task: Task, chosen: Floats, alone: Floats, y: NDArray[Any], *, seed: int, repeats: int = REPEATS) -> Gain:
    """Metric of ``chosen`` less that of ``alone`` in points; percentile interval of a paired bootstrap over rows.

    Efron and Tibshirani, 1993, chapter 13.  Both models are scored on the same resampled rows.
    """
    random = np.random.default_rng([0x626F6F74, seed])
    n = len(y)
    step = max(1, _BLOCK // n)
    found = []
    for start in range(0, repeats, step):
        times = min(step, repeats - start)
        counts = random.multinomial(n, np.full(n, 1.0 / n), size=times).astype(np.float64)
        found.append(task.scores(chosen, y, counts) - task.scores(alone, y, counts))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    exact = score(task, chosen, y) - score(task, alone, y)
    return Gain(POINTS * exact, POINTS * float(low), POINTS * float(high))
