"""The guard: which model a department keeps, decided on its own validation rows.

Candidates are the best model trained alone, the federated one, and the average of their predictions ("both").  With

    LCB_c = mean(loss_alone - loss_c) - z·se,   z = 1,  over private validation rows,

the candidate with the largest LCB is kept, and the model trained alone unless some LCB is positive.  On fewer than 20
rows such a bound says nothing, and the uniform ensemble is kept: averaging is the cheapest robust guard there is.

Losses are proper scores after temperature scaling.  None of the rows that decide was trained on by a candidate; they
did choose hyper-parameters, more of them for the model trained alone, which leans the choice towards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.client.models import Model
from commonroot.client.tasks import Floats, Task

Chosen = Literal["alone", "federated", "both"]
FEWEST_TO_DECIDE: Final = 20
#: Standard errors between a candidate's mean advantage and the bound that has to be positive.
Z: Final = 1.0
#: A temperature is one number: this many rows are enough to find it.
_MOST_ROWS: Final = 20_000
_TEMPERATURES: Final = np.exp(np.linspace(math.log(0.05), math.log(20.0), 61))


@dataclass(frozen=True, slots=True)
class Evidence:
    """One candidate against training alone: mean advantage in chance losses, its standard error, and the bound."""

    advantage: float
    error: float

    @property
    def bound(self) -> float:
        """advantage - z·error."""
        return self.advantage - Z * self.error


@dataclass(frozen=True, slots=True)
class Choice:
    """What is kept and why.

    rows      validation rows that decided
    evidence  by candidate; empty where too few rows could tell
    reason    one sentence
    """

    kept: Chosen
    rows: int
    evidence: dict[str, Evidence]
    reason: str


def choose(task: Task, alone: Floats, federated: Floats | None, y: NDArray[Any]) -> Choice:
    """Decide from prediction arrays of the same validation rows; ``federated`` None where there is no such model."""
    rows = len(y)
    if federated is None:
        return Choice("alone", rows, {}, "there is no federated model to compare with")
    if rows < FEWEST_TO_DECIDE:
        reason = (
            f"{rows} validation rows are too few to tell the models apart (fewer than {FEWEST_TO_DECIDE}), "
            "so their predictions are averaged"
        )
        return Choice("both", rows, {}, reason)
    base = task.row_losses(alone, y)
    candidates: dict[Chosen, Floats] = {"federated": federated, "both": (alone + federated) / 2}
    evidence: dict[str, Evidence] = {}
    best: Chosen = "alone"
    bound = 0.0
    for name, predicted in candidates.items():
        gains = base - task.row_losses(predicted, y)
        found = Evidence(float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(rows))
        evidence[name] = found
        if found.bound > bound:
            best, bound = name, found.bound
    return Choice(best, rows, evidence, _reason(best, rows, evidence))


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


def _reason(best: Chosen, rows: int, evidence: dict[str, Evidence]) -> str:
    if best == "alone":
        name, nearest = max(evidence.items(), key=lambda item: item[1].bound)
        what = "the average of both models" if name == "both" else "the federated model"
        return (
            f"on {rows} validation rows {what} changes the loss by {-nearest.advantage:+.3f} "
            f"± {nearest.error:.3f}: no proof of a gain, so the model trained alone stays"
        )
    found = evidence[best]
    what = "averaging both models" if best == "both" else "the federated model"
    return (
        f"on {rows} validation rows {what} lowers the loss by {found.advantage:.3f} ± {found.error:.3f} "
        "against training alone"
    )
