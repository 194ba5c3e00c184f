"""Labels that a department expects and has no row of its own to judge by.

With ``expected`` in ``[data]`` a department says which labels will come.  Of some of them it may have no row that no
model was fitted to; then its rows cannot say which model is better there, and the guard hears two other witnesses.

Alone.  A model that never saw a label cannot tell it from others.  What can be known is how often it comes: the model
trained alone gives it exactly its expected share, whatever the row (``Foreseen.complete``), so its loss there is
-log(share), which is what knowing nothing about the row costs.  No local model is better than that on such a row.
Where training rows had the label, its loss is the one out of fold, and at most the same.

Federated.  The losses that the others measured on their validation rows of the label (``label_evidence``), department
by department: their mean, and for one more department the standard deviation between them, √(1 + 1/K) times.  Not
believed is that rows of a label are alike everywhere.  On labels that the department has itself, it sees how much more
it loses than the others said; that much, and a standard error more, is added on the labels it cannot see.  Fewer than
two departments with a label are no witness: the shared model then counts there as knowing nothing, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.models import Model, completed
from commonroot.client.tasks import Classes, Floats, Task
from commonroot.strategies.base import Tensors
from commonroot.strategies.label_evidence import LOSS, SQUARE, TOLD

#: Fewer departments than this have no spread.
FEWEST_TELLERS: Final = 2


@dataclass(frozen=True, slots=True)
class Beyond:
    """Labels without an own row to judge by, (U,) of them; losses of candidates (candidates, U) in chance losses.

    shares  expected, summing to less than 1
    losses  of each candidate, ``errors`` their standard errors
    unit    the chance loss
    """

    shares: Floats = field(repr=False)
    losses: Floats = field(repr=False)
    errors: Floats = field(repr=False)
    unit: float

    @property
    def share(self) -> float:
        """Of all rows to come."""
        return float(self.shares.sum())

    def gain(self, weights: Sequence[float]) -> tuple[float, float]:
        """Least gain of a mixture over the first candidate, summed over these labels by share; its standard error.

        A mixture with weights w gives a label the probability Σ w·p.  -log Σ w·exp(-l) is concave in the losses l, so
        by Jensen's inequality the mean loss of the mixture is at most that of the mean losses.
        """
        some = [at for at, weight in enumerate(weights) if weight]
        logs = np.log([weights[at] for at in some])[:, None] - self.losses[some] * self.unit
        total = np.logaddexp.reduce(logs, axis=0)
        part = np.exp(logs - total)
        gains = self.losses[0] + total / self.unit
        errors = (part * self.errors[some]).sum(axis=0)
        return float(self.shares @ gains), float(np.sqrt(np.square(self.shares) @ np.square(errors)))


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a department expects, and what the others told.

    expected  (labels,) shares of rows to come
    met       (labels,) labels that any row to learn from has
    told      (3, labels) ``label_evidence``; zeros where nothing was told
    """

    expected: Floats = field(repr=False)
    met: NDArray[np.bool_] = field(repr=False)
    told: Floats = field(repr=False)

    @classmethod
    def of(cls, task: Task, learned: NDArray[np.int64], received: Tensors) -> Foreseen | None:
        """None where the department expects nothing.

        learned   labels of the rows to learn from
        received  the final broadcast
        """
        if not isinstance(task, Classes) or task.expected is None:
            return None
        labels = len(task.labels)
        told = np.zeros((3, labels))
        if TOLD in received:
            told = np.stack([received[name].astype(np.float64) for name in (TOLD, LOSS, SQUARE)])
        return cls(np.array(task.expected), np.bincount(learned, minlength=labels) > 0, told)

    @property
    def known_elsewhere(self) -> bool:
        """Are there labels that are expected and never met, and evidence about the common model?"""
        return bool((~self.met).any() and (self.told[0] > 0).any())

    def complete(self, predicted: Floats) -> Floats:
        """Probabilities (n, labels) in which labels never met have their expected share, the others what is left."""
        never = np.flatnonzero(~self.met)
        return completed(predicted, never, self.expected[never])

    def completing(self, model: Model) -> Model:
        """A model whose predictions are completed so."""
        never = np.flatnonzero(~self.met)
        if not len(never):
            return model
        added = {"never": never.astype(np.int64), "share": self.expected[never]}
        return Model(model.kind, {**model.arrays, **added}, model.temperature, model.shift, model.network)

    def counts(self, task: Task, y: NDArray[np.int64]) -> Floats | None:
        """(n,) how much more frequent the label of each row will be than it is among training rows."""
        weights = task.weights if isinstance(task, Classes) else None
        return None if weights is None else np.asarray(weights, dtype=np.float64)[y]

    def beyond(
        self,
        task: Task,
        said: Sequence[Floats],
        y: NDArray[np.int64],
        fresh: NDArray[np.bool_],
        *,
        common: Sequence[bool],
    ) -> Beyond | None:
        """Of the labels that no ``fresh`` row has; None where every label has one.

        said    prediction arrays of own rows, the first out of fold by the model trained alone
        common  which candidates are the common model as it is, of which the evidence is
        """
        if not isinstance(task, Classes):
            return None
        judged = np.bincount(y[fresh], minlength=len(self.met)) > 0
        missing = np.flatnonzero(~judged)
        if not len(missing):
            return None
        nothing = -np.log(self.expected[missing]) / task.chance
        losses, errors = np.tile(nothing, (len(said), 1)), np.zeros((len(said), len(missing)))
        alone = task.unweighted(said[0], y)
        for at, label in enumerate(missing):
            rows = (y == label) & ~fresh
            if rows.any():
                losses[0, at] = min(losses[0, at], float(alone[rows].mean()))
        for candidate, told in enumerate(common):
            if told:
                own = task.unweighted(said[candidate], y)[fresh]
                losses[candidate], errors[candidate] = self._by_others(own, y[fresh], missing, losses[candidate])
        return Beyond(self.expected[missing], losses, errors, task.chance)

    def _by_others(
        self, own: Floats, y: NDArray[np.int64], missing: NDArray[np.int64], nothing: Floats
    ) -> tuple[Floats, Floats]:
        """Losses on missing labels to be reckoned with here, and their standard errors."""
        tellers, loss, square = self.told
        counts = np.bincount(y, minlength=len(tellers))
        mine = np.bincount(y, own, minlength=len(tellers)) / np.maximum(counts, 1)
        others = tellers - (counts > 0)  # this department told as well
        rest = np.maximum(loss - np.where(counts > 0, mine, 0.0), 0.0)
        elsewhere = np.where(others > 0, rest / np.maximum(others, 1), np.nan)
        heard = np.isfinite(elsewhere[y])
        if heard.sum() < FEWEST_TELLERS:
            return nothing, np.zeros(len(missing))
        excess = own[heard] - elsewhere[y[heard]]
        harder = max(0.0, float(excess.mean()) + float(excess.std(ddof=1)) / math.sqrt(len(excess)))
        many = tellers[missing]
        mean = loss[missing] / np.maximum(many, 1)
        spread = np.maximum(square[missing] - many * mean**2, 0.0) / np.maximum(many - 1, 1)
        known = many >= FEWEST_TELLERS
        error = np.sqrt(spread * (1.0 + 1.0 / np.maximum(many, 1)))
        return np.where(known, mean + harder, nothing), np.where(known, error, 0.0)
