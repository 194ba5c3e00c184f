"""``arrival``: departments that join while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commonroot.common.charter import Positive
from commonroot.simulations.behaviour.base import Round, Timed
from commonroot.simulations.behaviour.dice import Dice


class Arrival(Timed):
    """Departments come before rounds, and stay.

    first  how many of them are there from the start; without, as many as it takes for rounds to open
    rate   mean number that come per round from ``from`` on, as a Poisson process …
    until  … or the round before which the last may come; they come uniformly over the rounds from ``from`` to there
    """

    kind: Literal["arrival"]
    first: Annotated[int, Field(ge=0)] | None = None
    rate: Positive | None = None
    since: Round = Field(default=2, alias="from")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.rate is None) == (self.until is None):
            raise ValueError("give rate or until")
        return self

    def arrivals(self, dice: Dice, whom: Sequence[str], *, needed: int) -> Mapping[str, int]:
        """In an order drawn by the seed."""
        order = sorted(whom, key=lambda name: dice.uniform("order", name))
        coming = order[needed if self.first is None else self.first :]
        if self.until is not None:
            rounds = self.until - self.since + 1
            return {name: self.since + math.floor(rounds * dice.uniform("round", name)) for name in coming}
        found, at = {}, 0.0
        for name in coming:
            at -= math.log(dice.uniform("gap", name)) / (self.rate or 1.0)
            found[name] = self.since + math.floor(at)
        return found

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        there = "as many as rounds open with" if self.first is None else str(self.first)
        how = f"over rounds {self.since} to {self.until}" if self.until is not None else f"{self.rate:g} per round"
        return f"{there} from the start, the others {how}: {whom}"
