"""Fitted models as plain arrays, predicting with NumPy alone.

Whatever fitted it (scikit-learn, torch), a model that a department keeps is a kind, a few arrays and a temperature:
it is stored without pickle, read back years later without the library that fitted it, and cannot run anything.

Every kind maps standardised rows (n, columns) float32 to head outputs (n, task.outputs): logits for labels, a
standardised value for a regression.  ``temperature`` divides logits (Guo, Pleiss, Sun, Weinberger, 2017,
arXiv:1706.04599).

kind       arrays
constant   values (outputs,)
linear     weight (k, columns), bias (k,)
rbf        support (m, columns), dual (pairs, m), bias (pairs,), gamma ()
trees      feature, threshold, left, right, value (trees, nodes); offset (k,); leaf: left = right = own position
network    backbone/layers.i.weight, …, head/weight, head/bias, tanh () 0 or 1

Models of labels also hold ``present``, the positions of the labels that fitting saw; the others get the least logit
less ``UNSEEN``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import Binary, Floats, Task
from commonroot.common.errors import ForeignState

Array = NDArray[Any]
Arrays = Mapping[str, Array]
#: How far below the least logit of the labels seen in fitting the other labels are put.
UNSEEN: Final = 3.0
#: Steepness with which a margin of support vectors becomes a probability, before temperature.
SLOPE: Final = 5.0
#: Rows are predicted in blocks, so that memory stays bounded however many there are.
BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Model:
    """One fitted model; see the table above."""

    kind: str
    arrays: Arrays = field(repr=False)
    temperature: float = 1.0

    def outputs(self, task: Task, x: NDArray[np.float32]) -> Floats:
        """(n, columns) standardised rows to (n, task.outputs) float64.

        Raises ForeignState for a kind or arrays that this version did not write.
        """
        evaluate = KINDS.get(self.kind)
        if evaluate is None:
            raise ForeignState(f"a stored model is of unknown kind {self.kind[:32]!r}")
        try:
            blocks = [evaluate(self.arrays, x[at : at + BLOCK]) for at in range(0, max(len(x), 1), BLOCK)]
            raw = np.concatenate(blocks)
            present = self.arrays.get("present")
            full = raw if present is None else spread(task, raw, present)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ForeignState(f"a stored {self.kind} model does not fit its task or rows") from error
        return full / self.temperature if task.kind != "regression" else full

    def predict(self, task: Task, x: NDArray[np.float32]) -> Floats:
        """Standardised rows to the task's prediction array."""
        return task.predictive(self.outputs(task, x))


def spread(task: Task, raw: Floats, present: Array) -> Floats:
    """Logits of the labels that fitting saw as logits of all labels.

    ``raw`` is (n, 1), the logit of the second of two labels seen, or (n, k) for k others.
    """
    if raw.shape[1] == 1 and len(present) == 2:
        raw = np.concatenate([np.zeros_like(raw), raw], axis=1)
    labels = 2 if isinstance(task, Binary) else task.outputs
    if len(present) < labels:
        full = np.repeat(raw.min(axis=1, keepdims=True) - UNSEEN, labels, axis=1)
        full[:, present] = raw
    else:
        full = raw
    return full[:, 1:] - full[:, :1] if isinstance(task, Binary) else full


def _constant(arrays: Arrays, x: Array) -> Floats:
    return np.repeat(np.asarray(arrays["values"], dtype=np.float64)[None], len(x), axis=0)


def _linear(arrays: Arrays, x: Array) -> Floats:
    return np.asarray(x.astype(np.float64) @ arrays["weight"].T + arrays["bias"], dtype=np.float64)


def _rbf(arrays: Arrays, x: Array) -> Floats:
    support, dual, bias = (np.asarray(arrays[name], dtype=np.float64) for name in ("support", "dual", "bias"))
    rows = x.astype(np.float64)
    distance = (rows**2).sum(axis=1)[:, None] + (support**2).sum(axis=1) - 2.0 * rows @ support.T
    kernel = np.exp(-float(arrays["gamma"].item()) * np.maximum(distance, 0.0))
    decision = kernel @ dual.T + bias
    return decision if len(bias) == 1 else one_against_rest(decision)


def one_against_rest(decision: Floats) -> Floats:
    """Margins of all pairs (i, j), i < j, in order, as one log score per class.

    Each margin d is read as P(i | i or j) = σ(SLOPE·d), and a class scores Σ log P over its pairs (the product rule of
    Price, Knerr, Personnaz, Dreyfus, 1995): close to counting votes where margins are clear, and smooth where not.
    """
    classes = round((1 + (1 + 8 * decision.shape[1]) ** 0.5) / 2)
    scores = np.zeros((len(decision), classes))
    first, second = np.triu_indices(classes, 1)
    for margin, i, j in zip(SLOPE * decision.T, first, second, strict=True):
        scores[:, i] -= np.logaddexp(0.0, -margin)
        scores[:, j] -= np.logaddexp(0.0, margin)
    return scores


def _trees(arrays: Arrays, x: Array) -> Floats:
    """Walks all trees at once; rows step from node to child until every one is at a leaf."""
    feature, threshold, value = arrays["feature"], arrays["threshold"], arrays["value"]
    left, right, offset = arrays["left"], arrays["right"], arrays["offset"]
    rows = x.astype(np.float64)
    trees = np.arange(len(feature))
    node = np.zeros((len(rows), len(feature)), dtype=np.int64)
    line = np.arange(len(rows))[:, None]
    for _ in range(feature.shape[1]):
        goes_left = rows[line, feature[trees, node]] <= threshold[trees, node]
        following = np.where(goes_left, left[trees, node], right[trees, node]).astype(np.int64)
        if np.array_equal(following, node):
            break
        node = following
    leaves = value[trees, node]
    # trees stand in the order they were grown: one per output in each round
    summed = leaves.reshape(len(rows), len(feature) // len(offset), len(offset)).sum(axis=1)
    return np.asarray(summed + offset, dtype=np.float64)


def _network(arrays: Arrays, x: Array) -> Floats:
    hidden = np.asarray(x, dtype=np.float32)
    at = 0
    while f"backbone/layers.{at}.weight" in arrays:
        hidden = hidden @ arrays[f"backbone/layers.{at}.weight"].T + arrays[f"backbone/layers.{at}.bias"]
        hidden = np.tanh(hidden) if arrays["tanh"].item() else np.maximum(hidden, 0)
        at += 1
    return np.asarray(hidden @ arrays["head/weight"].T + arrays["head/bias"], dtype=np.float64)


KINDS: Final[MappingProxyType[str, Callable[[Arrays, Array], Floats]]] = MappingProxyType(
    {"constant": _constant, "linear": _linear, "network": _network, "rbf": _rbf, "trees": _trees}
)
