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

Where a department says how frequent labels will be (``foreseen``), rows count by how much more frequent their label
will be than it is here, as in the mean Σ u·d / Σ u with n = (Σ u)² / Σ u² rows in its standard error (Kish, 1965); and
labels that it has no row to judge by enter the mean with their share and what else is known about them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.foreseen import Beyond
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


@dataclass(frozen=True, slots=True)
class Bench:
    """The rows that are heard, and what is known beyond them.

    said    prediction arrays of the same rows, that of the model trained alone first
    y       of these rows
    seen    which of them took part in the rounds: training rows
    counts  how much each row counts, as the task's ``row_losses`` count it; 1 where not given
    beyond  labels without a row that is not ``seen``
    """

    task: Task
    said: Sequence[Floats] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    seen: NDArray[np.bool_] = field(repr=False)
    counts: Floats | None = field(default=None, repr=False)
    beyond: Beyond | None = field(default=None, repr=False)

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """Rows that no round has seen."""
        return ~np.asarray(self.seen, dtype=np.bool_)

    def gains(self, weights: Sequence[float], base: Floats) -> Floats:
        """(n,) loss of the model trained alone, ``base``, less that of a mixture."""
        return base - self.task.row_losses(mixed(self.said, weights), self.y)

    def base(self) -> Floats:
        """(n,) losses of the model trained alone."""
        return self.task.row_losses(self.said[0], self.y)

    def size(self, rows: NDArray[np.bool_]) -> float:
        """How many rows that count alike these are worth."""
        if self.counts is None:
            return float(rows.sum())
        some = self.counts[rows]
        return float(some.sum() ** 2 / np.square(some).sum())

    def mean(self, gains: Floats, rows: NDArray[np.bool_], weights: Sequence[float]) -> tuple[float, float]:
        """Mean gain over rows to come, and its standard error."""
        some, size = gains[rows], self.size(rows)
        if self.counts is None:
            mean, error = float(some.mean()), float(some.std(ddof=1)) / math.sqrt(size)
        else:
            counts = self.counts[rows]
            mean = float(some.sum() / counts.sum())
            left = float(np.square(some - counts * mean).sum() / counts.sum() ** 2)
            error = math.sqrt(left * len(some) / max(len(some) - 1, 1))
        if self.beyond is None:
            return mean, error
        inside = 1.0 - self.beyond.share
        more, unsure = self.beyond.gain(weights)
        return inside * mean + more, math.hypot(inside * error, unsure)

    def hear(self, weights: Sequence[float], *, z: float = Z) -> Evidence:
        """What validation rows say of a mixture; two at least."""
        mean, error = self.mean(self.gains(weights, self.base()), self.fresh, weights)
        return Evidence(mean, error, mean - z * error)

    def hear_flattered(self, weights: Sequence[float]) -> Evidence:
        """What training rows say; two at least."""
        rows = ~self.fresh
        mean, error = self.mean(self.gains(weights, self.base()), rows, weights)
        return Evidence(mean, error, mean - EFFECT * error * math.sqrt(self.size(rows)))


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
    """The mixture to keep, by rows that all count alike and are like those to come; ``Bench`` says what is what."""
    return judge(Bench(task, said, y, seen))


def judge(bench: Bench) -> Verdict:
    """The mixture to keep.  Pure; the order of rows and of candidates after the first does not matter."""
    said, fresh = bench.said, bench.fresh
    alone = (1.0, *(0.0 for _ in said[1:]))
    if len(said) == 1 or int(fresh.sum()) < FEWEST_ROWS:
        return Verdict(alone, alone, None, None)
    base, size = bench.base(), bench.size(fresh)
    best, cost = alone, math.inf
    for weights in mixtures(len(said)):
        gained, _ = bench.mean(bench.gains(weights, base), fresh, weights)
        spread = sum((weight - 1 / len(said)) ** 2 for weight in weights)
        found = SHRINKAGE * spread - size * gained
        if found < cost - 1e-12:
            best, cost = weights, found
    witness = bench.hear_flattered(best) if int((~fresh).sum()) >= FEWEST_ROWS else None
    evidence = bench.hear(best, z=Z if witness is None else Z_WITH_WITNESS)
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
