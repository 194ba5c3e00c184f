"""What a department keeps, decided by the guard on its own rows and told in a sentence; and calibration.

Candidates are the best model trained alone, the federated one, the one with a head shared by departments of the same
labels ("family") where there is one, and mixtures of their predictions.  ``guard`` has the rule; docs/adr/0014 says why
it is this one.

Losses are proper scores after temperature scaling.  No row that decides was trained on by the fit that predicts it, and
which model trained alone is the best was chosen without that row as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.client.foreseen import Beyond
from commonroot.client.guard import FEWEST_ROWS, Bench, Evidence, Verdict, judge
from commonroot.client.models import Model
from commonroot.client.tasks import Floats, Task

Chosen = Literal["alone", "federated", "family", "both", "stack"]
ALONE: Final = "alone"
#: Fewer validation rows than this choose no hyper-parameters of the federated model.
FEWEST_TO_DECIDE: Final = 20
#: A temperature is one number: this many rows are enough to find it.
_MOST_ROWS: Final = 20_000
_TEMPERATURES: Final = np.exp(np.linspace(math.log(0.05), math.log(20.0), 61))
_WORDS: Final = {"federated": "the federated model", "family": "the model with the family's head"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What is kept and why.

    kept      a candidate's name, ``both`` for equal parts of alone and federated, ``stack`` for any other mixture
    weights   by candidate, without zeros; they sum to 1
    rows      validation rows that decided
    evidence  against training alone on validation rows, by candidate and for ``both`` and ``stack``; empty where too
              few rows could tell.  ``training`` is that of the mixture on training rows
    reason    one sentence
    """

    kept: Chosen
    weights: Mapping[str, float]
    rows: int
    evidence: Mapping[str, Evidence] = field(repr=False)
    reason: str


def choose(
    task: Task,
    alone: Floats,
    shared: Mapping[str, Floats],
    y: NDArray[Any],
    seen: NDArray[np.bool_] | None = None,
    *,
    counts: Floats | None = None,
    beyond: Beyond | None = None,
) -> Choice:
    """Decide from prediction arrays of the same rows, each made by fits that did not see the row.

    alone   of the best model trained alone
    shared  of the others, by name: ``federated``, ``family``
    seen    (n,) which rows took part in the rounds; none where not given
    counts  (n,) how much each row counts, where labels to come are declared; ``beyond``: those without a row
    """
    seen = np.zeros(len(y), dtype=np.bool_) if seen is None else np.asarray(seen, dtype=np.bool_)
    rows = int((~seen).sum())
    if not shared:
        return Choice("alone", {ALONE: 1.0}, rows, {}, "there is no federated model to compare with")
    if rows < FEWEST_ROWS:
        reason = f"{rows} validation rows cannot tell models apart, so the model trained alone stays"
        return Choice("alone", {ALONE: 1.0}, rows, {}, reason)
    names = (ALONE, *shared)
    bench = Bench(task, (alone, *shared.values()), y, seen, counts, beyond)
    verdict = judge(bench)
    weights = {name: weight for name, weight in zip(names, verdict.weights, strict=True) if weight}
    pure = {name: tuple(float(name == one) for one in names) for name in shared}
    if "federated" in shared:
        pure["both"] = tuple(0.5 * (name in (ALONE, "federated")) for name in names)
    evidence = {name: bench.hear(parts) for name, parts in pure.items()}
    if verdict.evidence is not None:
        evidence["stack"] = verdict.evidence
    if verdict.witness is not None:
        evidence["training"] = verdict.witness
    return Choice(_named(weights), weights, rows, evidence, _reason(names, verdict, _heard(rows, counts, beyond)))


def _named(weights: Mapping[str, float]) -> Chosen:
    if len(weights) == 1:
        only = next(iter(weights))
        return "family" if only == "family" else "federated" if only == "federated" else "alone"
    return "both" if dict(weights) == {ALONE: 0.5, "federated": 0.5} else "stack"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What held-out rows say about a model's outputs: ``shift`` is taken off them, then ``temperature`` divides."""

    temperature: float = 1.0
    shift: float = 0.0

    def of(self, model: Model) -> Model:
        """The same model, calibrated so."""
        return replace(model, temperature=self.temperature, shift=self.shift)

    def apply(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Outputs of an uncalibrated model as the calibrated one gives them."""
        return (outputs - self.shift) / self.temperature


def calibrate(task: Task, outputs: NDArray[Any], y: NDArray[Any]) -> Calibration:
    """From the settled outputs of an uncalibrated model for held-out rows."""
    if not task.tempered or not len(y):
        return Calibration()
    shift = task.shift(outputs, y)
    return Calibration(temperature(task, outputs - shift, y), shift)


def temperature(task: Task, outputs: NDArray[Any], y: NDArray[Any]) -> float:
    """The divisor of logits that fits held-out rows best, drawn towards 1 where rows are few; 1 for values.

    Minimises Σ log loss + (log T)²/2, a standard normal prior on log T.
    """
    if not task.tempered or not len(y):
        return 1.0
    if len(y) > _MOST_ROWS:
        some = np.linspace(0, len(y) - 1, _MOST_ROWS).astype(np.int64)
        outputs, y = outputs[some], y[some]
    costs = [
        float(task.row_losses(task.predictive(outputs / t), y).sum()) * task.chance + math.log(t) ** 2 / 2
        for t in _TEMPERATURES
    ]
    return float(_TEMPERATURES[int(np.argmin(costs))])


def _heard(rows: int, counts: Floats | None, beyond: Beyond | None) -> str:
    """What was judged by, in words."""
    what = f"on {rows} validation rows"
    if counts is None:
        return what
    what += ", weighed as labels are expected to come,"
    if beyond is None:
        return what
    share = 100 * beyond.share
    return f"{what} and by what others told of the {share:.0f} % of rows to come that have other labels,"


def _reason(names: tuple[str, ...], verdict: Verdict, heard: str) -> str:
    """One sentence for people."""
    found, witness = verdict.evidence, verdict.witness
    if found is None or verdict.proposed[0] == 1.0:
        return f"{heard} no mixture does better than the model trained alone, so that stays"
    what = _in_words(dict(zip(names, verdict.proposed, strict=True)))
    if verdict.weights[0] < 1.0:
        return f"{heard} {what} lowers the loss by {found.advantage:.3f} ± {found.error:.3f} against training alone" + (
            ", and training rows agree" if witness is not None else ""
        )
    said = f"{heard} {what} changes the loss by {-found.advantage:+.3f} ± {found.error:.3f}"
    if found.bound > 0 and witness is not None:
        return (
            f"{said}, but training rows, which flatter it, show too little of that ({-witness.advantage:+.3f}): "
            "the model trained alone stays"
        )
    return f"{said}: no proof of a gain, so the model trained alone stays"


def _in_words(weights: Mapping[str, float]) -> str:
    parts = [(weight, _WORDS.get(name, f"the model trained {name}")) for name, weight in weights.items() if weight]
    if len(parts) == 1:
        return parts[0][1]
    return "a mixture of " + ", ".join(f"{100 * weight:.0f} % {word}" for weight, word in parts)
