"""The guard's rule: how much of each model a department keeps, by rows that no model was fitted to.

Candidates are the best model trained alone (always the first) and models with something in them from the others.  What
may be kept is any mixture of their predictions in steps of a tenth.  Every row is predicted by fits that did not see
it.  Two kinds of rows speak, and they are believed differently:

validation rows  few, but nothing has seen them.  They weigh the mixture w:

                     w* = argmin  Σ loss_w(row) + λ ‖w - u‖²,    u uniform, λ = 10 chance losses,

                 so that few rows leave w near the uniform ensemble and many have what they like
training rows    many, but the others' model is flattered on them: this department's rows took part in the rounds.  A
                 flattered witness cannot speak *for* it, only *against* it

With d = loss_alone - loss_w per row, a mixture is kept if neither speaks against it,

    mean(d) > z·se(d) on validation rows    and    mean(d) > 0.3·deviation(d) on training rows,

and the model trained alone otherwise.  z is 1/2, and 1 where no training row is heard.  Losses are proper scores in
multiples of the chance loss; docs/adr/0014 has the measurements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import Floats, Task

#: Standard errors by which an advantage on validation rows must be above zero: alone, and beside training rows.
Z: Final = 1.0
Z_WITH_WITNESS: Final = 0.5
#: Standard deviations of one row by which an advantage on training rows must be above zero.
EFFECT: Final = 0.3
#: λ: chance losses that it costs to put all weight on one of many candidates instead of spreading it.
SHRINKAGE: Final = 10.0
#: Fewer validation rows than this have no standard error.
FEWEST_ROWS: Final = 2
_STEPS: Final = 10
#: With more candidates than this the steps get coarser, so that the mixtures stay few.
_MANY: Final = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """A model or mixture against training alone on some rows, in chance losses.

    advantage  mean of loss_alone - loss
    error      its standard error
    bound      what must be positive to speak for it
    """

    advantage: float
    error: float
    bound: float

    @classmethod
    def fresh(cls, gains: Floats, z: float = Z) -> Evidence:
        """On validation rows, two at least, one gain each."""
        mean, error = _mean_and_error(gains)
        return cls(mean, error, mean - z * error)

    @classmethod
    def flattered(cls, gains: Floats) -> Evidence:
        """On training rows, two at least."""
        mean, error = _mean_and_error(gains)
        return cls(mean, error, mean - EFFECT * error * math.sqrt(len(gains)))


def _mean_and_error(gains: Floats) -> tuple[float, float]:
    return float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rule says.

    weights    of the candidates in their order, summing to 1; (1, 0, …) keeps training alone
    proposed   the weights that were held against training alone
    evidence   for these on validation rows; None where there were too few
    witness    for these on training rows; None where there were too few
    """

    weights: tuple[float, ...]
    proposed: tuple[float, ...]
    evidence: Evidence | None
    witness: Evidence | None


def weigh(task: Task, said: Sequence[Floats], y: NDArray[Any], seen: NDArray[np.bool_]) -> Verdict:
    """The mixture to keep.

    said  prediction arrays of the same rows, that of the model trained alone first
    y     of these rows
    seen  which of them took part in the rounds: training rows

    Pure; the order of rows and of candidates after the first does not matter.
    """
    alone = (1.0, *(0.0 for _ in said[1:]))
    fresh = ~np.asarray(seen, dtype=np.bool_)
    if len(said) == 1 or int(fresh.sum()) < FEWEST_ROWS:
        return Verdict(alone, alone, None, None)
    base = task.row_losses(said[0], y)
    best, cost, gains = alone, math.inf, np.zeros(len(base))
    for weights in mixtures(len(said)):
        gained = base - task.row_losses(mixed(said, weights), y)
        spread = sum((weight - 1 / len(said)) ** 2 for weight in weights)
        found = SHRINKAGE * spread - float(gained[fresh].sum())
        if found < cost - 1e-12:
            best, cost, gains = weights, found, gained
    witness = Evidence.flattered(gains[~fresh]) if int((~fresh).sum()) >= FEWEST_ROWS else None
    evidence = Evidence.fresh(gains[fresh], Z if witness is None else Z_WITH_WITNESS)
    kept = evidence.bound > 0 and (witness is None or witness.bound > 0)
    return Verdict(best if kept else alone, best, evidence, witness)


def mixtures(candidates: int) -> list[tuple[float, ...]]:
    """Weights (candidates,) that sum to 1, in steps of a tenth, of a quarter for more than three candidates."""
    steps = _STEPS if candidates <= _MANY else 4
    return [
        (*(part / steps for part in parts), (steps - sum(parts)) / steps)
        for parts in itertools.product(range(steps + 1), repeat=candidates - 1)
        if sum(parts) <= steps
    ]


def mixed(said: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted mean of prediction arrays."""
    total = sum(weight * one for weight, one in zip(weights, said, strict=True) if weight)
    return np.asarray(total, dtype=np.float64)
