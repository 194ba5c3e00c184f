"""A shared backbone under private heads: FedPer and FedRep, one code path.

FedPer  Arivazhagan, Aggarwal, Singh, Choudhary, 2019, arXiv:1912.00818: backbone and head train simultaneously.
FedRep  Collins, Hassani, Mokhtari, Shakkottai, 2021, arXiv:2102.07078, algorithm 1: first the head on the frozen
        backbone, then the backbone under the frozen head.

Departments may have different labels, different numbers of classes, or regress: no head ever leaves, so none has to fit
another's.  After the last round each department first fits its head to the final backbone and then everything, held
near the broadcast by L2-SP (Kumar, Raghunathan, Jones, Ma, Liang, 2022, arXiv:2202.10054, for that order).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from commonroot.common.charter import Draft
from commonroot.strategies.averaging import AveragedBackbone
from commonroot.strategies.base import Part, Phase

BACKBONE: Final[frozenset[Part]] = frozenset({"backbone"})
HEAD: Final[frozenset[Part]] = frozenset({"head"})
BOTH: Final[frozenset[Part]] = frozenset({"backbone", "head"})

Epochs = Annotated[int, Field(ge=0, le=1000)]


class Personal(AveragedBackbone):
    """Private heads on an averaged backbone.

    head_epochs            passes with the backbone frozen, at the start of a round; 0 for none
    backbone_epochs        passes that move the backbone
    alternating            the head is frozen while the backbone moves (FedRep) instead of moving with it (FedPer)
    fine_tune_head_epochs  head-only passes after the last round
    fine_tune_epochs       passes on everything after those; 0 for none
    fine_tune_rate         factor on the charter's learning rate for those
    anchor                 λ of L2-SP for those

    Guarantees
    ----------
    * no head is in any broadcast or term, whatever the departments' labels are
    * with ``alternating`` false and ``head_epochs`` 0 a round is FedAvg with private heads, exactly
    """

    head_epochs: Epochs = 0
    backbone_epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    alternating: bool = False
    fine_tune_head_epochs: Epochs = 10
    fine_tune_epochs: Epochs = 8
    fine_tune_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.33
    anchor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """Head first where asked, then the backbone with or without the head."""
        head = (Phase(parts=HEAD, epochs=self.head_epochs),) if self.head_epochs else ()
        return (*head, Phase(parts=BACKBONE if self.alternating else BOTH, epochs=self.backbone_epochs))

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """The head on the frozen backbone, then everything near the last broadcast."""
        head = (Phase(parts=HEAD, epochs=self.fine_tune_head_epochs),) if self.fine_tune_head_epochs else ()
        if not self.fine_tune_epochs:
            return head
        tune = Phase(parts=BOTH, epochs=self.fine_tune_epochs, rate=self.fine_tune_rate, anchor=self.anchor)
        return (*head, tune)


class FedPer(Personal):
    """FedPer: simultaneous."""

    name: ClassVar[str] = "fedper"


class FedRep(Personal):
    """FedRep: alternating, the head first."""

    name: ClassVar[str] = "fedrep"

    head_epochs: Epochs = 2
    alternating: bool = True
