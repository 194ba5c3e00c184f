"""DANN in alternating steps: representations in which departments with and without labels cannot be told apart.

Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky, 2016, arXiv:1505.07818.  The paper trains
a domain classifier and, through a reversed gradient, a body against it, in one place.  Here each department has rows
of one domain alone, and the two halves alternate over sums:

    critic   the body stands still: one Newton step on everybody's domain loss, from summed gradients (``critic``)
    body     the critic stands still: local steps on  CE / chance + λ·CE(uniform, critic(z)) / log 2,
             without the first part where there are no labels

This form of the body's loss asks for a critic that knows nothing instead of one that is wrong (Tzeng, Hoffman, Darrell,
Saenko, 2015, arXiv:1510.02192, equation 5), which has a minimum to come to rest at.  Both halves start from the same
broadcast, so a round is one simultaneous step of the two players.

A critic says, by its nature, in what the departments without labels differ from the others.  Where only one has none,
that is something about this department alone: the difference of mean representations, seen through a linear map.
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
from commonroot.strategies import critic
from commonroot.strategies.averaging import LABELLED
from commonroot.strategies.base import LocalResult, Phase, Sums, Tensors
from commonroot.strategies.self_training import SelfTraining


class DANN(SelfTraining):
    """Domain-adversarial training; with ``trust`` the unlabelled also train themselves.

    confusion     λ
    critic_ridge  of the critic's weights, in multiples of its mean curvature
    reach         elements of a representation are clipped to ± this before the critic is trained on them

    Guarantees
    ----------
    * with one local full-batch step and no clipping, a round is one simultaneous centralised step of body and critic
    * the critic that comes out is what the same sums of all rows in one place give
    * version 0 pulls nobody anywhere, nor does a federation in which everybody has labels
    """

    name: ClassVar[str] = "dann"

    trust: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    confusion: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.1
    critic_ridge: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 0.01
    reach: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 10.0

    def broadcast(self, draft: Draft) -> Shapes:
        """What self-training broadcasts, then the critic."""
        return (*super().broadcast(draft), *critic.shapes(draft.network.outputs))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Those of self-training, and gradient and curvature of the critic."""
        return (*super().terms(draft), *critic.terms(draft.network.outputs, self.reach))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """A critic that knows nothing: zeros."""
        unknown = critic.shapes(draft.network.outputs)
        return super().initial(draft) | {name: np.zeros(shape, dtype=np.float32) for name, shape in unknown}

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """Self-training's phase, with the critic to be confused."""
        return tuple(replace(phase, confusion=self.confusion) for phase in super().plan(draft))

    def weight(self, draft: Draft, result: LocalResult) -> float:
        """One department's weight; without labels ``unlabelled_weight``, for all its rows are trained on."""
        return super().weight(draft, result if result.labelled else replace(result, trusted=1.0))

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's terms.  Raises ValueError where the representation of its rows is missing."""
        if result.seen is None:
            raise ValueError("training gave no representation of the rows")
        weight = self.weight(draft, result)
        found = critic.contribution(state, result.seen, labelled=result.labelled, weight=weight, reach=self.reach)
        return {**super().contribute(draft, state, result), **found}

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state moved by the mean change, and the critic by its step."""
        following = super().combine(draft, state, sums)
        weight, labelled = float(sums["weight"]), float(sums[LABELLED])
        return following | critic.stepped(state, sums, weight=weight, labelled=labelled, ridge=self.critic_ridge)

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a backbone, shares or a critic that no honest rounds can have led to."""
        super().check_received(draft, received, version, earlier, earlier_version)
        critic.check(received, version)
