"""``random`` and ``nan``: contributions that say nothing, or nothing that is a number."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.common.charter import Positive
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.misbehaving import Kept, Misbehaviour, Terms, spoiled


class Noise(Misbehaviour):
    """Gaussian noise in the place of every tensor, ``scale`` times as large as the honest one in the mean square."""

    kind: Literal["random"]
    scale: Positive = 1.0

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """Drawn anew in every round that makes a version."""

        def drawn(term: str, array: NDArray[np.floating]) -> NDArray[Any]:
            size = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0
            return self.scale * size * dice.generator(name, version, term).standard_normal(array.shape)

        return spoiled(terms, drawn), kept

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"contributions are noise, {self.scale:g} times as large as what was trained{self.when}: {whom}"


class NotNumbers(Misbehaviour):
    """NaN in the place of every number.  It cannot be encoded, so the codec's answer is what arrives: zeros."""

    kind: Literal["nan"]

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """See ``Misbehaviour``."""
        return spoiled(terms, lambda _, array: np.full(array.shape, np.nan)), kept

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"contributions are no numbers{self.when}: {whom}"
