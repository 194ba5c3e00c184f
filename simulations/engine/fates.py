"""Who takes part in a round, and whose contribution arrives: what befalls a federation, without any parcels.

The dice are those that a simulation with the whole protocol throws, so both lose the same uploads.  What would befall
confirmations and openings has no place here: nothing is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from commonroot.common import parcel
from commonroot.common.charter import Draft
from commonroot.common.parcel import Parcel
from commonroot.simulations.behaviour.cast import Cast
from commonroot.simulations.network import Crossing, Direction, Weather
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


def fates(cast: Cast, charter: Draft, seed: int, numbers: dict[str, int], *, round: int, version: int) -> Fates:
    """What happens in the round of that number, which is on ``version``."""
    present = cast.present(version)
    cohort = tuple(sorted(numbers[name] for name in present))
    gone = {numbers[name] for name in (*cast.killed(version + 1), *cast.away(version + 1, round))}
    weather = cast.weather()
    names = {numbers[name]: name for name in present}
    if not weather:
        alive = tuple(who for who in cohort if who not in gone)
        return Fates(cohort, alive, alive)
    late = charter.timing.upload
    trains: list[int] = []
    counted: list[int] = []
    for who in cohort:
        if who in gone:
            continue
        came = _seconds(weather, seed, round, "to-department", names[who], parcel.ROUND_OPEN)
        if came is None:
            continue
        trains.append(who)
        went = _seconds(weather, seed, round, "to-coordinator", names[who], parcel.MASKED)
        if went is not None and came + went <= late:
            counted.append(who)
    return Fates(cohort, tuple(trains), tuple(counted))


def _seconds(
    weather: Sequence[Weather], seed: int, round: int, direction: Direction, name: str, kind: str
) -> float | None:
    """How long a parcel takes, or None where it is lost."""
    arriving = under(weather, Crossing(direction, name, Parcel(kind)), seed, round, 0)
    return min((one.seconds for one in arriving), default=None)
