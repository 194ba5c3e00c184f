"""Weather that does not remember when the process began.

The network draws its weather from one stream, so a simulation that is killed and started again would go on under
another sky.  Here the fate of a parcel follows from the seed, the round it belongs to, whose it is and which of its
repetitions it is, and from nothing else.
"""

from __future__ import annotations

import random as seeded
from collections import Counter
from collections.abc import Iterable, Sequence

from commonroot.common import parcel
from commonroot.common.messages import Confirm, Confirmed, Masked, Open, Ready, RoundOpen, Shares, Train
from commonroot.common.parcel import Parcel
from commonroot.simulations.network import Crossing, Weather


def by_round(seed: int, weather: Sequence[Weather]) -> Weather:
    """All of ``weather``, one after the other, under dice of each parcel's own."""
    rounds: dict[bytes, int] = {}
    seen: Counter[tuple[object, ...]] = Counter()

    def fate(crossing: Crossing, _stream: seeded.Random) -> Iterable[Crossing]:
        key = (_round(crossing.parcel, rounds), crossing.direction, crossing.department, crossing.parcel.kind)
        seen[key] += 1
        return under(weather, crossing, seed, key[0], seen[key] - 1)

    return fate


def under(weather: Sequence[Weather], crossing: Crossing, seed: int, round: int, repetition: int) -> list[Crossing]:
    """What arrives of one crossing."""
    facts = (seed, round, crossing.direction, crossing.department, crossing.parcel.kind, repetition)
    dice = seeded.Random("/".join(map(str, facts)))
    arriving = [crossing]
    for one in weather:
        arriving = [out for crossing in arriving for out in one(crossing, dice)]
    return arriving


def _round(one: Parcel, rounds: dict[bytes, int]) -> int:
    """The round a parcel belongs to, 0 for none; replies name only what the request introduced."""
    head = bytes(one.head)
    if one.kind == parcel.ROUND_OPEN:
        opened = RoundOpen.decode(head)
        rounds[opened.transcript] = opened.round
        return opened.round
    if one.kind == parcel.TRAIN:
        ahead = Train.decode(head)
        rounds[ahead.digest] = ahead.round
        return ahead.round
    if one.kind in (parcel.CONFIRM, parcel.OPEN):
        asked = Confirm.decode(head) if one.kind == parcel.CONFIRM else Open.decode(head)
        rounds[asked.transcript] = rounds[asked.opened] = asked.round
        return asked.round
    if one.kind in (parcel.MASKED, parcel.SHARES):
        reply = Masked.decode(head) if one.kind == parcel.MASKED else Shares.decode(head)
        return rounds.get(reply.transcript, 0)
    if one.kind == parcel.TRAINED:
        return rounds.get(Ready.decode(head).asked, 0)
    if one.kind == parcel.CONFIRMED:
        return rounds.get(Confirmed.decode(head).opened, 0)
    return 0
