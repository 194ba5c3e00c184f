"""Gradient-boosted trees on everybody's rows, from sums of whole-number histograms.

Friedman, 2001 (doi 10.1214/aos/1013203451), second order as in Chen, Guestrin, 2016 (doi 10.1145/2939672.2939785), on
columns cut into slots as in Ke et al., 2017 (LightGBM).  The charter's ``[[columns]]`` say which columns and in how
many bins.  One round counts what the first guess needs; then every round grows one level of one tree per output:

    department   g, h of its rows at the scores of the trees so far, as multiples of 2^-20, once, in every row;
                 per output, node and slot: how many rows, Σ g, Σ h
    coordinator  the best split of every node from the sums (``histogram_trees.choose_splits``); after a tree's last
                 level its leaves, rate · -G / (H + λ), as multiples of 2^-20

so a charter has 1 + trees · depth rounds.  Departments start from their own levels unless the charter says otherwise:
one with many cases and one with few share what tells cases apart, not how many there are.  Own levels stand in no term;
but sums at many made-up trees can be solved for them (SECURITY.md), where without them sums are those of one table.
What is summed are whole numbers below 2^53, and scores are sums of multiples of 2^-20: both are exact in any order, and
every tree is that of the same algorithm on all rows in one table, bit for bit.

What the sums show: per node and slot the number of rows of ALL departments in the sum and their summed gradients, which
in the first tree say how the target goes with every column.  A slot that is empty for all is seen to be; one that holds
a single row shows that row's target to whoever sees the sum, so bins should be few where rows are, or quantiles.
``least_rows`` bounds the rows of a leaf, not of a slot.  Sums of the same histograms over two sets of departments would
differ by exactly those who are in one alone: the counts of a tree's first level are the same in every tree.  So the
charter's cohort floor must be all departments (``check_roster``), and no sum over fewer is ever opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from commonroot.common.backbone.factors import Shapes
from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Gathered, Sums, Tensors
from commonroot.strategies.common_target import CommonTarget
from commonroot.strategies.histogram_trees import Doubles, Ints, Rule, Slots, choose_splits, histogram, walk
from commonroot.strategies.whole_roster import require_everybody

#: Gradients, hessians and leaves are multiples of 2^-BITS.
BITS: Final = 20
UNIT: Final = 2.0**-BITS
#: No leaf and no first guess is further from 0, so that both are float32 without rounding.
LEAF_LIMIT: Final = 8.0
#: A gradient of squared error is cut to this many half ranges of the target.
REACH: Final = 4.0
#: Sums are exact for up to this many departments with ``most_rows`` rows each.
_EXACT: Final = 1 << 53
#: More numbers than this in one term are no longer small messages.
_MOST_NUMBERS: Final = 1 << 23

#: Rounds that are done, first guess, splits, leaves: the broadcast.
GROWN, OFFSET, SPLIT, LEAF = "grown", "offset", "split", "leaf"
#: What a department keeps: its rows' scores by whole trees, how many, and which.
SCORES, THROUGH, WHICH = "scores", "through", "which"


class Boosting(CommonTarget):
    """Histogram gradient boosting over the charter's ``[[columns]]``.

    loss          ``logistic`` for labels, ``squared`` for a value
    labels        of ``logistic``: all of them in order, parted by ``|``; every department's must be these
    low, high     of ``squared``: the range of the target
    depth         levels of a tree; the charter's rounds are 1 + trees · depth
    rate          shrinkage of every leaf
    penalty       λ on the square of a leaf
    least_rows    fewest rows of all departments on either side of a split
    least_weight  least summed hessian on either side
    own_levels    every department's scores start at its own level (``level_of``), which is no term of any sum, so that
                  the trees need not explain why one has more of a label than another
    most_rows     a department with more training rows cannot take part; bounds the sums

    ``gather`` reads ``codes``, (n, columns) positions in the columns' slots; ``target``, (n,) positions of labels, or
    float64 in [-1, 1] of the range; and, where scores start anywhere but at 0, ``base``, (n, outputs), multiples of
    2^-20, the department's level in every row.

    Guarantees
    ----------
    * the ensemble is that of the same rounds on all rows in one table, bit for bit
    * a contribution is a function of the rows and of the trees received
    * trees once broadcast do not change: a department refuses other ones (``check_received``)
    """

    name: ClassVar[str] = "boosting"

    loss: Literal["logistic", "squared"] = "logistic"
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    least_rows: Annotated[int, Field(ge=1)] = 20
    least_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    own_levels: bool = True

    def trees(self, draft: Draft) -> int:
        """Of each output.  Raises ConfigError where the rounds are no whole number of trees."""
        trees, left = divmod(draft.rounds - 1, self.depth)
        if left or not trees:
            raise ConfigError(
                f"{draft.rounds} rounds are no whole number of trees",
                hint=f"1 + trees · {self.depth}, as in {1 + 50 * self.depth}",
            )
        return trees

    @property
    def _reach(self) -> float:
        return 1.0 if self.loss == "logistic" else REACH

    # -- what travels ------------------------------------------------------------------------------------------------

    def broadcast(self, draft: Draft) -> Shapes:
        """Rounds done, first guess, and every tree's splits and leaves, 0 where it has not grown yet."""
        trees, outputs, leaves = self.trees(draft), self.outputs, 1 << self.depth
        return (
            (GROWN, ()),
            (OFFSET, (outputs,)),
            (SPLIT, (trees, outputs, leaves - 1)),
            (LEAF, (trees, outputs, leaves)),
        )

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """``count``, ``gradient`` and, but for squared error, ``hessian`` of every output, node of a level and slot."""
        self.trees(draft)
        shape = (self.outputs, 1 << (self.depth - 1), Slots.of(draft.columns).width)
        if np.prod(shape) > _MOST_NUMBERS:
            raise ConfigError(f"{np.prod(shape)} numbers in a term", hint="fewer bins, or trees of less depth")
        rows = float(self.most_rows)
        found = [
            Term("count", shape, "fixed64", rows),
            Term("gradient", shape, "fixed64", rows * self._reach / UNIT),
        ]
        if self.loss == "logistic":
            found.append(Term("hessian", shape, "fixed64", rows / UNIT))
        if 3 * found[1].bound > _EXACT:
            raise ConfigError("most_rows is too large for exact sums", hint=f"{self.most_rows // 16} is not")
        return tuple(found)

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """No trees."""
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in self.broadcast(draft)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless these are trees over the charter's columns that go on from the earlier ones.

        Which split is best the department cannot tell, for it sees no sums.  A coordinator that makes up trees asks
        for the histograms of other nodes than the best; each such question costs a round, and its answer is a sum.
        """
        grown = float(received[GROWN])
        if version == 0:
            if any(array.any() for array in received.values()):
                raise OutsideCharter("version 0 of boosting is not empty")
            return
        if not (grown.is_integer() and 0 <= grown <= min(version, draft.rounds)):
            raise OutsideCharter("a broadcast of trees says of more rounds than there were")
        for name in (OFFSET, LEAF):
            if not _on_grid(received[name]):
                raise OutsideCharter(f"the {name} received is not in multiples of 2^-{BITS} up to {LEAF_LIMIT}")
        splits = received[SPLIT].astype(np.int64)
        if (splits != received[SPLIT]).any() or not Slots.of(draft.columns).is_split(splits).all():
            raise OutsideCharter("a split received is none of the charter's columns")
        now, was = self._done(draft, int(grown)), self._done(draft, int(earlier[GROWN]))
        for name in now:
            if received[name][~now[name]].any():
                raise OutsideCharter(f"the {name} received is of trees that cannot have grown yet")
            same = was[name]
            if (now[name] < same).any() or (received[name][same] != earlier[name][same]).any():
                raise OutsideCharter("trees that were received before have changed")

    def check_roster(self, draft: Draft, roster: Enrolled) -> None:
        """Raise TooFewDepartments unless all departments are in every sum."""
        require_everybody(draft, roster, "histograms of the same rows")

    def _done(self, draft: Draft, grown: int) -> dict[str, NDArray[np.bool_]]:
        """Which numbers of the broadcast are settled after that many rounds."""
        done = {name: np.zeros(shape, dtype=bool) for name, shape in self.broadcast(draft) if name != GROWN}
        if grown:
            tree, level = divmod(grown - 1, self.depth)
            done[OFFSET][:] = True
            done[SPLIT][:tree] = done[LEAF][:tree] = True
            done[SPLIT][tree : tree + 1, :, : (1 << level) - 1] = True
        return done

    # -- the department's half -----------------------------------------------------------------------------------------

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """Histograms of the level that is to grow.  Raises DataError for more rows than the charter admits."""
        codes = np.asarray(data["codes"])
        self._check_rows(draft, codes, data["target"])
        slots = Slots.of(draft.columns)
        grown = int(state[GROWN])
        tree, level = divmod(grown - 1, self.depth) if grown else (0, 0)
        scores, kept = self._scores(draft, state, codes, data.get("base"), private, tree)
        gradient, hessian = self.slopes(scores, data["target"])
        nodes = 1 << (self.depth - 1)
        found: dict[str, list[Doubles]] = {"count": [], "gradient": [], "hessian": []}
        for output in range(self.outputs):
            splits = state[SPLIT][min(tree, len(state[SPLIT]) - 1), output].astype(np.int64)
            node = walk(slots, splits, codes, level)
            found["count"].append(histogram(slots, codes, node, nodes, None))
            found["gradient"].append(histogram(slots, codes, node, nodes, gradient[:, output]))
            if self.loss == "logistic":
                found["hessian"].append(histogram(slots, codes, node, nodes, hessian[:, output]))
        return Gathered({name: np.stack(arrays) for name, arrays in found.items() if arrays}, kept)

    def slopes(self, scores: Doubles, target: NDArray[np.generic]) -> tuple[Doubles, Doubles]:
        """(n, outputs) first and second derivatives of every row's loss, as whole numbers of 2^-20."""
        if self.loss == "squared":
            away = np.clip(scores - np.asarray(target, np.float64)[:, None], -REACH, REACH)
            return np.rint(away / UNIT), np.full_like(away, 1 / UNIT)
        labels = np.asarray(target, np.int64)
        if self.outputs == 1:
            given = 0.5 * (1.0 + np.tanh(0.5 * scores))
            own = labels[:, None] == 1
        else:
            raised = np.exp(scores - scores.max(axis=1, keepdims=True))
            given = raised / raised.sum(axis=1, keepdims=True)
            own = labels[:, None] == np.arange(self.outputs)
        return np.rint((given - own) / UNIT), np.rint(given * (1.0 - given) / UNIT)

    def level_of(self, target: NDArray[np.generic]) -> Doubles:
        """(outputs,) the logarithms of the labels' shares among a department's rows, each counted once more than it is
        there; or the mean, drawn to the middle by one row.  In multiples of 2^-20; zeros without ``own_levels``."""
        if not self.own_levels:
            return np.zeros(self.outputs)
        if self.loss == "squared":
            return on_grid(np.array([np.asarray(target, np.float64).sum() / (len(target) + 1)]))
        logs = np.log(np.bincount(np.asarray(target, np.int64), minlength=len(self.named)) + 1.0)
        return on_grid(logs[1:] - logs[:1] if self.outputs == 1 else logs - logs.mean())

    def scores_of(self, draft: Draft, state: Tensors, codes: NDArray[np.integer], through: int) -> Doubles:
        """(n, outputs) of the first guess and the first so many trees; exact."""
        out = np.repeat(state[OFFSET].astype(np.float64)[None], len(codes), axis=0)
        return self._grow(draft, state, codes, out, 0, through)

    def _grow(
        self, draft: Draft, state: Tensors, codes: NDArray[np.integer], scores: Doubles, since: int, through: int
    ) -> Doubles:
        slots = Slots.of(draft.columns)
        for tree in range(since, through):
            for output in range(self.outputs):
                at = walk(slots, state[SPLIT][tree, output].astype(np.int64), codes, self.depth)
                scores[:, output] += state[LEAF][tree, output].astype(np.float64)[at]
        return scores

    def _scores(
        self,
        draft: Draft,
        state: Tensors,
        codes: NDArray[np.integer],
        base: NDArray[np.generic] | None,
        private: Mapping[str, NDArray[np.generic]],
        through: int,
    ) -> tuple[Doubles, dict[str, NDArray[np.generic]]]:
        """Scores by whole trees, going on from those kept where they are of the same trees, and what to keep."""
        since = int(np.ravel(private[THROUGH])[0]) if THROUGH in private else -1
        if 0 <= since <= through and np.array_equal(private[WHICH], _name(state, since)):
            scores = self._grow(draft, state, codes, np.array(private[SCORES], np.float64), since, through)
        else:
            scores = self.scores_of(draft, state, codes, through)
        kept: dict[str, NDArray[np.generic]] = {
            SCORES: scores,
            THROUGH: np.array([through], np.int64),
            WHICH: _name(state, through),
        }
        return (scores if base is None else scores + np.asarray(base, np.float64)), kept

    def _check_rows(self, draft: Draft, codes: NDArray[np.generic], target: NDArray[np.generic]) -> None:
        if len(codes) > self.most_rows:
            raise DataError(f"{len(codes)} training rows; the charter admits {self.most_rows}")
        if codes.shape != (len(target), len(draft.columns)):
            raise DataError("the rows have other columns than the charter's")
        if self.loss == "squared" and (np.abs(np.asarray(target, np.float64)) > 1 + 1e-9).any():
            raise DataError(f"a target lies outside the charter's range from {self.low:g} to {self.high:g}")

    # -- the coordinator's half ----------------------------------------------------------------------------------------

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """One level more, or the first guess.  Raises SumRejected where the sums are no histograms of any rows."""
        following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
        grown = int(state[GROWN])
        if grown >= draft.rounds or not np.any(sums["count"]):
            return following
        found = {name: _whole(np.asarray(total, np.float64), name) for name, total in sums.items()}
        if self.loss == "squared":
            found["hessian"] = found["count"] << BITS
        slots = Slots.of(draft.columns)
        tree, level = divmod(grown - 1, self.depth) if grown else (0, 0)
        _check_histograms(slots, found, 1 << level, self._reach)
        if grown == 0:
            following[OFFSET][:] = self._first_guess(slots, found)
        else:
            for output in range(self.outputs):
                rows, first, second = (found[name][output, : 1 << level] for name in ("count", "gradient", "hessian"))
                rule = Rule(self.penalty, self.least_rows, self.least_weight)
                chosen = choose_splits(slots, rows, first, second, UNIT, rule)
                following[SPLIT][tree, output, (1 << level) - 1 : (2 << level) - 1] = chosen.splits
                if level == self.depth - 1:
                    steps = -self.rate * chosen.gradients / np.maximum(chosen.hessians + self.penalty, UNIT)
                    following[LEAF][tree, output] = on_grid(steps).ravel()
        following[GROWN] = np.asarray(grown + 1, dtype=np.float32)
        return following

    def _first_guess(self, slots: Slots, found: Mapping[str, Ints]) -> Doubles:
        """(outputs,) the mean value, or the logarithms of the labels' shares, from gradients at scores of 0.

        Where departments start at their own levels there is next to nothing left for it.
        """
        first = slice(0, int(slots.sizes[0]))
        rows = int(found["count"][0, 0, first].sum())
        away = found["gradient"][:, 0, first].sum(axis=1) * UNIT / rows
        if self.loss == "squared":
            return on_grid(-away)
        share = np.clip((0.5 if self.outputs == 1 else 1 / self.outputs) - away, 1 / (rows + 2), 1 - 1 / (rows + 2))
        logs = np.log(share)
        return on_grid(logs - np.log(1 - share) if self.outputs == 1 else logs - logs.mean())


def grown(
    draft: Draft, data: Mapping[str, NDArray[np.generic]], *, guess: bool = True
) -> dict[str, NDArray[np.float32]]:
    """The charter's own rounds on one set of rows alone: with everybody's rows, the pooled reference.

    guess  False starts at 0, or at ``base`` where the rows have one
    """
    method = Boosting.model_validate(draft.method.options)
    state = method.initial(draft)
    private: Mapping[str, NDArray[np.generic]] = {}
    if not guess:
        state[GROWN] = np.ones((), np.float32)
    for _ in range(draft.rounds - int(not guess)):
        made = method.gather(draft, state, data, private)
        private = made.private
        state = method.combine(draft, state, {name: np.asarray(a, np.float64) for name, a in made.terms.items()})
    return state


def on_grid(values: Doubles) -> Doubles:
    """To the nearest multiple of 2^-20 within ±LEAF_LIMIT."""
    return np.asarray(np.rint(np.clip(values, -LEAF_LIMIT, LEAF_LIMIT) / UNIT) * UNIT)


def _on_grid(values: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(on_grid(values.astype(np.float64)), values))


def _whole(total: Doubles, name: str) -> Ints:
    found = np.rint(total)
    if (found != total).any():
        raise SumRejected(f"the opened {name}s are not whole numbers")
    return found.astype(np.int64)


def _check_histograms(slots: Slots, found: Mapping[str, Ints], nodes: int, reach: float) -> None:
    """Every row stands in one slot of every column, so all columns add up to the same, and in one of the nodes."""
    if (found["count"] < 0).any() or (found["hessian"] < 0).any():
        raise SumRejected("an opened count or hessian is negative")
    for name, one in found.items():
        totals = np.add.reduceat(one, slots.starts, axis=-1)
        if (totals != totals[..., :1]).any():
            raise SumRejected(f"the opened {name}s of different columns are of different rows")
    rows = found["count"][..., : int(slots.sizes[0])].sum(axis=-1)
    if rows[:, nodes:].any() or (rows.sum(axis=1) != rows[0].sum()).any():
        raise SumRejected("the opened counts of different outputs are of other rows than one another, or of no node")
    steepest = {"gradient": reach / UNIT, "hessian": 1 / UNIT}
    if any((np.abs(found[name]) > found["count"] * most).any() for name, most in steepest.items()):
        raise SumRejected("the opened gradients or hessians are larger than so many rows have")


def _name(state: Tensors, through: int) -> NDArray[np.uint8]:
    """A hash of the first guess and the first so many trees."""
    parts = (state[OFFSET], state[SPLIT][:through], state[LEAF][:through])
    told = hashlib.blake2b(b"".join(np.ascontiguousarray(part, "<f4").tobytes() for part in parts), digest_size=32)
    return np.frombuffer(told.digest(), np.uint8)
