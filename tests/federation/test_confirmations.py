"""A round in which somebody is lost: members confirm who is left, then open; real folders, stores and rounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from federation import small
from federation.test_lies import honest_versions

from commonroot.common import parcel
from commonroot.common.messages import Confirm, Confirmed, Open, RoundOpen
from commonroot.simulations.network import Crossing, MemoryNetwork

ELM = small.NAMES[4]


def without_elms_uploads(also: Callable[[Crossing], bool] = lambda crossing: False) -> Any:
    def weather(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        lost = crossing.parcel.kind == parcel.MASKED and crossing.department == ELM
        return () if lost or also(crossing) else (crossing,)

    return weather


def played(tmp_path, *weather, **shape):
    """A run of five among whom elm's uploads are lost, to its end; everything that set out, in order."""
    seen: list[Crossing] = []

    def watch(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        seen.append(crossing)
        return (crossing,)

    network = MemoryNetwork(weather=[watch, *weather])
    with small.running(tmp_path, network=network, departments=5, **shape) as at_work:
        at_work.run()
        honest_versions(at_work)
        small.check_books(at_work.federation)
        with small.journal_of(at_work.federation) as journal:
            return at_work, seen, journal.runs()[0].state, [r.state for r in journal.rounds()]


def test_who_is_left_confirms_and_opens_with_the_quorums_signatures(tmp_path):
    """Five departments, quorum 4: each opening without elm holds four confirmations of 66 bytes, all of its own set."""
    at_work, seen, run, rounds = played(tmp_path, without_elms_uploads(), rounds=2)
    assert (run, rounds) == ("finished", ["closed"] * 2)
    kinds = [
        c.parcel.kind for c in seen if c.department == "ash" and c.parcel.kind in ("masked", "confirmed", "shares")
    ]
    assert kinds == ["masked", "confirmed", "shares"] * 2
    roster = at_work.federation.coordinator.roster()
    openings = [Open.decode(c.parcel.head) for c in seen if c.parcel.kind == parcel.OPEN]
    assert openings
    for asked in openings:
        assert asked.survivors == (0, 1, 2, 3)
        assert len(asked.confirmed_by) == 4
        for member, signature in zip(asked.confirmed_by, asked.confirmations, strict=True):
            public = bytes.fromhex(roster.departments[member].identity)
            Confirmed(asked.opened, member, signature).check(public, who="a member")
    confirmed = [c.parcel for c in seen if c.parcel.kind == parcel.CONFIRMED]
    assert {(len(one.head), len(one.body)) for one in confirmed} == {(1 + 32 + 2 + 64, 0)}
    asked_for = [c.parcel.head for c in seen if c.parcel.kind == parcel.CONFIRM]
    assert {Confirm.decode(head).survivors for head in asked_for} == {(0, 1, 2, 3)}


def test_a_round_that_too_few_of_the_committee_have_masked_for_is_lost_and_not_fixed(tmp_path):
    """Of five two hear nothing of round 1.  Three are enough to sum and too few to open, now and later: no set is fixed
    that nobody could ever open, and the next round goes on."""

    def deaf(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        first = crossing.parcel.kind == parcel.ROUND_OPEN and RoundOpen.decode(crossing.parcel.head).round == 1
        return () if first and crossing.department in ("ash", ELM) else (crossing,)

    _, seen, run, rounds = played(tmp_path, deaf, rounds=2, attempts=3)
    assert (run, rounds) == ("finished", ["lost", "closed", "closed"])
    assert {Open.decode(c.parcel.head).round for c in seen if c.parcel.kind == parcel.OPEN} == {2, 3}


def test_the_ledger_tells_what_was_confirmed_before_it_was_opened(tmp_path):
    at_work, *_ = played(tmp_path, without_elms_uploads(), rounds=1)
    with small.store_of(at_work.federation.departments["ash"]) as store:
        sent = [entry.facts for entry in store.ledger() if entry.kind == "sent"]
        assert store.accepted(parcel.CONFIRM, round=1) is not None
    told = [facts for facts in sent if facts["what"] in ("confirmed", "shares")]
    assert [facts["what"] for facts in told] == ["confirmed", "shares"]
    assert told[0]["opened"] == told[1]["opened"]
    assert told[0]["survivors"] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [parcel.CONFIRM, parcel.CONFIRMED])
def test_a_set_that_too_few_confirmed_is_asked_for_again_and_confirmed_alike(kind, tmp_path):
    """Of five two are silent once: three are too few, the round stays fixed, and the next try succeeds."""
    lost: dict[str, int] = {}

    def also(crossing: Crossing) -> bool:
        if crossing.parcel.kind != kind or crossing.department not in ("ash", "birch") or crossing.department in lost:
            return False
        lost[crossing.department] = 1
        return True

    _, seen, run, rounds = played(tmp_path, without_elms_uploads(also), rounds=1, attempts=3)
    assert (run, rounds) == ("finished", ["closed"])
    said: dict[str, set[bytes]] = {}
    for crossing in seen:
        if crossing.parcel.kind == parcel.CONFIRMED:
            said.setdefault(crossing.department, set()).add(bytes(crossing.parcel.head))
    assert {len(heads) for heads in said.values()} == {1}


def test_a_department_restarted_between_confirming_and_opening_answers_the_same_set(tmp_path):
    struck: list[str] = []

    def restart(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        if crossing.parcel.kind == parcel.OPEN and crossing.department == "ash" and not struck:
            struck.append(crossing.department)
            running[0].kill("ash")
            running[0].start("ash")
        return (crossing,)

    running: list[small.ToyFederation] = []
    # Elm is silent then, so that the answer of ash is needed.
    elm_is_silent = without_elms_uploads(lambda c: c.parcel.kind == parcel.SHARES and c.department == ELM)
    network = MemoryNetwork(weather=[elm_is_silent, restart])
    with small.running(tmp_path, network=network, departments=5, rounds=1) as at_work:
        running.append(at_work)
        at_work.run()
        honest_versions(at_work)
        with small.store_of(at_work.federation.departments["ash"]) as store:
            what = [entry.facts["what"] for entry in store.ledger() if entry.kind == "sent"]
    assert struck
    assert [one for one in what if one in ("confirmed", "shares")] == ["confirmed", "shares"]
