"""How well the common model does on each label, told by all departments together, once, at the end.

A department that expects a label which it never met has no row to try the common model on.  Others have.  In the last
round nobody trains: the model that was received is the one that is kept, and every department says of each label that
its private validation rows have

    terms   1,  l,  l²                      l = mean loss of the received model on its validation rows of the label
    state   Σ 1,  Σ l,  Σ l²                over departments: how many, and by that the mean and the spread of l

Departments count alike, whatever rows they have: what is wanted is what to expect of one more department, and the
spread *between* departments is what says how far that may be off.

It is said in one sum of the whole run.  Said in every round, a department that misses one of them would show by the
difference which labels it has.  What the one sum tells all the same: how many departments have validation rows of a
label, and where only one does, its mean loss there; not whose it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.common.roster import MOST_DEPARTMENTS
from commonroot.strategies.base import Sums, Tensors

TOLD, LOSS, SQUARE = "evidence/told", "evidence/loss", "evidence/square"
NAMES: Final = (TOLD, LOSS, SQUARE)
#: A department's mean loss of a label counts as this many chance losses at the most.
MOST: Final = 16.0
_LIMITS: Final = (1.0, MOST, MOST**2)


def evidence_shapes(labels: int) -> Shapes:
    """Three numbers per label."""
    return tuple((name, (labels,)) for name in NAMES)


def evidence_terms(labels: int) -> tuple[Term, ...]:
    """The same as terms."""
    return tuple(Term(name, (labels,), "fixed64", limit) for name, limit in zip(NAMES, _LIMITS, strict=True))


def unknown(labels: int) -> dict[str, NDArray[np.float32]]:
    """Before anybody told anything."""
    return {name: np.zeros(labels, dtype=np.float32) for name in NAMES}


def contribution(losses: NDArray[np.float64] | None, labels: int) -> dict[str, NDArray[np.floating]]:
    """One department's terms.

    losses  (labels,) its mean losses, NaN where it has no validation row; None where this is not the round to tell
    """
    if losses is None:
        return {name: np.zeros(labels) for name in NAMES}
    told = np.isfinite(losses)
    known = np.where(told, np.clip(losses, 0.0, MOST), 0.0)
    return {TOLD: told.astype(np.float64), LOSS: known, SQUARE: known**2}


def opened(sums: Sums) -> dict[str, NDArray[np.float32]]:
    """The sums as state.  Raises SumRejected for what no departments add up to."""
    told, loss, square = (np.asarray(sums[name], dtype=np.float64) for name in NAMES)
    if not _possible(np.round(told), loss, square) or np.abs(told - np.round(told)).max() > 1e-3:
        raise SumRejected("the opened losses by label are not a sum of any departments' losses")
    return {TOLD: np.round(told).astype(np.float32), LOSS: _float(loss), SQUARE: _float(square)}


def check_evidence(received: Tensors, version: int, rounds: int) -> None:
    """Raise OutsideCharter for evidence before the last round, or such as no sum can have led to."""
    told, loss, square = (received[name].astype(np.float64) for name in NAMES)
    if version < rounds and (told.any() or loss.any() or square.any()):
        raise OutsideCharter(f"version {version} comes with losses by label, which are told in the last round alone")
    if not _possible(told, loss, square) or (told != np.round(told)).any() or told.max() > MOST_DEPARTMENTS:
        raise OutsideCharter("the losses by label received are none")


def _possible(told: NDArray[np.float64], loss: NDArray[np.float64], square: NDArray[np.float64]) -> bool:
    """0 ≤ l ≤ MOST for each of those who told, and (Σl)² ≤ n·Σl²; but for rounding."""
    slack = 1e-5 * (1.0 + told)
    fits = (told >= 0) & (loss >= -slack) & (loss <= MOST * told + slack) & (square >= -slack)
    fits &= (square <= (MOST * loss + slack) * (1 + 1e-4)) & (loss**2 <= (told * square + slack) * (1 + 1e-4))
    return bool(np.isfinite(told).all() and fits.all())


def _float(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.maximum(array, 0.0).astype(np.float32)
