"""Lies told while departments meet: about greetings, introductions, and the roster that they all stand under."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from proofs.coordinator_lies import cohort, joining
from proofs.stage import ASH, BIRCH, ELM, Make, Stage, dropped, parcel_of, resigned

from commonroot.client.setup import join
from commonroot.common import parcel
from commonroot.common.greetings import Greet, Greeting, Introduce, Introduced, put_letters, take_letters
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster, SignedRoster
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.simulations.founding import next_epoch
from commonroot.simulations.network import Crossing

KINDS = {
    parcel.GREET: Greet,
    parcel.INTRODUCE: Introduce,
    parcel.GREETING: Greeting,
    parcel.INTRODUCED: Introduced,
}


def set_to(**changes: Any) -> Make:
    """Fields set to fixed values, signed anew by whoever sends it."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        key = stage.coordinator if honest.kind in parcel.TO_DEPARTMENT else stage.key(name)
        return parcel_of(resigned(KINDS[honest.kind].decode(honest.head), key, **changes), honest)

    return make


def under_another_key(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """Everything as it was, signed by elm instead of the coordinator, or by nobody's key instead of a department's."""
    key = stage.key(ELM) if honest.kind in parcel.TO_DEPARTMENT else Identity(bytes(range(32)))
    return parcel_of(resigned(KINDS[honest.kind].decode(honest.head), key), honest)


def in_the_name_of_birch(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The reply says that it is birch's."""
    return set_to(sender=stage.number(BIRCH))(stage, name, honest)


#: Whose they are, and greeting and ciphertext of each, as they are about to be sent.
Letters = list[tuple[int, bytes, bytes]]


def letters(change: Callable[[Letters], Letters]) -> Make:
    """The greetings of others changed, and signed for by the coordinator; as they were if none are left."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        told = Introduce.decode(honest.head)
        taken = take_letters(honest.body, len(told.who))
        changed = change([(who, g.encode(), c) for who, (g, c) in zip(told.who, taken, strict=True)])
        body = put_letters((greeting, ciphertext) for _, greeting, ciphertext in changed)
        fields = {"who": tuple(who for who, _, _ in changed), "body": sha256(body)}
        return parcel_of(resigned(told, stage.coordinator, **fields), honest, body)

    return make


def greeting_flipped(told: Letters) -> Letters:
    """One bit of the first countersignature."""
    who, greeting, ciphertext = told[0]
    at = greeting.index(Greeting.decode(greeting).countersignature)
    return [(who, greeting[:at] + bytes([greeting[at] ^ 1]) + greeting[at + 1 :], ciphertext), *told[1:]]


def ciphertext_flipped(told: Letters) -> Letters:
    """One bit of the first ciphertext, which must be for a department of a higher number."""
    who, greeting, ciphertext = told[0]
    return [(who, greeting, ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])), *told[1:]]


def greetings_swapped(told: Letters) -> Letters:
    """Each of the first two under the other's number."""
    (one, *first), (two, *second), *rest = told
    return [(one, *second), (two, *first), *rest]


def strangers(root: Path) -> Stage:
    """Birch never gets ash's greeting, so the honest cohort is without ash; birch is told that ash is in it."""
    stage = Stage(root)
    without_ash = letters(lambda told: [one for one in told if one[0] != stage.number(ASH)])

    def forge(stage: Stage, crossing: Crossing) -> Iterable[Parcel] | None:
        if crossing.department != BIRCH:
            return None
        if crossing.parcel.kind == parcel.INTRODUCE:
            left = [who for who in Introduce.decode(crossing.parcel.head).who if who != stage.number(ASH)]
            return (without_ash(stage, BIRCH, crossing.parcel),) if left else ()
        if crossing.parcel.kind == parcel.ROUND_OPEN:
            return (cohort(lambda who: (stage.number(ASH), *who))(stage, BIRCH, crossing.parcel),)
        return None

    stage.forge = forge
    stage.run()
    return stage


def before_countersigned(root: Path) -> Stage:
    """Nobody is ever introduced to ash; after the others' run it is sent a round of their cohort and itself."""
    stage = Stage(root)
    stage.forge = dropped(parcel.INTRODUCE, {ASH})
    stage.run()
    opened = stage.sent(parcel.ROUND_OPEN, BIRCH)[-1]
    stage.ask(ASH, cohort(lambda who: (stage.number(ASH), *who))(stage, ASH, opened))
    return stage


# -- rosters -----------------------------------------------------------------------------------------------------------


def second_roster(root: Path) -> Stage:
    """The authority itself signs two rosters of one epoch."""

    def change(stage: Stage, value: dict[str, Any]) -> bytes:
        value["roster"]["expires"] += 1
        other = Roster.model_validate(value["roster"])
        return SignedRoster.sign(other, stage.federation.coordinator.authority()).to_json()

    return joining(change)(root)


def older_roster(root: Path) -> Stage:
    """All have joined the second epoch; ash is handed the first one's roster."""
    stage = Stage(root)
    old = root / "old.json"
    old.write_bytes((stage.federation.coordinator.root / "roster.json").read_bytes())
    for name in stage.names:
        stage.at_work.kill(name)
    later = next_epoch(stage.federation)
    stage.try_to("join", lambda: join(later.departments[ASH], old, os.urandom))
    return stage
