"""Federated averaging: everybody trains everything at once, and the changes are averaged.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv:1602.05629, algorithm 1; weighted by √n and clipped, see
``averaging``.  With a shared head every department must use the same labels in the same order, or regress the same
quantity; with private heads only the backbone is averaged.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.strategies.averaging import AveragedBackbone
from commonroot.strategies.base import Phase

#: The head's names once it is everybody's; plain ``head`` is private and refused by every manifest.
COMMON_HEAD_WEIGHT = "common_head/weight"
COMMON_HEAD_BIAS = "common_head/bias"
COMMON_HEAD = (COMMON_HEAD_WEIGHT, COMMON_HEAD_BIAS)


class FedAvg(AveragedBackbone):
    """FedAvg over the backbone and, where ``head = "shared"``, over one common linear head.

    epochs   local passes per round
    head     ``private`` to each department, or ``shared`` by all
    outputs  of the shared head: the number of classes, 1 for two classes or a value; only with ``head = "shared"``

    Guarantees
    ----------
    * with one local full-batch step and no clipping, a round is one step of gradient descent on the √n-weighted loss
    * a private head is in no broadcast and no term
    """

    name: ClassVar[str] = "fedavg"

    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    head: Literal["private", "shared"] = "private"
    outputs: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if (self.head == "shared") != (self.outputs is not None):
            raise ValueError('outputs is needed with head = "shared", and only then')
        return self

    @property
    def shares_head(self) -> bool:
        """True with ``head = "shared"``."""
        return self.head == "shared"

    def common(self, draft: Draft) -> Shapes:
        """The backbone's tensors, then those of a shared head."""
        if self.outputs is None:
            return super().common(draft)
        head = ((COMMON_HEAD_WEIGHT, (self.outputs, draft.network.outputs)), (COMMON_HEAD_BIAS, (self.outputs,)))
        return (*super().common(draft), *head)

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """One simultaneous phase."""
        return (Phase(parts=frozenset({"backbone", "head"}), epochs=self.epochs),)

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """Nothing: every department keeps the common model."""
        return ()


class FedAvgFineTune(FedAvg):
    """FedAvg, then a few private epochs from the last average, held near it by L2-SP.

    Li, Grandvalet, Davoine, 2018, arXiv:1802.01483.

    fine_tune_epochs  passes after the last round
    fine_tune_rate    factor on the charter's learning rate
    anchor            λ of L2-SP
    """

    name: ClassVar[str] = "fedavg-ft"

    fine_tune_epochs: Annotated[int, Field(ge=1, le=1000)] = 8
    fine_tune_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.33
    anchor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """One anchored phase on everything."""
        both = frozenset[Literal["backbone", "head"]]({"backbone", "head"})
        return (Phase(parts=both, epochs=self.fine_tune_epochs, rate=self.fine_tune_rate, anchor=self.anchor),)
