"""Self-training: a department without labels learns from what the common model says of its rows, as far as it is sure.

Lee, 2013, "Pseudo-Label", ICML workshop; trusted more and more of it, the surest first and every label in its share, as
Zou, Yu, Kumar, Wang, 2018, "Class-Balanced Self-Training", arXiv:1810.07911, section 4.2:

    labelled     terms as in FedAvg, and w_k, and w_k·(share of each label in its training rows)
    unlabelled   ŷ = what the received model says of its rows, every label as frequent as with the others; the surest
                 trust·version/rounds of each label are trained on as if they were known, the rest is left alone

A model that is asked about other rows than it was made from leans to one label first of all, and would teach itself to
lean further.  That labels are as frequent here as with the others is an assumption, and the whole protection against
that: where it is known to be wrong, the method is the wrong one.

An unlabelled department weighs the same whatever rows it has.  All weights together less those of the
labelled departments would otherwise tell how many rows a single one has; like this it tells how many such departments
there are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.averaging import (
    LABELLED,
    WEIGHT_STEPS,
    department_weight,
    participation,
    weighted_change,
)
from commonroot.strategies.base import Form, LocalResult, Phase, Sums, Tensors
from commonroot.strategies.fedavg import FedAvg

#: Mean share of each label over the labelled departments; zeros before the first sum.
SHARES: Final = "labels/share"


class SelfTraining(FedAvg):
    """FedAvg with a shared head, in which departments without labels take part.

    trust              share of its own answers that an unlabelled department trusts at the end; 0 for none
    unlabelled_weight  what such a department weighs once all is trusted, beside √(rows / weight_cap) of the others

    Guarantees
    ----------
    * without an unlabelled department, and for those with labels, a round is FedAvg's with a shared head, exactly
    * version 0 is trusted nowhere: the first round of an unlabelled department is not led by its own answers
    * whatever is said about a department without labels is in no other term than its weighted change
    """

    name: ClassVar[str] = "self-training"

    head: Literal["private", "shared"] = "shared"
    trust: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    unlabelled_weight: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _head_is_shared(self) -> Self:
        if self.head != "shared":
            raise ValueError("whoever has no labels has no head of its own; head must be shared")
        return self

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return 2 if self.outputs == 1 else int(self.outputs or 0)

    def form(self, draft: Draft) -> Form:
        """With the labels' shares as a result of training."""
        return replace(super().form(draft), unlabelled=True)

    def broadcast(self, draft: Draft) -> Shapes:
        """What is averaged, then the labels' shares."""
        return (*super().broadcast(draft), (SHARES, (self.labels,)))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Those of averaging, the weight of the labelled, and their labels' weighted shares."""
        labelled = Term(LABELLED, (), "fixed64", 1.0)
        return (*super().terms(draft), labelled, Term(SHARES, (self.labels,), "fixed64", 1.0))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """No shares yet."""
        return super().initial(draft) | {SHARES: np.zeros(self.labels, dtype=np.float32)}

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """FedAvg's phase; its pseudo-labels concern departments without labels alone."""
        return tuple(replace(phase, trust=self.trust) for phase in super().plan(draft))

    def weight(self, draft: Draft, result: LocalResult) -> float:
        """One department's weight; without labels it grows with what is trusted, the same in every such department."""
        if result.labelled:
            return department_weight(draft, result.rows)
        return math.ceil(self.unlabelled_weight * result.trusted * WEIGHT_STEPS) / WEIGHT_STEPS

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's change, participation and label shares.  Raises ValueError where those are missing."""
        weight, shapes = self.weight(draft, result), self.common(draft)
        changes = weighted_change(draft, shapes, state, result, weight=weight)
        if not result.labelled:
            nothing: dict[str, NDArray[np.floating]] = {name: np.zeros(()) for name in ("loss", "held_out", LABELLED)}
            return {**changes, "weight": np.asarray(weight), **nothing, SHARES: np.zeros(self.labels)}
        if result.shares is None:
            raise ValueError("training gave no shares of labels")
        shares = weight * np.clip(result.shares.astype(np.float64), 0.0, 1.0)
        return {**changes, **participation(draft, result), LABELLED: np.asarray(weight), SHARES: shares}

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state moved by the mean change, and the labels' mean shares.

        Raises SumRejected for shares or weights that no departments add up to.
        """
        following = super().combine(draft, state, sums)
        weight, labelled = float(sums["weight"]), float(sums[LABELLED])
        if not -1e-6 <= labelled <= weight * (1 + 1e-6) + 1e-6:
            raise SumRejected("the opened weight of labelled departments is not a part of all departments' weight")
        if labelled <= 1e-6:
            return following
        shares = np.asarray(sums[SHARES], dtype=np.float64) / labelled
        if not (shares.min() >= -1e-6 and abs(float(shares.sum()) - 1.0) <= 1e-3):
            raise SumRejected("the opened shares of labels do not sum to one")
        return following | {SHARES: np.clip(shares, 0.0, 1.0).astype(np.float32)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a backbone or shares that no honest rounds can have led to."""
        super().check_received(draft, received, version, earlier, earlier_version)
        shares = received[SHARES].astype(np.float64)
        total = float(shares.sum())
        if not (shares.min() >= 0.0 and (abs(total - 1.0) <= 2e-3 or total == 0.0)) or (version == 0 and total):
            raise OutsideCharter(f"version {version} comes with shares of labels that no sum has given")
