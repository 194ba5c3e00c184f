"""``stale``: contributes what it trained some rounds ago."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.misbehaving import Kept, Misbehaviour, Terms


class Stale(Misbehaviour):
    """A contribution is that of ``lag`` rounds ago, of those the department trained in; its first ones are honest.

    What it has not sent yet is kept with its private state, so a simulation that is killed goes on the same.
    """

    kind: Literal["stale"]
    lag: Annotated[int, Field(ge=1, le=20)] = 1

    @property
    def word(self) -> str:
        """See ``Misbehaviour``."""
        return f"stale by {self.lag}"

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """See ``Misbehaviour``."""
        first = next(iter(terms))
        waiting: list[Terms] = [
            {term: np.asarray(kept[f"{at}/{term}"], array.dtype).reshape(array.shape) for term, array in terms.items()}
            for at in range(self.lag)
            if f"{at}/{first}" in kept
        ]
        waiting.append(terms)
        sent = waiting.pop(0) if len(waiting) > self.lag else terms
        left = {f"{at}/{term}": array for at, one in enumerate(waiting) for term, array in one.items()}
        return sent, left

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"contributions were trained {self.lag} rounds before{self.when}: {whom}"
