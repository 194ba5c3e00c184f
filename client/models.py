"""Fitted models as plain arrays, predicting with NumPy alone; only networks need torch.

Whatever fitted it (scikit-learn, torch), a model that a department keeps is a kind, a few arrays and a calibration:
it is stored without pickle, read back years later without the library that fitted it, and cannot run anything.  A
network also needs the description of its backbone, and is evaluated by the code that trained it.

Every kind maps rows (n, …) to head outputs (n, task.outputs), per token (n, length, task.outputs).  Those that know
only columns read rows of any shape flattened to (n, columns).  ``temperature`` divides logits (Guo, Pleiss, Sun,
Weinberger, 2017, arXiv:1706.04599) and ``shift`` is taken off before, for tasks with a threshold.

kind       arrays
constant   values (outputs,)
linear     weight (k, columns), bias (k,)
rbf        support (m, columns), dual (pairs, m), bias (pairs,), gamma ()
trees      feature, threshold, left, right, value (trees, nodes); offset (k,); leaf: left = right = own position
bag        weight (k, vocabulary), bias (k,), rarity (vocabulary,): rows of token ids, 0 for padding
window     reach (); weight (2·reach + 1, vocabulary or channels, k), bias (k,): token ids or a sequence, per token
projection centre (columns,), directions (k, columns): rows put together again from k directions
distance   centre (columns,), directions (columns, columns): the log of the squared length along scaled directions
isolation  as trees: the log of an anomaly score instead of a reconstruction
network    backbone/…, head/weight, head/bias, adapter/…; ``network`` says of which backbone

Models of labels also hold ``present``, the positions of the labels that fitting saw; the others get the least logit
less ``UNSEEN``.  With ``never`` and ``share`` a model of labels gives those positions these shares, whatever the row,
and the others what is left.  Models of forecasts may hold ``residual`` (horizon, quantiles), added to one value per
step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import Floats, Task
from commonroot.common.errors import ForeignState

Array = NDArray[Any]
Arrays = Mapping[str, Array]
#: How far below the least logit of the labels seen in fitting the other labels are put.
UNSEEN: Final = 3.0
#: Steepness with which a margin of support vectors becomes a probability, before temperature.
SLOPE: Final = 5.0
#: Squared distances below this count as this.
LEAST: Final = 1e-12
#: The kind that is evaluated with torch.
NETWORK: Final = "network"
#: Rows are predicted in blocks of this many, and of fewer where rows are wide, so that memory stays bounded.
BLOCK: Final = 4096
BLOCK_NUMBERS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """One fitted model; see the table above.

    network  of a network alone: ``backbone``, the fields of its spec, and ``per_token``; JSON values
    """

    kind: str
    arrays: Arrays = field(repr=False)
    temperature: float = 1.0
    shift: float = 0.0
    network: Mapping[str, Any] | None = field(default=None, repr=False)

    def outputs(self, task: Task, x: Array) -> Floats:
        """Rows (n, …) to calibrated head outputs, float64.

        Raises ForeignState for a kind or arrays that this version did not write.
        """
        evaluate = KINDS.get(self.kind)
        if evaluate is None and self.kind != NETWORK:
            raise ForeignState(f"a stored model is of unknown kind {self.kind[:32]!r}")
        step = max(1, min(BLOCK, BLOCK_NUMBERS // max(math.prod(x.shape[1:]), 1)))
        try:
            blocks = [self._block(evaluate, task, x[at : at + step]) for at in range(0, max(len(x), 1), step)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ForeignState(f"a stored {self.kind} model does not fit its task or rows") from error
        full = np.concatenate(blocks)
        return (full - self.shift) / self.temperature if task.tempered else full

    def _block(self, evaluate: Callable[[Arrays, Array], Floats] | None, task: Task, x: Array) -> Floats:
        if evaluate is None:
            raw = _network(self.network, self.arrays, x)
        else:
            raw = evaluate(self.arrays, x if self.kind in SHAPED else x.reshape(len(x), math.prod(x.shape[1:])))
        if "present" in self.arrays:
            raw = spread(task, raw, self.arrays["present"])
        if "residual" in self.arrays:
            raw = (raw[:, :, None] + self.arrays["residual"]).reshape(len(raw), task.outputs)
        return raw if self.kind in SCORES else task.settled(raw, x)

    def predict(self, task: Task, x: Array) -> Floats:
        """Rows to the task's prediction array."""
        said = task.predictive(self.outputs(task, x))
        if "never" in self.arrays:
            said = completed(said, self.arrays["never"], self.arrays["share"])
        return said


def completed(predicted: Floats, never: NDArray[np.int64], share: Floats) -> Floats:
    """Probabilities in which these labels have these shares, and the others what is left, as they stood."""
    if not len(never):
        return predicted
    out = np.array(predicted, dtype=np.float64)
    out[:, never] = 0.0
    out *= (1.0 - share.sum()) / np.maximum(out.sum(axis=1, keepdims=True), 1e-300)
    out[:, never] = share
    return out


def spread(task: Task, raw: Floats, present: Array) -> Floats:
    """Logits of the labels that fitting saw as logits of all labels.

    ``raw`` is (…, 1), the logit of the second of two labels seen, or (…, k) for k others.
    """
    single = task.outputs == 1
    if raw.shape[-1] == 1 and len(present) == 2:
        raw = np.concatenate([np.zeros_like(raw), raw], axis=-1)
    labels = 2 if single else task.outputs
    if len(present) < labels:
        full = np.repeat(raw.min(axis=-1, keepdims=True) - UNSEEN, labels, axis=-1)
        full[..., present] = raw
    else:
        full = raw
    return full[..., 1:] - full[..., :1] if single else full


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


def _network(network: Mapping[str, Any] | None, arrays: Arrays, x: Array) -> Floats:
    """In blocks of its own, whose size depends on the backbone."""
    from commonroot.client.networks import outputs  # torch takes its time to load

    if network is None:
        raise KeyError("network")
    return outputs(network, arrays, x)


def _bag(arrays: Arrays, x: Array) -> Floats:
    """Without a row of the whole vocabulary: each distinct id of a row brings its weights."""
    weight, rarity = arrays["weight"], arrays["rarity"]
    ids = np.sort(np.where((x < len(rarity)) & (x > 0), x, 0), axis=1)
    first = np.concatenate([np.ones((len(ids), 1), dtype=bool), ids[:, 1:] != ids[:, :-1]], axis=1)
    flat, starts = ids.ravel(), np.flatnonzero(first.ravel())
    counts = np.diff(np.append(starts, flat.size))
    token, row = flat[starts], starts // max(ids.shape[1], 1)
    value = np.where(token > 0, np.sqrt(counts) * rarity[token], 0.0)
    norm = np.sqrt(np.bincount(row, value**2, minlength=len(ids)))
    value = value / np.maximum(norm[row], 1e-12)
    terms = [np.bincount(row, value * line[token], minlength=len(ids)) for line in weight]
    return np.asarray(np.stack(terms, axis=1) + arrays["bias"], dtype=np.float64)


def _window(arrays: Arrays, x: Array) -> Floats:
    weight, reach, length = arrays["weight"], int(arrays["reach"].item()), x.shape[1]
    out = np.zeros((len(x), length, weight.shape[2]))
    for offset in range(-reach, reach + 1):
        here = slice(max(0, -offset), min(length, length - offset))
        there = x[:, max(0, offset) : min(length, length + offset)]
        part = weight[offset + reach]
        if x.dtype.kind in "iu":
            out[:, here] += part[np.where(there < len(part), there, 0)]
        else:
            out[:, here] += there.astype(np.float64) @ part
    return np.asarray(out + arrays["bias"], dtype=np.float64)


def _projection(arrays: Arrays, x: Array) -> Floats:
    centred = x.astype(np.float64) - arrays["centre"]
    return np.asarray(centred @ arrays["directions"].T @ arrays["directions"] + arrays["centre"], dtype=np.float64)


def _distance(arrays: Arrays, x: Array) -> Floats:
    along = (x.astype(np.float64) - arrays["centre"]) @ arrays["directions"].T
    return np.asarray(np.log(np.maximum(np.square(along).sum(axis=1, keepdims=True), LEAST)), dtype=np.float64)


#: Kinds that give an anomaly score as it is, no reconstruction to be compared with the row.
SCORES: Final = frozenset({"distance", "isolation"})
#: Kinds that read rows in their own shape.
SHAPED: Final = frozenset({"bag", "window"})
KINDS: Final[MappingProxyType[str, Callable[[Arrays, Array], Floats]]] = MappingProxyType(
    {
        "bag": _bag,
        "constant": _constant,
        "distance": _distance,
        "isolation": _trees,
        "linear": _linear,
        "projection": _projection,
        "rbf": _rbf,
        "trees": _trees,
        "window": _window,
    }
)
