"""The two halves that every averaging method shares: weigh and clip at the department, divide sums at the coordinator.

    w_k   = √(min(n_k, cap) / cap)                                  in (0, 1]
    Δ_k   = clip(trained_k - received, C)                           jointly over all broadcast tensors, in L2
    terms = w_k·Δ_k, w_k, w_k·loss_k, w_k·held_out_k
    state = state + Σ w_k Δ_k / Σ w_k

√n instead of n, and the clip, keep one big and noisy department from drowning the others; dividing two opened sums
means that nobody's row count is ever sent.  Clipping as in McMahan, Ramage, Talwar, Zhang, 2018, arXiv:1710.06963.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import LocalResult, Sums, Tensors

#: Losses are in multiples of the chance loss, so anything beyond this many says no more than "hopeless".
LOSS_LIMIT = 100.0
#: An element of a tensor with d elements may reach this many times update_clip/√d; see ``element_bound``.
SPREAD = 8.0
#: Weights are multiples of one part in this many.
WEIGHT_STEPS = 64
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
    draft: Draft, shapes: Shapes, state: Tensors, result: LocalResult
) -> dict[str, NDArray[np.floating]]:
    """One department's ``update/…`` terms: the change, clipped jointly in L2, times the weight, clipped per element."""
    changes = {name: result.shared[name].astype(np.float64) - state[name] for name, _ in shapes}
    norm = math.sqrt(sum(float(np.vdot(change, change)) for change in changes.values()))
    factor = department_weight(draft, result.rows) * min(1.0, draft.training.update_clip / max(norm, 1e-300))
    terms: dict[str, NDArray[np.floating]] = {}
    for name, shape in shapes:
        bound = element_bound(draft, math.prod(shape))
        terms[f"update/{name}"] = np.clip(factor * changes[name], -bound, bound)
    return terms


def add_average(draft: Draft, shapes: Shapes, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
    """state + Σ wΔ / Σ w, in float64 and then float32; a sum without weight leaves the state as it was.

    Raises SumRejected for what no honest departments add up to: a weight below one step, negative losses, or a mean
    longer than what each of its parts was clipped to.
    """
    following = {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
    weight = float(sums["weight"])
    if weight == 0.0:
        return following
    if weight < (1 - 1e-6) / WEIGHT_STEPS or min(float(sums["loss"]), float(sums["held_out"])) < -1e-6:
        raise SumRejected("the opened weights or losses are not a sum of any departments' weights or losses")
    means = {name: np.asarray(sums[f"update/{name}"], dtype=np.float64) / weight for name, _ in shapes}
    length = math.sqrt(sum(float(np.vdot(mean, mean)) for mean in means.values()))
    if not length <= draft.training.update_clip * SLACK:
        raise SumRejected(f"the mean change has length {length:.3g}; each part was clipped to less")
    for name, _ in shapes:
        following[name] = (state[name].astype(np.float64) + means[name]).astype(np.float32)
    return following


def check_step(
    draft: Draft, shapes: Shapes, received: Tensors, version: int, earlier: Tensors, earlier_version: int
) -> None:
    """Raise OutsideCharter for a backbone that honest rounds cannot have led to.

    Each round moves it by a mean of changes that were clipped to C, so between two versions it moves by C per version
    at the most.  What is received may still have been chosen by a lying coordinator, but only that near.
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


def mean_losses(sums: Sums) -> dict[str, float]:
    """The weighted mean losses of the departments that were summed, in multiples of the chance loss.

    ``loss`` of the last training epoch, ``held_out`` of the model as it was received; empty for a sum without weight.
    """
    weight = float(sums.get("weight", 0.0))  # a gathering has none
    return {name: float(sums[name]) / weight for name in ("loss", "held_out")} if weight > 0 else {}


class AveragedBackbone(BaseModel):
    """The parts that averaging methods have in common; fields of a subclass are its options in the charter.

    Guarantees
    ----------
    * looks only at sums, so it runs unchanged under secure aggregation
    * a round nobody answered leaves the state as it was
    * pure: inputs are never written to
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def shares_head(self) -> bool:
        """Whether the head is averaged like the backbone; private unless a method says otherwise."""
        return False

    def broadcast(self, draft: Draft) -> Shapes:
        """The backbone's tensors."""
        return draft.network.shapes()

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """The weighted change of every broadcast tensor, and the participation scalars."""
        return average_terms(draft, self.broadcast(draft))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """The backbone that the charter's seed gives."""
        return draft.network.initial(draft.training.seed)

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's weighted, clipped change and participation."""
        change = weighted_change(draft, self.broadcast(draft), state, result)
        return {**change, **participation(draft, result)}

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state moved by the weighted mean of the changes."""
        return add_average(draft, self.broadcast(draft), state, sums)

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a broadcast that no honest rounds can have led to from an earlier one."""
        check_step(draft, self.broadcast(draft), received, version, earlier, earlier_version)
