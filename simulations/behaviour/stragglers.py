"""``stragglers``: uploads that take long, of departments that are slow for good and of rounds that happen to be."""

from __future__ import annotations

import math
import random as seeded
from collections.abc import Iterable
from statistics import NormalDist
from typing import Final, Literal

from commonroot.common import parcel
from commonroot.common.charter import Positive
from commonroot.simulations.behaviour.base import Behaviour, Share
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.network import Crossing, Weather

_NORMAL: Final = NormalDist()


class Stragglers(Behaviour):
    """Seconds from a round's opening to a department's upload; one beyond the charter's ``timing.upload`` is too late.

    median  seconds; simulated, so waiting takes no time
    tail    ``lognormal``, or ``pareto`` for a few that take very long
    spread  of a lognormal: the standard deviation of the logarithm
    shape   of a Pareto distribution: the smaller, the heavier its tail
    steady  share of the spread that is a department's own speed, the same in every round; the rest is drawn anew
    """

    kind: Literal["stragglers"]
    median: Positive
    tail: Literal["lognormal", "pareto"] = "lognormal"
    spread: Positive = 1.0
    shape: Positive = 1.5
    steady: Share = 0.8

    def seconds(self, own: float, now: float) -> float:
        """Seconds by two draws from the standard normal distribution: a department's own, and this round's."""
        drawn = math.sqrt(self.steady) * own + math.sqrt(1 - self.steady) * now
        if self.tail == "lognormal":
            return self.median * math.exp(min(self.spread * drawn, 100.0))
        return float(self.median * (2 * max(_NORMAL.cdf(-drawn), 1e-12)) ** (-1 / self.shape))

    def weather(self, dice: Dice, whom: frozenset[str]) -> list[Weather]:
        """Holds uploads back."""

        def slow(crossing: Crossing, random: seeded.Random) -> Iterable[Crossing]:
            if crossing.parcel.kind != parcel.MASKED or crossing.department not in whom:
                return (crossing,)
            took = self.seconds(dice.normal("speed", crossing.department), random.gauss(0.0, 1.0))
            return (Crossing(crossing.direction, crossing.department, crossing.parcel, crossing.seconds + took),)

        return [slow]

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"uploads take {self.median:g} s in the median, with a {self.tail} tail: {whom}"
