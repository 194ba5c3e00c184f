"""One linear model of labels over counts of words, steered by how the labels' texts differ in words; exact, by sums.

    minimise over u and b     Σ_i log(1 + exp(-±(b + Σ_j s_j·u_j·x_ij))) + λ/2 |u|²,        s_j = √(r_j² + c)
    r_j = log of  (a + rows of the label with word j) / Σ  over  (a + other rows with word j) / Σ

r is naive Bayes' log ratio of word j, so a word that parts the labels well by itself costs little weight and others are
learned only where many rows ask for it.  This is NB-SVM (Wang, Manning, 2012, "Baselines and bigrams", ACL, P12-2018)
with a floor c under the squares of its ratios, that is with a prior of variance r_j² + c on the weight of word j.

    round 1     rows of each label with each word are summed
    each other  everybody's gradient at the weights received is summed; one step of the joint problem

Steps are Barzilai's and Borwein's (1988, doi 10.1093/imanum/8.1.141, the shorter of the two): they need two gradients
and nothing else, and about fifteen of them solve it.

Cross-fitted rounds.  A department judges at the end by rows of its own, and those that took part in the rounds flatter
what came out.  So every department parts its rows into folds, and beside the model of all rows the same rounds make one
for each fold, to which nobody gave that fold.  At the end all of a department's rows are predicted by models that
nobody's rows of that fold are in, and the model that is kept has learned from all of them.  It costs as many times the
message, and no round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from commonroot.common.backbone import Shapes
from commonroot.common.backbone.inputs import RowInput
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.common.roster import MOST_DEPARTMENTS, Roster
from commonroot.strategies.base import Gathered, Sums, Tensors
from commonroot.strategies.common_target import CommonTarget
from commonroot.strategies.whole_roster import require_everybody

Doubles = NDArray[np.float64]
WEIGHTS, DONE = "weights", "done"
#: What the coordinator keeps: s, and the point and gradient before.
SCALE, POINT, SLOPE, STEP = "server/scale", "server/point", "server/slope", "server/step"
#: No weights may be longer.
WEIGHT_LIMIT: Final = 1e4
#: No value of a row may be larger, whatever its sign.
VALUE_LIMIT: Final = 8.0
#: λ of the constant: next to nothing.
_FREE: Final = 1e-3


class SharedWords(CommonTarget):
    """A linear model of labels that all departments share, over rows of as many values as the charter's backbone reads.

    loss       ``logistic``
    labels     all of them in order, parted by ``|``; every department's must be these
    strength   λ; what suits rows of one length is divided by k² for rows that are k times shorter
    smoothing  a: rows that every word is thought to have been in before any was counted
    floor      c: variance of the prior on words that do not part the labels by themselves; 1 for about the same for all
    folds      in which every department parts its rows
    most_rows  a department with more rows cannot take part; bounds the sums

    ``gather`` reads ``x`` (n, values) in units in which a word that is not there is 0, ``y`` (n,) positions of labels
    and ``fold`` (n,).

    Guarantees
    ----------
    * every round is one step on the joint problem of everybody's rows, for each of the folds' models, exactly
    * the model of a fold is what the rounds give where nobody has the rows of that fold
    * rows count alike whose they are
    """

    name: ClassVar[str] = "shared-words"

    loss: Literal["logistic"] = "logistic"
    strength: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    smoothing: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    floor: Annotated[float, Field(gt=0, le=1e3)] = 0.5
    folds: Annotated[int, Field(ge=2, le=10)] = 4

    # -- what travels ------------------------------------------------------------------------------------------------

    def broadcast(self, draft: Draft) -> Shapes:
        """Weights, those of the constant first, of the models without each fold and of that of all rows."""
        return ((WEIGHTS, (self.folds + 1, self.outputs, 1 + _width(draft))), (DONE, ()))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """``counted`` rows of folds and labels, ``present``: those with each word; ``squares`` of values; ``slope``."""
        if draft.rounds < 2:
            raise ConfigError("a round counts words and the others learn", hint="rounds = 16")
        width, rows, labels = _width(draft), float(self.most_rows), len(self.named)
        return (
            Term("counted", (self.folds, labels), "fixed64", rows),
            Term("present", (self.folds, labels, width), "fixed64", rows),
            Term("squares", (width,), "fixed64", rows * VALUE_LIMIT**2),
            Term("slope", (self.folds + 1, self.outputs, 1 + width), "fixed64", rows * VALUE_LIMIT),
        )

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """All zeros."""
        shapes = dict(self.broadcast(draft))
        held = dict.fromkeys((SCALE, POINT, SLOPE), shapes[WEIGHTS]) | {STEP: shapes[WEIGHTS][:2]}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in {**shapes, **held}.items()}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless the weights are within the limit.

        A coordinator may broadcast weights of its choice.  It learns the sum of the gradients there.
        """
        done = float(received[DONE])
        if version == 0 and (done or received[WEIGHTS].any()):
            raise OutsideCharter("version 0 of shared-words is not all zeros")
        if not (done.is_integer() and float(earlier[DONE]) <= done <= min(version, draft.rounds)):
            raise OutsideCharter("the broadcast says of another number of rounds than there were")
        if not np.linalg.norm(received[WEIGHTS], axis=-1).max() <= WEIGHT_LIMIT * (1 + 1e-6):
            raise OutsideCharter(f"weights longer than {WEIGHT_LIMIT:g} were received")

    def check_roster(self, draft: Draft, roster: Roster) -> None:
        """Raise TooFewDepartments where sums over other departments could be told apart."""
        require_everybody(draft, roster, "gradients of the same rows")

    # -- the department's half -----------------------------------------------------------------------------------------

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """Counts in the first round, gradients in the others.  Raises DataError beyond the bounds."""
        x, y, fold = np.asarray(data["x"], np.float64), np.asarray(data["y"], np.int64), np.asarray(data["fold"])
        if len(x) > self.most_rows:
            raise DataError(f"{len(x)} rows to learn from; the charter admits {self.most_rows}")
        if x.shape != (len(y), _width(draft)):
            raise DataError(f"rows of {x.shape[-1]} values; the charter's have {_width(draft)}")
        if len(x) and not np.abs(x).max() <= VALUE_LIMIT:
            raise DataError(f"a value is further than {VALUE_LIMIT:g} from 0")
        out: dict[str, NDArray[np.floating]] = {term.name: np.zeros(term.shape) for term in self.terms(draft)}
        labels = len(self.named)
        cell = fold * labels + y
        out["counted"] = np.bincount(cell, minlength=self.folds * labels).reshape(self.folds, labels).astype(np.float64)
        if not float(state[DONE]):
            there = (x != 0).astype(np.float64)
            out["present"] = np.stack([there[cell == at].sum(axis=0) for at in range(self.folds * labels)])
            out["present"] = out["present"].reshape(self.folds, labels, -1)
            out["squares"] = np.square(x).sum(axis=0)
            return Gathered(out, {})
        out["slope"] = self._slope(x, y, fold, np.asarray(state[WEIGHTS], np.float64))
        return Gathered(out, {})

    def _slope(self, x: Doubles, y: NDArray[np.int64], fold: NDArray[np.generic], weights: Doubles) -> Doubles:
        """Σ x (p - y) of every model over the rows that it has, the constant's first."""
        flat = weights.reshape(-1, weights.shape[-1])
        margins = x @ flat[:, 1:].T + flat[:, 0]
        wanted = np.tile(y[:, None] == self._told, (1, self.folds + 1))
        left = 0.5 * (1.0 + np.tanh(0.5 * margins)) - wanted
        without = np.repeat(np.arange(self.folds + 1), self.outputs)  # of the last model, no row has that fold
        left[fold[:, None] == without] = 0.0
        slope = np.concatenate([left.sum(axis=0)[:, None], left.T @ x], axis=1)
        return np.asarray(slope.reshape(weights.shape))

    @property
    def _told(self) -> NDArray[np.int64]:
        """(outputs,) the label that each output speaks for."""
        return np.array([1]) if self.outputs == 1 else np.arange(self.outputs)

    # -- the coordinator's half ----------------------------------------------------------------------------------------

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The prior from the counts, then a step in every round.  Raises SumRejected for what no rows add up to."""
        following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
        rows = np.asarray(sums["counted"], np.float64)
        if not rows.any():
            return following
        most = MOST_DEPARTMENTS * self.most_rows
        if not ((rows >= -1e-6) & (rows <= most)).all():
            raise SumRejected("the opened counts of rows are none")
        following[DONE] = np.asarray(float(state[DONE]) + 1, dtype=np.float32)
        if not float(state[DONE]):
            return following | self._prior(rows, sums)
        return following | self._stepped(state, np.asarray(sums["slope"], np.float64))

    def _prior(self, rows: Doubles, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """s of every model, and a first step that cannot be too long."""
        present = np.asarray(sums["present"], np.float64)
        squares = np.maximum(np.asarray(sums["squares"], np.float64), 0.0)
        if not ((present >= -1e-6) & (present <= rows[..., None] + 1e-6)).all():
            raise SumRejected("words were counted in more rows than there are")
        everything = np.concatenate([present.sum(axis=0) - present, present.sum(axis=0)[None]]) + self.smoothing
        own = everything[:, self._told]
        others = everything.sum(axis=1, keepdims=True) - own - (len(self.named) - 2) * self.smoothing
        ratio = np.log(own / own.sum(axis=-1, keepdims=True)) - np.log(others / others.sum(axis=-1, keepdims=True))
        scale = np.concatenate([np.ones((*ratio.shape[:2], 1)), np.sqrt(ratio**2 + self.floor)], axis=-1)
        # the sum of all curvatures is no less than the largest one
        curved = 0.25 * (float(rows.sum()) + np.square(scale[..., 1:]) @ squares) + self.strength
        return {SCALE: scale.astype(np.float32), STEP: (1.0 / curved).astype(np.float32)}

    def _stepped(self, state: Tensors, summed: Doubles) -> dict[str, NDArray[np.float32]]:
        """One step of every model in the coordinates u."""
        scale, first = state[SCALE].astype(np.float64), state[STEP].astype(np.float64)
        point = state[WEIGHTS].astype(np.float64) / scale
        penalty = np.full(point.shape[-1], self.strength)
        penalty[0] = _FREE
        slope = summed * scale + penalty * point
        size = first
        if float(state[DONE]) > 1:
            moved, turned = point - state[POINT], slope - state[SLOPE]
            along, square = (moved * turned).sum(axis=-1), (turned**2).sum(axis=-1)
            usual = along / np.maximum(square, 1e-300)
            size = np.where(along > 0, np.clip(usual, first, 1.0 / min(self.strength, 1.0)), first)
        weights = scale * (point - size[..., None] * slope)
        longest = float(np.linalg.norm(weights, axis=-1).max())
        if not longest <= WEIGHT_LIMIT:
            raise SumRejected(f"weights of length {longest:.3g}; the limit is {WEIGHT_LIMIT:g}")
        found = {WEIGHTS: weights, POINT: point, SLOPE: slope}
        return {name: array.astype(np.float32) for name, array in found.items()}


def _width(draft: Draft) -> int:
    """Values of a row.  Raises ConfigError where the charter's rows are no vectors."""
    rows = draft.network.input
    if not isinstance(rows, RowInput) or draft.network.adapter:
        raise ConfigError("shared-words reads rows of values, the same in every department", hint="a backbone of them")
    return rows.shape[0]
