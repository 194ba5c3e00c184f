"""``scaled`` and ``sign-flip``: an honest contribution, many times over, or backwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.misbehaving import Kept, Misbehaviour, Terms, spoiled


class Scaled(Misbehaviour):
    """Every tensor times ``factor``: who shouts is heard as far as clipping lets it."""

    kind: Literal["scaled"]
    factor: Annotated[float, Field(allow_inf_nan=False)] = 10.0

    @property
    def word(self) -> str:
        """See ``Misbehaviour``."""
        return f"scaled × {self.factor:g}"

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """See ``Misbehaviour``."""
        return spoiled(terms, lambda _, array: array * self.factor), kept

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"contributions are {self.factor:g} times what was trained{self.when}: {whom}"


class SignFlip(Misbehaviour):
    """Every tensor with its sign turned, times ``factor``: a step uphill."""

    kind: Literal["sign-flip"]
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """See ``Misbehaviour``."""
        return spoiled(terms, lambda _, array: array * -self.factor), kept

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        louder = "" if self.factor == 1.0 else f", {self.factor:g} times as large"
        return f"contributions have their sign turned{louder}{self.when}: {whom}"
