"""FedProx: federated averaging whose local training is held near the broadcast.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, 2020, arXiv:1812.06127, algorithm 2: every department minimises its loss
plus μ/2 ‖θ - θ_t‖², θ_t being what it received, over all that is averaged.  A private head is not held.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from commonroot.common.charter import Draft
from commonroot.strategies.base import Phase
from commonroot.strategies.fedavg import FedAvgFineTune


class FedProx(FedAvgFineTune):
    """FedAvg with a proximal term, and FedAvg's fine-tuning after the last round.

    proximal  μ

    Guarantees
    ----------
    * with ``proximal`` 0 it is ``fedavg-ft``, exactly
    """

    name: ClassVar[str] = "fedprox"

    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """One simultaneous phase, anchored at the broadcast."""
        return tuple(replace(phase, anchor=self.proximal) for phase in super().plan(draft))
