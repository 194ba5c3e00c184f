"""Who takes part in a round, and whose contribution arrives: what befalls a federation, without any parcels.

The dice are those that a simulation with the whole protocol throws, so both lose the same uploads.  What would befall
confirmations and openings has no place here: nothing is opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from commonroot.common import parcel
from commonroot.common.charter import Draft
from commonroot.common.parcel import Parcel
from commonroot.simulations.behaviour.cast import Cast
from commonroot.simulations.network import Crossing, Weather
from commonroot.simulations.weather import under


@dataclass(frozen=True, slots=True)
class Fates:
    """One round, by department number.

    cohort   whom the round is opened with
    trains   who hears of it, and trains
    counted  whose contribution arrives in time
    """

    cohort: tuple[int, ...]
    trains: tuple[int, ...]
    counted: tuple[int, ...]


def fates(
    cast: Cast,
    charter: Draft,
    seed: int,
    numbers: dict[str, int],
    *,
    round: int,
    version: int,
    ready_stage: bool = False,
    in_vain: int = 0,
) -> Fates:
    """What happens in the round of that number, which is on ``version``.

    ready_stage  the round is opened with those who said in time that they have trained, not with all who are present
    in_vain      how often they were asked before, under the same number, and too few said so
    """
    weather, late = cast.weather(), charter.timing.upload
    exchange = _Exchange(weather, seed, round)
    present = cast.present(version)
    if weather and ready_stage:
        present = [name for name in present if exchange.ready(name, in_vain) <= late]
    cohort = tuple(sorted(numbers[name] for name in present))
    gone = {numbers[name] for name in (*cast.killed(version + 1), *cast.away(version + 1, round))}
    if not weather:
        alive = tuple(who for who in cohort if who not in gone)
        return Fates(cohort, alive, alive)
    names = {numbers[name]: name for name in present}
    trains: list[int] = []
    counted: list[int] = []
    for who in cohort:
        if who in gone:
            continue
        heard, back = exchange.of(names[who], parcel.ROUND_OPEN, parcel.MASKED)
        if heard:
            trains.append(who)
        if back <= late:
            counted.append(who)
    return Fates(cohort, tuple(trains), tuple(counted))


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Requests and replies of one round under some weather."""

    weather: Sequence[Weather]
    seed: int
    round: int

    def ready(self, name: str, in_vain: int) -> float:
        """Seconds until a department's word that it has trained is there, when it is asked once more; or never."""
        replies, back = 0, math.inf
        for asked in range(in_vain + 1):
            heard, back = self.of(name, parcel.TRAIN, parcel.TRAINED, asked=asked, replies=replies)
            replies += heard
        return back

    def of(self, name: str, request: str, reply: str, *, asked: int = 0, replies: int = 0) -> tuple[int, float]:
        """How many copies of a request arrive, and seconds until the first reply is there; infinite where none is.

        asked    how often the department was asked this before
        replies  how often it answered: every copy is answered, in its turn, and each answer has dice of its own
        """
        heard = sorted(one.seconds for one in self._arriving(Crossing("to-department", name, Parcel(request)), asked))
        back = [
            came + one.seconds
            for nth, came in enumerate(heard, start=replies)
            for one in self._arriving(Crossing("to-coordinator", name, Parcel(reply)), nth)
        ]
        return len(heard), min(back, default=math.inf)

    def _arriving(self, crossing: Crossing, repetition: int) -> list[Crossing]:
        return under(self.weather, crossing, self.seed, self.round, repetition)
