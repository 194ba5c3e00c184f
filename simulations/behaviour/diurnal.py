"""``diurnal``: departments have nights, at hours of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from commonroot.simulations.behaviour.base import Share, Timed
from commonroot.simulations.behaviour.dice import Dice


class Diurnal(Timed):
    """A department answers by day; a round that opens in its night goes on without it.

    period  rounds of a day, lost ones included
    awake   share of it in which a department answers
    spread  share of a day over which the departments' mornings lie, drawn by the seed; 0: all at once
    """

    kind: Literal["diurnal"]
    period: Annotated[int, Field(ge=2)]
    awake: Annotated[float, Field(gt=0, le=1)] = 0.5
    spread: Share = 1.0

    def away(self, dice: Dice, name: str, *, round: int, number: int) -> bool:
        """At night."""
        hour = ((number - 1) / self.period + self.spread * dice.uniform("morning", name)) % 1.0
        return self.during(round) and hour >= self.awake

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"awake for {100 * self.awake:g} % of every {self.period} rounds{self.when}: {whom}"
