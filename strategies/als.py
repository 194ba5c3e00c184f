"""Exact federated matrix factorisation: item factors are shared, user factors never leave their department.

    rating(u, i) = mean + a_i + b_u + p_u · q_i                   (a_i, q_i) shared, (b_u, p_u) private

Alternating least squares with L2 penalty: for fixed items every user is a small linear system of its own, for fixed
users every item is.  A department solves its users exactly and contributes, for every item,

    gram    Σ_u x xᵀ, its upper triangle        x = (1, p_u), over the users here that rated the item
    moment  Σ_u x (r - mean - b_u)

and the coordinator solves (Σ gram + λ_i I) (a_i, q_i) = Σ moment.  Sums over departments are the sums over all users,
so the factors are those of the same algorithm on all ratings in one place, up to the rounding of 64-bit fixed point.
Such sums and the private side of it as in Hu, Koren, Volinsky, 2008 (doi 10.1109/ICDM.2008.22); penalties weighted by
counts as in Zhou, Wilkinson, Schreiber, Pan, 2008 (doi 10.1007/978-3-540-68880-8_32) where asked for.

The first round counts: it gives the mean and the items' biases.  Every later one is a sweep, users first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from commonroot.common.backbone.factors import HIGH, LOW, Doubles, Shapes, joined, split, triangle
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Gathered, Sums, Tensors

#: The mean rating less the middle of the charter's range, in two float32 parts.
MEAN: Final = "mean"
#: 0 before the first round, then 1.
COUNTED: Final = "counted"
#: What a department keeps: (users, 1 + width) biases and factors, and how many of them were cut to the limit.
USERS: Final = "users/factors"
CUT: Final = "users/cut"

#: Ratings per step when systems are set up; what is touched stays in the cache.
_STEP: Final = 1 << 14
#: Items per step when they are solved.
_SOLVED: Final = 1 << 14

Positions = NDArray[np.int64]


class ALS(BaseModel):
    """Alternating least squares over the catalogue of the charter's ``[backbone]`` of family ``factors``.

    low, high     least and greatest rating there may be
    strength      λ of the L2 penalty on biases and factors
    weighted      λ times the number of ratings of a user or item, instead of λ
    factor_limit  no user's (b, p) and no item's (a, q) may be longer.  A user's that is, is cut to it, counted, and
                  said in the department's report; an item's ends the run.  λ keeps them far shorter, as a rule
    most_users    a department with more ratings of one item cannot take part; bounds the sums

    ``gather`` reads ``data``: ``user`` and ``item``, (n,) int64 positions, ``rating``, (n,) float64, and ``users``, ().

    Guarantees
    ----------
    * items are those of the same sweeps on everybody's ratings, but for fixed-point rounding, if no user was cut
    * no user's factors, and nothing about which user rated what, is in a term but as part of a sum over users
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str] = "als"

    low: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 5.0
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 12.0
    weighted: bool = False
    factor_limit: Annotated[float, Field(gt=0, le=1e4)] = 32.0
    most_users: Annotated[int, Field(ge=1, le=1 << 30)] = 100_000

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self

    @property
    def middle(self) -> float:
        """Ratings are told as distances from here."""
        return (self.low + self.high) / 2

    def mean(self, state: Tensors) -> float:
        """The mean rating of a broadcast, in the ratings' own units."""
        return self.middle + _mean(state)

    @property
    def reach(self) -> float:
        """No rating is further from the middle."""
        return (self.high - self.low) / 2

    # -- what travels ------------------------------------------------------------------------------------------------

    def broadcast(self, draft: Draft) -> Shapes:
        """Item biases and factors in two parts, the mean in two parts, and whether it is known yet."""
        return (*draft.factors.shapes(), (MEAN, (2,)), (COUNTED, ()))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """``gram`` and ``moment`` of every item."""
        if draft.rounds < 2:
            raise ConfigError("als takes one round to count and one for every sweep", hint="rounds = 2 or more")
        spec, longest = draft.factors, max(1.0, self.factor_limit)
        furthest = 2 * self.reach + self.factor_limit  # |r - mean - b|
        return (
            Term("gram", (spec.items, triangle(spec.outputs)), "fixed64", self.most_users * longest**2),
            Term("moment", (spec.items, spec.outputs), "fixed64", self.most_users * longest * furthest),
        )

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """Small factors from the charter's seed, nothing counted."""
        start = draft.factors.initial(draft.training.seed)
        return {**start, MEAN: np.zeros(2, np.float32), COUNTED: np.zeros((), np.float32)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless version 0 is the seed's, and a later one has factors within the limit.

        One sweep may move the items anywhere within that limit, so a coordinator may broadcast items of its choice: a
        question about the users' ratings, of which it gets the answer as a sum over all departments' users and no
        other way.  In a charter whose floor is all departments, every such question costs it a round they all see.
        """
        if version == 0:
            first = self.initial(draft)
            if any(not np.array_equal(received[name], first[name]) for name in first):
                raise OutsideCharter("version 0 is not what the charter's seed gives")
            return
        if float(received[COUNTED]) not in (0.0, 1.0) or abs(_mean(received)) > self.reach * (1 + 1e-6):
            raise OutsideCharter("the mean received is none of ratings in the charter's range")
        if float(_lengths(items_of(received)).max()) > self.factor_limit * (1 + 1e-6):
            raise OutsideCharter(f"item factors longer than the charter's limit of {self.factor_limit} were received")

    # -- the department's half -----------------------------------------------------------------------------------------

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """Solve the users on the items received; what they say about the items.  Raises DataError beyond the bounds."""
        item, rating = np.asarray(data["item"], np.int64), np.asarray(data["rating"], np.float64)
        self.check_ratings(draft, item, rating)
        user, users = np.asarray(data["user"], np.int64), int(data["users"])
        if float(state[COUNTED]) == 0.0:
            solved, cut = np.zeros((users, draft.factors.outputs)), 0
        else:
            solved, cut = self.solve_users(state, user, item, rating, users)
        features = _with_one(solved)
        targets = rating - self.middle - _mean(state) - solved[user, 0]
        gram, moment = systems(item, user, features, targets, draft.factors.items)
        return Gathered({"gram": gram, "moment": moment}, {USERS: solved, CUT: np.array(cut, np.int64)})

    def check_ratings(self, draft: Draft, item: Positions, rating: Doubles) -> None:
        """Raise DataError for ratings beyond the charter's range or more of one item than it admits."""
        beyond = int(np.count_nonzero(~((rating >= self.low) & (rating <= self.high))))
        most = int(np.bincount(item, minlength=1).max())
        problems = [f"{beyond} rating(s) are not between {self.low:g} and {self.high:g}"] if beyond else []
        problems += [f"one item has {most} ratings; the charter admits {self.most_users}"] * (most > self.most_users)
        if problems:
            raise DataError("the ratings do not keep to the charter: " + "; ".join(problems))

    def solve_users(
        self, state: Tensors, user: Positions, item: Positions, rating: Doubles, users: int
    ) -> tuple[Doubles, int]:
        """(users, 1 + width) biases and factors that fit the items received best, and how many were cut."""
        items = items_of(state)
        targets = rating - self.middle - _mean(state) - items[item, 0]
        gram, moment = systems(user, item, _with_one(items), targets, users)
        solved = self.solve(gram, moment)
        length = _lengths(solved)
        cut = length > self.factor_limit
        if cut.any():
            solved[cut] *= (self.factor_limit / length[cut])[:, None]
        return solved, int(cut.sum())

    def solve(self, gram: Doubles, moment: Doubles) -> Doubles:
        """(n, k) solutions of (gram + λ I) s = moment, gram as (n, k(k + 1)/2) upper triangles with counts first."""
        n, width = moment.shape
        upper = np.triu_indices(width)
        out = np.empty_like(moment)
        for at in range(0, n, _SOLVED):
            part = slice(at, at + _SOLVED)
            full = np.empty((len(moment[part]), width, width))
            full[:, upper[0], upper[1]] = full[:, upper[1], upper[0]] = gram[part]
            penalty = self.strength * (np.maximum(gram[part, 0], 1.0) if self.weighted else np.ones(len(full)))
            full[:, range(width), range(width)] += penalty[:, None]
            out[part] = np.linalg.solve(full, moment[part, :, None])[:, :, 0]
        return out

    # -- the coordinator's half ----------------------------------------------------------------------------------------

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """Items from the summed systems; from the first sum the mean and their biases.

        Raises SumRejected for what no users' systems add up to, or items beyond the charter's limit.
        """
        following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
        gram = np.asarray(sums["gram"], dtype=np.float64)
        moment = np.asarray(sums["moment"], dtype=np.float64)
        counts = gram[:, 0]
        if not counts.any():
            return following
        if (counts < 0).any() or (np.abs(counts - np.rint(counts)) > 1e-6).any():
            raise SumRejected("the opened counts of ratings are no counts")
        items = items_of(state)
        if float(state[COUNTED]) == 0.0:
            mean = float(moment[:, 0].sum() / counts.sum())
            if abs(mean) > self.reach * (1 + 1e-6):
                raise SumRejected("the mean of the opened ratings is beyond the charter's range")
            penalty = self.strength * (np.maximum(counts, 1.0) if self.weighted else 1.0)
            items[:, 0] = (moment[:, 0] - mean * counts) / (counts + penalty)
            high, low = split(np.array(mean))
            following |= {MEAN: np.array([high, low], np.float32), COUNTED: np.ones((), np.float32)}
        else:
            try:
                items = self.solve(gram, moment)
            except np.linalg.LinAlgError as error:
                raise SumRejected("the opened systems have no solution") from error
        longest = float(_lengths(items).max())
        if not longest <= self.factor_limit:
            raise SumRejected(
                f"an item's factors have length {longest:.3g}; the charter's limit is {self.factor_limit}"
            )
        following[HIGH], following[LOW] = split(items)
        return following


def items_of(state: Tensors) -> Doubles:
    """(items, 1 + width) biases and factors of a broadcast."""
    return joined(state[HIGH], state[LOW])


def systems(
    group: Positions, other: Positions, features: Doubles, targets: Doubles, groups: int
) -> tuple[Doubles, Doubles]:
    """Normal equations of one side, every group's its own.

    group, other  (n,) which group a rating belongs to, and which row of ``features`` it pairs that with
    features      (others, k)
    targets       (n,) what is to be explained

    Returns (groups, k(k + 1)/2) upper triangles of Σ x xᵀ, and (groups, k) Σ x·target.  The same input gives the
    same bits.
    """
    width = features.shape[1]
    upper = np.triu_indices(width)
    gram = np.zeros((groups, triangle(width)))
    moment = np.zeros((groups, width))
    order = np.argsort(group, kind="stable")
    for start, size, ids in _pieces(np.bincount(group, minlength=groups), width):
        place = np.arange(int(size.max()))
        inside = place < size[:, None]
        rows = order[np.where(inside, start[:, None] + place, 0)]
        x = features[other[rows]]
        x[~inside] = 0.0
        both = np.matmul(x.transpose(0, 2, 1), x)
        np.add.at(gram, ids, both[:, upper[0], upper[1]])
        np.add.at(moment, ids, np.matmul(targets[rows][:, None, :], x)[:, 0])
    return gram, moment


def _pieces(counts: Positions, width: int) -> Iterator[tuple[Positions, Positions, Positions]]:
    """Sorted ratings in pieces of one group each, handed out in batches of about equal length.

    Yields (starts, sizes, groups) of some pieces.  A piece is short enough for one thread to multiply it, so that sums
    do not depend on the number of cores.
    """
    longest = max(16, min(512, (1 << 17) // width**2))
    pieces = -(-counts // longest)
    ids = np.repeat(np.arange(len(counts)), pieces)
    at = np.arange(len(ids)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # number of a piece in its group
    starts = np.repeat(np.cumsum(counts) - counts, pieces) + at * longest
    sizes = np.minimum(longest, counts[ids] - at * longest)
    padded = 1 << np.ceil(np.log2(sizes)).astype(np.int64)
    for length in np.unique(padded).tolist():
        those = np.flatnonzero(padded == length)
        step = max(1, _STEP // length)
        for first in range(0, len(those), step):
            some = those[first : first + step]
            yield starts[some], sizes[some], ids[some]


def predict(mean: float, items: Doubles, users: Doubles, user: Positions, item: Positions) -> Doubles:
    """(n,) ratings by items (items, 1 + width) and users (users, 1 + width), not cut to any range."""
    x, y = items[item], users[user]
    return np.asarray(mean + x[:, 0] + y[:, 0] + np.einsum("nk,nk->n", x[:, 1:], y[:, 1:]), dtype=np.float64)


def _mean(state: Tensors) -> float:
    return float(state[MEAN].astype(np.float64).sum())


def _with_one(solved: Doubles) -> Doubles:
    """(n, 1 + width) solutions to features of the other side: the bias gives way to a one."""
    features = solved.copy()
    features[:, 0] = 1.0
    return features


def _lengths(solved: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.einsum("nk,nk->n", solved, solved)), dtype=np.float64)
