"""The two halves that every averaging method shares: weigh and clip at the department, divide sums at the coordinator.

    w_k   = √(min(n_k, cap) / cap)                                  in (0, 1]
    Δ_k   = clip(trained_k - received, C)                           jointly over all broadcast tensors, in L2
    terms = w_k·Δ_k, w_k, w_k·loss_k, w_k·held_out_k
    state = state + Σ w_k Δ_k / Σ w_k                       or what ``server`` makes of that mean

√n instead of n, and the clip, keep one big and noisy department from drowning the others; dividing two opened sums
means that nobody's row count is ever sent.  Clipping as in McMahan, Ramage, Talwar, Zhang, 2018, arXiv:1710.06963.

Tensors that different departments contribute to (a family's head) form groups, each divided by the weights of those
who do; Δ_k is clipped over all groups at once, so no group's mean is longer than C either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Form, LocalResult, Sums, Tensors
from commonroot.strategies.families import Group, family_group, family_of
from commonroot.strategies.server import ServerStep

#: Losses are in multiples of the chance loss, so anything beyond this many says no more than "hopeless".
LOSS_LIMIT = 100.0
#: An element of a tensor with d elements may reach this many times update_clip/√d; see ``element_bound``.
SPREAD = 8.0
#: Weights are multiples of one part in this many.
WEIGHT_STEPS = 64
#: The term with the weight of departments that have labels, in methods where others take part.
LABELLED = "labelled"
#: A sum with less weight than this is no sum.
LEAST_WEIGHT = (1 - 1e-6) / WEIGHT_STEPS
#: How much further than the clip a round may move the backbone: rounding to lanes adds a little to each part.
SLACK = 1.25


def department_weight(draft: Draft, rows: int) -> float:
    """√(rows / weight_cap), at most 1, rounded up to a multiple of 1/64.

    A sum of exact square roots of whole numbers can be taken apart into its summands again, and would show every
    department's rows; a sum of multiples of 1/64 shows no more than their sum.
    """
    cap = draft.training.weight_cap
    return math.ceil(math.sqrt(min(rows, cap) / cap) * WEIGHT_STEPS) / WEIGHT_STEPS


def element_bound(draft: Draft, size: int) -> float:
    """The bound on one element of a weighted change of a tensor with ``size`` elements.

    The whole change has an L2 norm of at most C, so no element exceeds C, and at most size/64 elements can exceed
    8·C/√size (Markov's inequality on the squares).  Giving those few up buys √size/8 times the resolution of C.
    """
    clip = draft.training.update_clip
    return min(clip, SPREAD * clip / math.sqrt(size))


def average_terms(draft: Draft, shapes: Shapes) -> tuple[Term, ...]:
    """``update/<tensor>`` for every tensor, then the scalars ``weight``, ``loss`` and ``held_out``."""
    updates = tuple(
        Term(f"update/{name}", shape, "fixed16", element_bound(draft, math.prod(shape))) for name, shape in shapes
    )
    return (*updates, *participation_terms())


def participation_terms() -> tuple[Term, ...]:
    """What every department contributes whatever the method: its weight and its weighted losses."""
    return (
        Term("weight", (), "fixed64", 1.0),
        Term("loss", (), "fixed64", LOSS_LIMIT),
        Term("held_out", (), "fixed64", LOSS_LIMIT),
    )


def participation(draft: Draft, result: LocalResult) -> dict[str, NDArray[np.floating]]:
    """One department's weight and weighted losses."""
    weight = department_weight(draft, result.rows)
    return {
        "weight": np.asarray(weight, dtype=np.float64),
        "loss": np.asarray(weight * min(max(result.loss, 0.0), LOSS_LIMIT), dtype=np.float64),
        "held_out": np.asarray(weight * min(max(result.held_out, 0.0), LOSS_LIMIT), dtype=np.float64),
    }


def weighted_change(
    draft: Draft, shapes: Shapes, state: Tensors, result: LocalResult, *, weight: float | None = None
) -> dict[str, NDArray[np.floating]]:
    """One department's ``update/…`` terms: the change, clipped jointly in L2, times the weight, clipped per element.

    weight  that of its rows where not given
    """
    weight = department_weight(draft, result.rows) if weight is None else weight
    changes = {name: np.subtract(result.shared[name], state[name], out=np.empty(shape)) for name, shape in shapes}
    norm = math.sqrt(sum(float(np.vdot(change, change)) for change in changes.values()))
    factor = weight * min(1.0, draft.training.update_clip / max(norm, 1e-300))
    terms: dict[str, NDArray[np.floating]] = {}
    for name, change in changes.items():
        bound = element_bound(draft, change.size)
        change *= factor
        np.maximum(change, -bound, out=change)  # np.clip takes three times as long for small tensors
        terms[f"update/{name}"] = np.minimum(change, bound, out=change)
    return terms


def add_average(
    draft: Draft, groups: Sequence[Group], state: Tensors, sums: Sums, server: ServerStep
) -> dict[str, NDArray[np.float32]]:
    """The state moved by Σ wΔ / Σ w, in float64 and then float32; a sum without weight leaves the state as it was.

    Raises SumRejected for what no honest departments add up to: a weight below one step, negative losses, or a mean
    longer than what each of its parts was clipped to.
    """
    following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
    weight = float(sums["weight"])
    if weight == 0.0:
        return following
    if weight < LEAST_WEIGHT or min(float(sums["loss"]), float(sums["held_out"])) < -1e-6:
        raise SumRejected("the opened weights or losses are not a sum of any departments' weights or losses")
    for group in groups:
        share = float(sums[group.share])
        if share == 0.0:  # no member of a family was there
            continue
        if not LEAST_WEIGHT <= share <= weight * (1 + 1e-6):
            raise SumRejected(f"the opened weight of {group.share!r} is not a part of all departments' weight")
        means = {name: np.asarray(sums[f"update/{name}"], dtype=np.float64) / share for name, _ in group.shapes}
        length = math.sqrt(sum(float(np.vdot(mean, mean)) for mean in means.values()))
        if not length <= draft.training.update_clip * SLACK:
            raise SumRejected(f"the mean change has length {length:.3g}; each part was clipped to less")
        following |= server.stepped(state, means, clip=draft.training.update_clip)
    return following


def check_step(
    draft: Draft, shapes: Shapes, received: Tensors, version: int, earlier: Tensors, earlier_version: int
) -> None:
    """Raise OutsideCharter for a backbone that honest rounds cannot have led to.

    Each round moves it by a mean of changes that were clipped to C, or by a step that was (``server``), so between two
    versions it moves by C per version at the most.  What is received may still have been chosen by a lying
    coordinator, but only that near.
    """
    square = 0.0
    for name, _ in shapes:
        change = received[name].astype(np.float64) - earlier[name]
        square += float(np.vdot(change, change))
    reach = (version - earlier_version) * draft.training.update_clip * SLACK
    if not math.sqrt(square) <= reach:
        raise OutsideCharter(
            f"version {version} lies {math.sqrt(square):.3g} from version {earlier_version}; "
            f"rounds under this charter move the backbone by {reach:.3g} at the most"
        )


def losses_of(draft: Draft, version: int) -> tuple[str, ...]:
    """The losses that are summed when departments train on this version."""
    return ("loss", "held_out") if draft.scores(version) else ("loss",)


def mean_losses(draft: Draft, version: int, sums: Sums) -> dict[str, float]:
    """The weighted mean losses of the departments that were summed, in multiples of the chance loss.

    ``loss`` of the last training epoch, ``held_out`` of the model as it was received, where the charter has this
    version scored; empty for a sum without weight.  Who has no labels has no losses, and no part in these means.
    """
    weight = float(sums.get(LABELLED, sums.get("weight", 0.0)))  # a gathering has none
    return {name: float(sums[name]) / weight for name in losses_of(draft, version)} if weight > 0 else {}


class AveragedBackbone(ServerStep):
    """The parts that averaging methods have in common; fields of a subclass are its options in the charter.

    private_norms  gains and shifts of the backbone's normalisations stay in the department instead of being averaged
                   (FedBN: Li, Jiang, Zhang, Kamp, Dou, 2021, arXiv:2102.07623)

    Guarantees
    ----------
    * looks only at sums, so it runs unchanged under secure aggregation
    * a round nobody answered leaves the state as it was
    * pure: inputs are never written to
    """

    private_norms: bool = False

    _department: str = PrivateAttr("")

    @property
    def shares_head(self) -> bool:
        """Whether the head is averaged like the backbone; private unless a method says otherwise."""
        return False

    def as_department(self, name: str) -> Self:
        """A copy that contributes as this department does."""
        made = self.model_copy()
        made._department = name
        return made

    def form(self, draft: Draft) -> Form:
        """With the department's family and its private norms, where there are any."""
        family = family_of(draft, self._department)
        return Form(head=self.shares_head, norms=self._norms(draft), family=None if family is None else family.name)

    def groups(self, draft: Draft) -> tuple[Group, ...]:
        """What is averaged: by everybody first, then by each family.  Raises ConfigError for families without use."""
        if self.shares_head and draft.families:
            raise ConfigError(
                "the charter has families and a head that everybody shares",
                hint="a family's head stands beside private heads; leave one of the two out",
            )
        return (Group("weight", self.common(draft)), *(family_group(draft, family) for family in draft.families))

    def common(self, draft: Draft) -> Shapes:
        """The tensors that every department trains and contributes to."""
        norms = self._norms(draft)
        return tuple((name, shape) for name, shape in draft.network.shapes() if name not in norms)

    def broadcast(self, draft: Draft) -> Shapes:
        """The tensors of every group."""
        return tuple(tensor for group in self.groups(draft) for tensor in group.shapes)

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """The weighted change of every averaged tensor, the participation scalars, and the weight of each family."""
        groups = self.groups(draft)
        shares = tuple(Term(group.share, (), "fixed64", 1.0) for group in groups[1:])
        return (*average_terms(draft, tuple(tensor for group in groups for tensor in group.shapes)), *shares)

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """The backbone that the charter's seed gives; heads start at zero, which favours no class."""
        drawn = draft.network.initial(draft.training.seed)
        averaged = tuple(tensor for group in self.groups(draft) for tensor in group.shapes)
        state = {name: drawn[name] if name in drawn else np.zeros(shape, dtype=np.float32) for name, shape in averaged}
        return state | self.first_buffers(averaged)

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's weighted, clipped change and participation; zeros for families that it is not of."""
        everyone, *families = self.groups(draft)
        own = family_of(draft, self._department)
        shapes, terms = everyone.shapes, participation(draft, result)
        for group, family in zip(families, draft.families, strict=True):
            if family is own:
                shapes = (*shapes, *group.shapes)
                terms[group.share] = terms["weight"]
            else:
                terms |= {f"update/{name}": np.zeros(shape) for name, shape in group.shapes}
                terms[group.share] = np.zeros(())
        return {**weighted_change(draft, shapes, state, result), **terms}

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state moved by the weighted mean of the changes, or by what ``server`` makes of it."""
        return add_average(draft, self.groups(draft), state, sums, self)

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a broadcast that no honest rounds can have led to from an earlier one."""
        for group in self.groups(draft):
            check_step(draft, group.shapes, received, version, earlier, earlier_version)

    def _norms(self, draft: Draft) -> frozenset[str]:
        return norms_of(draft.network.shapes()) if self.private_norms else frozenset()


def norms_of(shapes: Shapes) -> frozenset[str]:
    """Names of the tensors of normalisation layers: gains and shifts."""
    return frozenset(name for name, _ in shapes if name.rpartition(".")[2] in ("gain", "shift"))
