"""FedDBE, the usual method: private heads and feature biases, and representations drawn to a common mean.

Zhang, Hua, Cao, Wang, Song, Xue, Ma, Cao, Guan, 2023, "Eliminating Domain Bias for Federated Learning in Representation
Space", arXiv:2311.14975:

    o_k = H_φk(z + β_k),   z = B_θ(x)
    L_k = loss / chance + κ‖mean_batch(z) - m̄‖²/d

Departments' representations drift apart round by round, because each bends the common backbone towards its own rows.
m̄ is where all of them together lie (``consensus``); the second term holds every department there, and β_k gives its
head back what that takes away.  The paper averages heads and fixes m̄ before the rounds; here heads are private, since
labels may differ, and m̄ follows the backbone, one sum behind.

With a linear head and a linear private bias, β_k is no more than another bias: W(z + β) + b = Wz + (Wβ + b).  What is
kept at the end is that one linear map.  In training it moves at another rate than b does, and beside a family's head
it is the department's alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.manifest import Term
from commonroot.strategies import consensus
from commonroot.strategies.averaging import department_weight
from commonroot.strategies.base import Form, LocalResult, Phase, Sums, Tensors
from commonroot.strategies.personal import Personal


class FedDBE(Personal):
    """FedPer with a private feature bias and a pull towards the consensus mean.

    feature_bias  β_k is trained
    pull          κ
    mean_limit    every element of a department's mean representation is clipped to ± this

    Guarantees
    ----------
    * with ``pull`` 0 and ``feature_bias`` false nothing but the broadcast differs from ``fedper``
    * version 0 pulls nobody anywhere
    * one department moves any element of m̄·Σw by ``mean_limit`` at the most
    """

    name: ClassVar[str] = "feddbe"

    feature_bias: bool = True
    pull: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.0
    mean_limit: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 10.0

    def form(self, draft: Draft) -> Form:
        """With a feature bias, and the mean representation as a result."""
        return replace(super().form(draft), shift=self.feature_bias, centre=True)

    def broadcast(self, draft: Draft) -> Shapes:
        """What is averaged, then the consensus mean."""
        return (*super().broadcast(draft), *consensus.consensus_shapes(draft.network.outputs))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Those of averaging, and the weighted mean representation."""
        return (*super().terms(draft), consensus.consensus_term(draft.network.outputs, self.mean_limit))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """No consensus yet: zeros, and a flag that says so."""
        unknown = consensus.consensus_shapes(draft.network.outputs)
        return super().initial(draft) | {name: np.zeros(shape, dtype=np.float32) for name, shape in unknown}

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """FedPer's phases, with the pull where the backbone moves."""
        phases = super().plan(draft)
        return tuple(replace(phase, pull=self.pull) if "backbone" in phase.parts else phase for phase in phases)

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's change, participation and mean representation.  Raises ValueError where that is missing."""
        if result.centre is None:
            raise ValueError("training gave no mean representation")
        weight = department_weight(draft, result.rows)
        mean = consensus.contribution(result.centre, weight, self.mean_limit)
        return {**super().contribute(draft, state, result), consensus.MEAN: mean}

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state moved by the mean change, and the consensus of those who were summed."""
        following, weight = super().combine(draft, state, sums), float(sums["weight"])
        return following if weight == 0.0 else following | consensus.agreed(sums, weight, self.mean_limit)

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a backbone or a mean that no honest rounds can have led to."""
        super().check_received(draft, received, version, earlier, earlier_version)
        consensus.check_consensus(received, version, self.mean_limit)
