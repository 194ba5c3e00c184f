"""Federated averaging: everybody trains everything at once, and the changes are averaged.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv:1602.05629, algorithm 1; weighted by √n and clipped, see
``averaging``.  With a shared head every department must use the same labels in the same order, or regress the same
quantity; with private heads only the backbone is averaged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.common.manifest import Term
from commonroot.strategies import label_evidence
from commonroot.strategies.averaging import AveragedBackbone
from commonroot.strategies.base import Form, LocalResult, Phase, Sums, Tensors

#: The head's names once it is everybody's; plain ``head`` is private and refused by every manifest.
COMMON_HEAD_WEIGHT = "common_head/weight"
COMMON_HEAD_BIAS = "common_head/bias"
COMMON_HEAD = (COMMON_HEAD_WEIGHT, COMMON_HEAD_BIAS)


class FedAvg(AveragedBackbone):
    """FedAvg over the backbone and, where ``head = "shared"``, over one common linear head.

    epochs   local passes per round
    head     ``private`` to each department, or ``shared`` by all
    outputs  of the shared head: the number of classes, 1 for two classes or a value; only with ``head = "shared"``
    label_evidence  the last round trains nothing and tells how well the common model does on each label
             (``label_evidence``), for departments that expect labels which they never met; only with ``head =
             "shared"``, and only where the tasks are ones of labels

    Guarantees
    ----------
    * with one local full-batch step and no clipping, a round is one step of gradient descent on the √n-weighted loss
    * a private head is in no broadcast and no term
    * with ``label_evidence`` what is told in the last round is told of the model that is kept, and in no other round
    """

    name: ClassVar[str] = "fedavg"

    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    head: Literal["private", "shared"] = "private"
    outputs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    label_evidence: bool = False

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if (self.head == "shared") != (self.outputs is not None):
            raise ValueError('outputs is needed with head = "shared", and only then')
        if self.label_evidence and (self.head != "shared" or self.server != "average"):
            raise ValueError('label_evidence needs head = "shared" and server = "average"')
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

    @property
    def known_labels(self) -> int:
        """How many labels a shared head tells apart; 0 where nothing is told of them."""
        if not self.label_evidence or self.outputs is None:
            return 0
        return 2 if self.outputs == 1 else self.outputs

    def form(self, draft: Draft) -> Form:
        """With the losses by label as a result of training."""
        return replace(super().form(draft), label_evidence=self.label_evidence)

    def broadcast(self, draft: Draft) -> Shapes:
        """What is averaged, then what is told of labels."""
        if not self.known_labels:
            return super().broadcast(draft)
        return (*super().broadcast(draft), *label_evidence.evidence_shapes(self.known_labels))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Those of averaging, and what is told of labels."""
        if not self.known_labels:
            return super().terms(draft)
        if draft.rounds < 2:
            raise ConfigError("the last round tells how well the model does that the others made", hint="rounds = 2")
        return (*super().terms(draft), *label_evidence.evidence_terms(self.known_labels))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """Nothing is told yet."""
        found = super().initial(draft)
        return found | label_evidence.unknown(self.known_labels) if self.known_labels else found

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """As averaging does it, and in the last round the losses by label."""
        found = super().contribute(draft, state, result)
        if not self.known_labels:
            return found
        return found | label_evidence.contribution(result.label_losses, self.known_labels)

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The average, and what was told."""
        found = super().combine(draft, state, sums)
        return found | label_evidence.opened(sums) if self.known_labels else found

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a broadcast that no honest rounds can have led to from an earlier one."""
        super().check_received(draft, received, version, earlier, earlier_version)
        if self.known_labels:
            label_evidence.check_evidence(received, version, draft.rounds)

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
