"""``dropout``: departments that take part in a round's opening and then are not heard of until the next.

Either every round is a draw of its own (``share``), or a department is up for ``up`` rounds in the mean and then down
for ``down``, with lengths that are geometric: a Markov process with two states, begun as if it had always run.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commonroot.simulations.behaviour.base import Share, Timed
from commonroot.simulations.behaviour.dice import Dice

Mean = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Dropout(Timed):
    """A department that drops out trains not and sends nothing, and the sum is opened without it.

    share     of rounds that a department drops out of, each by itself
    up, down  instead: mean numbers of rounds, at least 1, that a department is there and is not
    """

    kind: Literal["dropout"]
    share: Share | None = None
    up: Mean | None = None
    down: Mean | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.share is None) == (self.up is None) or (self.up is None) != (self.down is None):
            raise ValueError("give share, or up and down")
        return self

    def away(self, dice: Dice, name: str, *, round: int, number: int) -> bool:
        """By a draw of this round, or by where the department's process stands in it."""
        if not self.during(round):
            return False
        if self.share is not None:
            return dice.uniform(number, name) < self.share
        return _Spells.of(dice, name, self.up or 1.0, self.down or 1.0).down_at(number)

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        if self.share is not None:
            return f"out of {100 * self.share:g} % of rounds, each by itself{self.when}: {whom}"
        return f"there for {self.up:g} rounds in the mean, then away for {self.down:g}{self.when}: {whom}"


class _Spells:
    """One department's spells, up and down in turn, as far as anybody asked."""

    def __init__(self, dice: Dice, name: str, up: float, down: float) -> None:
        self._dice, self._name, self._means = dice, name, (up, down)
        self._first_down = dice.uniform("begins", name) < down / (up + down)
        self._ends = [0]

    @staticmethod
    @lru_cache(maxsize=200_000)
    def of(dice: Dice, name: str, up: float, down: float) -> _Spells:
        return _Spells(dice, name, up, down)

    def down_at(self, number: int) -> bool:
        while self._ends[-1] < number:
            spell = len(self._ends) - 1
            mean = self._means[self._down(spell)]
            drawn = self._dice.uniform("spell", self._name, spell)
            length = 1 if mean == 1.0 else 1 + math.floor(math.log(drawn) / math.log1p(-1 / mean))
            self._ends.append(self._ends[-1] + length)
        spell = next(at for at, end in enumerate(self._ends[1:]) if number <= end)
        return self._down(spell)

    def _down(self, spell: int) -> bool:
        return (spell % 2 == 1) != self._first_down
