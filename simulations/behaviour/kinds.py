"""Every kind of ``[[behaviour]]``, by the word that names it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from commonroot.simulations.behaviour.arrival import Arrival
from commonroot.simulations.behaviour.diurnal import Diurnal
from commonroot.simulations.behaviour.dropout import Dropout
from commonroot.simulations.behaviour.labels import LabelFlip
from commonroot.simulations.behaviour.leave import Leave
from commonroot.simulations.behaviour.noise import Noise, NotNumbers
from commonroot.simulations.behaviour.scaled import Scaled, SignFlip
from commonroot.simulations.behaviour.stale import Stale
from commonroot.simulations.behaviour.stragglers import Stragglers

Kind = Annotated[
    Dropout | Diurnal | Stragglers | Arrival | Leave | Scaled | SignFlip | Noise | NotNumbers | LabelFlip | Stale,
    Field(discriminator="kind"),
]
