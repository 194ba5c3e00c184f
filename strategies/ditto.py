"""Ditto: everybody helps to train a common model, and keeps one of its own that is held near it.

Li, Hu, Beirami, Smith, 2021, arXiv:2012.04221, algorithm 1: each round a department trains what it received for the
others, as in FedAvg, and then its personal copy v on  loss + λ/2 ‖v - θ_t‖².  The copy is the model it ends up with,
so a department whose rows are unlike the others' loses nothing to the average; λ says how much it takes from it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from commonroot.common.charter import Draft
from commonroot.strategies.base import Phase
from commonroot.strategies.fedavg import FedAvg
from commonroot.strategies.personal import BOTH


class Ditto(FedAvg):
    """FedAvg beside a private copy of the whole network.

    copy_epochs    passes of the copy per round
    finish_epochs  passes of the copy after the last round
    anchor         λ, on all that is averaged

    Guarantees
    ----------
    * the copy changes no term and no broadcast: what departments contribute is FedAvg's, exactly
    * with ``anchor`` 0 the copy learns nothing from the others but its start
    """

    name: ClassVar[str] = "ditto"

    copy_epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    finish_epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    anchor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """FedAvg's phase, then the copy's."""
        return (*super().plan(draft), self._copy(self.copy_epochs))

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """The copy once more, near the last broadcast."""
        return (self._copy(self.finish_epochs),)

    def _copy(self, epochs: int) -> Phase:
        return Phase(parts=BOTH, epochs=epochs, anchor=self.anchor, copy=True)
