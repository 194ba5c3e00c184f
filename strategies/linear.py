"""A linear model in two parts: w₀, the same for all, and v_k, each department's own and never told.

    minimise over w₀ and all v_k     Σ_k [ Σ_i loss(y_i, x_i·(w₀ + v_k)) + λ/2 v_k·D v_k ] + μ/2 w₀·D w₀

after Evgeniou, Pontil, 2004, "Regularized multi-task learning" (doi 10.1145/1014052.1014067).  D is 1 but for the
constant column.  Small λ leaves every department to itself, large λ makes one model of all.  For a given w₀ every
department solves its v_k by itself, exactly.  What is left of its loss is a convex function of w₀ alone with

    gradient   g_k = -λ D v_k
    Hessian    S_k = A_k - A_k (A_k + λD)^-1 A_k = λD - λD (A_k + λD)^-1 λD,     A_k = Σ_i loss'' x_i x_iᵀ

(the Schur complement of its block), and the coordinator's Newton step solves (Σ S_k + μD) step = -(Σ g_k + μ D w₀).
For squared loss one step is the exact minimum over everything; for the logistic loss steps go on, one per round.
Several λ are tried side by side in the same rounds, each with its own w₀, and the sum of everybody's losses on private
validation rows says which is used.

S_k and g_k say less than the Gram matrix would: no entry of S_k is larger than λD's, whatever the rows are.  But each λ
is one more sum over the same A_k, and with about as many λ as departments these sums can be taken apart: their poles
lie at -λ = the eigenvalues of each A_k.  So there may be only as many λ as there would be sums if departments were
divided into groups, one for each, none of which is too small to be summed (``check_roster``).

With squared loss the opened Σ S_k is broadcast as well, so that a department can undo its own part: what w₀ would be
had it given other rows, or none, is one more solution of the same equations, exact and at no message (``instead``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.common.backbone.factors import Shapes, joined, split, triangle
from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected, TooFewDepartments
from commonroot.common.manifest import Term
from commonroot.common.roster import FEWEST_DEPARTMENTS, MOST_DEPARTMENTS
from commonroot.common.schema import CategoryColumn, Column, NumberColumn
from commonroot.strategies.base import Gathered, Sums, Tensors
from commonroot.strategies.common_target import CommonTarget
from commonroot.strategies.whole_roster import fewest_summed, require_everybody

Doubles = NDArray[np.float64]
#: Columns beyond this make Hessians too large to send.
MOST_COLUMNS: Final = 500
#: No column of a row is further from 0.
COLUMN_LIMIT: Final = 8.0
#: No w₀ may be longer.
WEIGHT_LIMIT: Final = 1e3
#: No validation row counts for more than this in the sum of losses.
LOSS_LIMIT: Final = 16.0
#: Newton steps for a department's own part, and the relative decrement at which they end.
_STEPS, _CLOSE = 50, 1e-13
#: A column of zeros has this curvature.
_RIDGE: Final = 1e-9
#: A margin's weight p(1 - p) counts as this at least, so that certain rows keep the Hessian regular.
_LEAST: Final = 1e-10

HIGH, LOW, HELD, DONE = "weights/high", "weights/low", "held", "done"
CURVED_HIGH, CURVED_LOW = "curvature/high", "curvature/low"


class SharedLinear(CommonTarget):
    """Shared and private linear parts over the charter's ``[[columns]]``.

    loss        ``squared`` for a value, ``logistic`` for labels; with more than two labels, each against the rest
    labels      of ``logistic``: all of them in order, parted by ``|``; every department's must be these
    low, high   of ``squared``: the range of the target
    strengths   the λ to try, parted by blanks, ascending; how many, the number of departments limits
    constant    the constant column's entry of D, the others' being 1: little lets departments' levels differ freely
    ridge       μ
    most_rows   a department with more training rows cannot take part; bounds the sums

    Numbers are told in standard deviations of everybody's rows where the charter names statistics, else as distances
    from the middle of the charter's range in half ranges; labels of categories as 0/1 columns.

    ``gather`` reads ``x`` (n, 1 + columns) float64, a one first, and ``y``, (n,) positions of labels or float64 in
    [-1, 1] of the range; and of validation rows ``held_x``, ``held_y``.

    Guarantees
    ----------
    * squared loss: after the first round w₀ is that of the joint problem on everybody's rows, but for fixed-point
      rounding; the second contributes losses alone, so no Hessian is sent twice
    * squared loss: what ``instead`` gives is the w₀ of the same rounds with those other rows of this department
    * logistic loss: every round is an exact Newton step of the joint problem
    """

    name: ClassVar[str] = "shared-linear"

    loss: Literal["squared", "logistic"] = "squared"
    strengths: str = "1 3 10 30 100 300"
    constant: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        tried = self.tried
        if not tried or any(not 1e-6 <= one <= 1e9 for one in tried) or list(tried) != sorted(set(tried)):
            raise ValueError("strengths are numbers from 1e-6 to 1e9, ascending, as in '1 10 100'")
        return self

    @property
    def tried(self) -> tuple[float, ...]:
        """The λ."""
        try:
            return tuple(float(one) for one in self.strengths.split())
        except ValueError:
            return ()

    # -- what travels ------------------------------------------------------------------------------------------------

    def broadcast(self, draft: Draft) -> Shapes:
        """w₀ of every λ and output in two float32 parts, their validation losses so far, and rounds done.

        Of squared loss also the opened Hessians, as upper triangles in two parts.
        """
        shape = (len(self.tried), self.outputs, _width(draft))
        usual: Shapes = ((HIGH, shape), (LOW, shape), (HELD, (len(self.tried),)), (DONE, ()))
        if self.loss == "logistic":
            return usual
        curved = (len(self.tried), self.outputs, triangle(_width(draft)))
        return (*usual, (CURVED_HIGH, curved), (CURVED_LOW, curved))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """``hessian`` as upper triangles and ``gradient`` of every λ and output; ``held`` losses and their rows."""
        if draft.rounds < 2:
            raise ConfigError("a round solves and another compares", hint="rounds = 2; of logistic loss about 8")
        tried, width, rows = len(self.tried), _width(draft), float(self.most_rows)
        entry = self.tried[-1] * max(1.0, self.constant)
        return (
            Term("hessian", (tried, self.outputs, triangle(width)), "fixed64", entry),
            Term("gradient", (tried, self.outputs, width), "fixed64", rows * COLUMN_LIMIT * 4),
            Term("held", (tried,), "fixed64", rows * LOSS_LIMIT),
            Term("held_count", (), "fixed64", rows),
        )

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """All zeros."""
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in self.broadcast(draft)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless the weights are within the limit and nothing else is impossible.

        A coordinator may broadcast weights of its choice.  It learns the sum of the Hessians and gradients there.
        """
        if version == 0:
            if any(array.any() for array in received.values()):
                raise OutsideCharter("version 0 of shared-linear is not all zeros")
            return
        if not np.linalg.norm(weights_of(received), axis=-1).max() <= WEIGHT_LIMIT * (1 + 1e-6):
            raise OutsideCharter(f"weights longer than {WEIGHT_LIMIT:g} were received")
        done = float(received[DONE])
        if not (done.is_integer() and float(earlier[DONE]) <= done <= min(version, draft.rounds)):
            raise OutsideCharter("the broadcast says of another number of rounds than there were")
        if not done and any(array.any() for array in received.values()):
            raise OutsideCharter("weights were received that are from before any round")
        if not ((received[HELD] >= 0) & (received[HELD] <= LOSS_LIMIT * (1 + 1e-6))).all():
            raise OutsideCharter("the validation losses received are none")
        if self.loss == "squared":
            most = MOST_DEPARTMENTS * max(1.0, self.constant) * np.array(self.tried)[:, None, None]
            if not (np.abs(joined(received[CURVED_HIGH], received[CURVED_LOW])) <= most * (1 + 1e-6)).all():
                raise OutsideCharter("the Hessians received are of more departments than there can be")

    def check_roster(self, draft: Draft, roster: Enrolled) -> None:
        """Raise TooFewDepartments where sums over other departments, or of many λ, could be told apart.

        Squared loss over two rounds repeats nothing: Hessians are those of version 0 alone, losses those of version 1.
        """
        if self.loss == "logistic" or draft.rounds > 2:
            require_everybody(draft, roster, "losses of the same rows")
        fewest, colluders = fewest_summed(draft, roster), roster.parameters.colluders
        most = max(1, min(fewest // FEWEST_DEPARTMENTS, (fewest - colluders) // 2))
        if len(self.tried) > most:
            raise TooFewDepartments(
                f"the charter tries {len(self.tried)} strengths; over {fewest} departments {most} can be summed before "
                "the sums tell departments apart",
                hint=f"strengths = {' '.join(f'{one:g}' for one in self.tried[:most])!r}, or a larger cohort.floor",
            )

    # -- the department's half -----------------------------------------------------------------------------------------

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """What is left of the department's loss around the weights received.  Raises DataError beyond the bounds."""
        x, y = np.asarray(data["x"], np.float64), data["y"]
        held_x, held_y = np.asarray(data["held_x"], np.float64), data["held_y"]
        self._check_rows(draft, x, y, held_x)
        shapes = {term.name: term.shape for term in self.terms(draft)}
        out: dict[str, NDArray[np.floating]] = {name: np.zeros(shape) for name, shape in shapes.items()}
        upper = np.triu_indices(x.shape[1])
        known = int(state[DONE]) > 0
        solves = self.loss == "logistic" or not known
        gram = x.T @ x if self.loss == "squared" else None
        for at, strength in enumerate(self.tried):
            margins = np.zeros((len(held_x), self.outputs))
            for output, shared in enumerate(weights_of(state)[at]):
                own, curvature = self.own_part(x, self.wanted(y)[:, output], shared, strength, gram=gram)
                margins[:, output] = held_x @ (shared + own)
                if solves:
                    hessian, out["gradient"][at, output] = self._left(own, curvature, strength)
                    most = strength * float(self._penalty(len(own)).max())  # which rounding might exceed
                    out["hessian"][at, output] = np.clip(hessian[upper], -most, most)
            if known and len(held_x):
                out["held"][at] = np.minimum(self.losses(margins, held_y), LOSS_LIMIT).sum()
        if known:
            out["held_count"] = np.asarray(float(len(held_x)))
        # no honest weights lead beyond; raising would tell a coordinator that made some up whose rows are far from them
        most = self.most_rows * COLUMN_LIMIT * 4
        out["gradient"] = np.clip(out["gradient"], -most, most)
        return Gathered(out, {})

    def own_part(
        self, x: Doubles, wanted: Doubles, shared: Doubles, strength: float, *, gram: Doubles | None = None
    ) -> tuple[Doubles, Doubles]:
        """The v that is best for a given w₀, (columns,), and the curvature A there; exact to rounding.

        wanted  (n,) values, or 1 and 0 for rows of the label and others
        """
        penalty = strength * self._penalty(x.shape[1])
        if self.loss == "squared":
            curvature = x.T @ x if gram is None else gram
            pull = x.T @ wanted - curvature @ shared
            return np.asarray(np.linalg.solve(curvature + np.diag(penalty), pull)), curvature
        own = np.zeros(x.shape[1])
        base = x @ shared

        def cost(v: Doubles) -> float:
            margin = base + x @ v
            return float(np.logaddexp(0.0, margin).sum() - wanted @ margin + 0.5 * penalty @ (v * v))

        value = cost(own)
        for _ in range(_STEPS):
            given = _sigmoid(base + x @ own)
            curvature = _weighted_gram(x, given)
            slope = x.T @ (given - wanted) + penalty * own
            step = np.linalg.solve(curvature + np.diag(penalty), slope)
            decrement, size = float(slope @ step), 1.0
            if decrement <= _CLOSE * max(1.0, value):
                break
            while (trial := cost(own - size * step)) > value - 0.25 * size * decrement and size > 1e-6:
                size /= 2
            own, value = own - size * step, trial
        return own, _weighted_gram(x, _sigmoid(base + x @ own))

    def _left(self, own: Doubles, curvature: Doubles, strength: float) -> tuple[Doubles, Doubles]:
        """S and g: what a solved own part leaves of the loss as a function of w₀."""
        penalty = strength * self._penalty(len(own))
        inverse = np.linalg.inv(curvature + np.diag(penalty))
        return np.diag(penalty) - penalty[:, None] * inverse * penalty, -penalty * own

    def instead(
        self, state: Tensors, at: int, gave: tuple[Doubles, Doubles], other: tuple[Doubles, Doubles]
    ) -> Doubles:
        """w₀ (columns,) of the λ at that position, had this department given the ``other`` x, y and not those it gave.

        Of squared loss.  The coordinator solved (Σ S + μD) w₀ = -Σ g, with g where all weights are 0; this exchanges
        one summand on either side.  A department that was missing from the sum takes something off that is not there:
        the rows that it takes off then speak against the shared part.

        Raises SumRejected where the equations have no solution, which honest sums always have.
        """
        shared = weights_of(state)[at, 0]
        width, strength = len(shared), self.tried[at]
        upper = np.triu_indices(width)
        full = np.zeros((width, width))
        full[upper] = full.T[upper] = joined(state[CURVED_HIGH], state[CURVED_LOW])[at, 0]
        full += np.diag(np.maximum(self.ridge * self._penalty(width), _RIDGE))
        pull = full @ shared
        for (x, y), sign in ((gave, -1.0), (other, 1.0)):
            own, curvature = self.own_part(x, y, np.zeros(width), strength)
            hessian, slope = self._left(own, curvature, strength)
            full, pull = full + sign * hessian, pull - sign * slope
        try:
            found = np.linalg.solve(full, pull)
        except np.linalg.LinAlgError as error:
            raise SumRejected("the Hessians received cannot be those of a sum with this department's in it") from error
        if not np.linalg.norm(found) <= WEIGHT_LIMIT:
            raise SumRejected("the Hessians received cannot be those of a sum with this department's in it")
        return np.asarray(found)

    def wanted(self, y: NDArray[np.generic]) -> Doubles:
        """(n, outputs) what each weight vector is to tell."""
        if self.loss == "squared":
            return np.asarray(y, np.float64)[:, None]
        labels = np.asarray(y, np.int64)[:, None]
        return np.asarray(labels == (1 if self.outputs == 1 else np.arange(self.outputs)), np.float64)

    def losses(self, margins: Doubles, y: NDArray[np.generic]) -> Doubles:
        """(n,) squared error, or log loss; of several labels, of the one-against-rest margins' softmax."""
        if self.loss == "squared":
            return np.asarray(np.square(margins[:, 0] - np.asarray(y, np.float64)))
        if self.outputs == 1:
            return np.asarray(np.logaddexp(0.0, margins[:, 0]) - self.wanted(y)[:, 0] * margins[:, 0])
        most = margins.max(axis=1)
        own = (margins * self.wanted(y)).sum(axis=1)
        return np.asarray(most + np.log(np.exp(margins - most[:, None]).sum(axis=1)) - own)

    def _penalty(self, width: int) -> Doubles:
        """The diagonal of D."""
        return np.array([self.constant, *[1.0] * (width - 1)])

    def _check_rows(self, draft: Draft, x: Doubles, y: NDArray[np.generic], held: Doubles) -> None:
        if max(len(x), len(held)) > self.most_rows:
            raise DataError(f"{len(x)} training rows; the charter admits {self.most_rows}")
        if x.shape != (len(y), _width(draft)):
            raise DataError("the rows have other columns than the charter's")
        if (np.abs(x) > COLUMN_LIMIT).any():
            raise DataError(f"a column is further than {COLUMN_LIMIT:g} units from its middle")
        if self.loss == "squared" and (np.abs(np.asarray(y, np.float64)) > 1 + 1e-9).any():
            raise DataError(f"a target lies outside the charter's range from {self.low:g} to {self.high:g}")

    # -- the coordinator's half ----------------------------------------------------------------------------------------

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """A Newton step of every λ, and the validation losses of the weights it started from.

        Raises SumRejected for what no departments' losses add up to, or weights beyond the limit.
        """
        following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
        hessian, gradient = np.asarray(sums["hessian"], np.float64), np.asarray(sums["gradient"], np.float64)
        count = float(sums["held_count"])
        if not hessian.any() and count <= 0:
            return following
        if count > 0:
            held = np.asarray(sums["held"], np.float64) / count
            if not ((held >= -1e-9) & (held <= LOSS_LIMIT * (1 + 1e-9))).all():
                raise SumRejected("the opened validation losses are none")
            following[HELD][:] = np.clip(held, 0.0, LOSS_LIMIT)
        if hessian.any():
            weights = weights_of(state)
            penalty = self.ridge * self._penalty(weights.shape[-1])
            upper = np.triu_indices(weights.shape[-1])
            full = np.zeros((*weights.shape, weights.shape[-1]))
            full[..., upper[0], upper[1]] = full[..., upper[1], upper[0]] = hessian
            # a column that is 0 in all rows has neither slope nor curvature, and stays at 0
            full += np.diag(np.maximum(penalty, _RIDGE))
            try:
                weights = weights - np.linalg.solve(full, (gradient + penalty * weights)[..., None])[..., 0]
            except np.linalg.LinAlgError as error:
                raise SumRejected("the opened Hessians have no inverse") from error
            longest = float(np.linalg.norm(weights, axis=-1).max())
            if not longest <= WEIGHT_LIMIT:
                raise SumRejected(f"weights of length {longest:.3g}; the limit is {WEIGHT_LIMIT:g}")
            following[HIGH], following[LOW] = split(weights)
            if self.loss == "squared":
                following[CURVED_HIGH], following[CURVED_LOW] = split(hessian)
        following[DONE] = np.asarray(float(state[DONE]) + 1, dtype=np.float32)
        return following

    def chosen(self, state: Tensors) -> int:
        """The position of the λ with the least summed validation loss; of equal ones the largest λ."""
        held = state[HELD]
        return int(np.flatnonzero(held == held.min())[-1])


def weights_of(state: Tensors) -> Doubles:
    """(strengths, outputs, 1 + columns) of a broadcast."""
    return joined(state[HIGH], state[LOW])


def columns_of(column: Column) -> int:
    """How many columns of numbers one of the charter's becomes.  Raises ConfigError for a kind that is not read."""
    if isinstance(column, NumberColumn):
        return 1
    if isinstance(column, CategoryColumn) and column.labels:
        return len(column.labels)
    raise ConfigError(
        f"column {column.name!r} is neither a number nor a category with labels",
        hint="leave it out of the charter's [[columns]]",
    )


def _width(draft: Draft) -> int:
    """Columns with the constant one."""
    if not draft.columns:
        raise ConfigError("the charter lists no [[columns]]", hint="list what the departments have in common")
    width = 1 + sum(columns_of(column) for column in draft.columns)
    if width > MOST_COLUMNS + 1:
        raise ConfigError(f"{width - 1} columns of numbers; at most {MOST_COLUMNS}", hint="list fewer [[columns]]")
    return width


def _sigmoid(margin: Doubles) -> Doubles:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))


def _weighted_gram(x: Doubles, given: Doubles) -> Doubles:
    weight = np.maximum(given * (1.0 - given), _LEAST)
    return np.asarray((x * weight[:, None]).T @ x)
