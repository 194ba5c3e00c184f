"""The beginning of an epoch: greetings, coming late, and a coordinator that lies about them.

In a federation of five, t_c = 1 and an opening quorum is 4 = ⌊(5 + 1)/2⌋ + 1; of four, 3; of three (t_c = 0), 2.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from federation import small
from federation.epochs import cohorts, flipped, opening_of, states

from commonroot.common import parcel
from commonroot.common.greetings import Greet, Greeting, Introduce, put_letters, take_letters
from commonroot.common.messages import Refusal
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.network import Crossing, MemoryNetwork, drop, lie


def test_four_of_five_do_rounds_without_the_one_that_never_greeted(tmp_path):
    with small.ToyFederation(small.founded(tmp_path, departments=5), MemoryNetwork()) as at_work:
        for name in small.NAMES[:4]:
            at_work.start(name)
        at_work.queue()
        at_work.run()
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)
        assert cohorts(at_work.federation) == [list(small.NAMES[:4])] * 3


@pytest.mark.parametrize("late", ["ash", "cedar", "elm"])
def test_one_that_comes_a_round_late_is_introduced_and_takes_part_from_then_on(late, tmp_path):
    """Lowest, middle and highest number: it encapsulates to all, some, none; every chain is in step at once."""
    with small.ToyFederation(small.founded(tmp_path, departments=5), MemoryNetwork()) as at_work:
        for name in small.NAMES:
            if name != late:
                at_work.start(name)
        at_work.queue()

        def comes(kind: str, facts: dict[str, Any]) -> None:
            if kind == "closed" and facts["round"] == 1:
                at_work.start(late)

        at_work.run(comes)
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)
        early = [name for name in small.NAMES if name != late]
        assert cohorts(at_work.federation) == [early, list(small.NAMES), list(small.NAMES)]
        assert at_work.told("refused") == []


def test_a_greeting_that_is_withheld_from_one_department_keeps_the_two_out_of_one_cohort(tmp_path):
    """The coordinator never passes ash's greeting on to birch: birch refuses cohorts with ash, by name."""

    def withhold(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.INTRODUCE or crossing.department != "birch":
            return None
        told = Introduce.decode(crossing.parcel.head)
        letters = take_letters(crossing.parcel.body, len(told.who))
        kept = [(who, one) for who, one in zip(told.who, letters, strict=True) if who != 0]
        if not kept:
            return Parcel(parcel.INTRODUCE)
        body = put_letters((greeting.encode(), ciphertext) for _, (greeting, ciphertext) in kept)
        fields = {"roster": told.roster, "epoch": told.epoch, "who": tuple(who for who, _ in kept)}
        return Parcel(parcel.INTRODUCE, Introduce.signed(key, **fields, body=sha256(body)).encode(), body)

    federation = small.founded(tmp_path, departments=5)
    key = federation.coordinator.identity()
    with small.ToyFederation(federation, MemoryNetwork(weather=[lie(withhold)])) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        assert all(not {"ash", "birch"} <= set(cohort) for cohort in cohorts(federation))
        assert states(federation)[0] == "finished"
        # and had the coordinator put both into one cohort all the same:
        everybody = opening_of(at_work, tuple(range(5)))
        reply = at_work.sessions["birch"].handle(everybody)
        assert Refusal.decode(reply.head).code == "CR50"


def test_before_a_quorum_countersigned_nothing_is_sent_under_a_roster(tmp_path):
    with small.running(tmp_path / "one", departments=4) as at_work:
        at_work.run()
        opening = opening_of(at_work, (0, 1, 2, 3))
    fresh = tmp_path / "two"
    shutil.copytree(small._template(small.NAMES[:4], 3, 3, (8, 4), "auto"), fresh, dirs_exist_ok=True)
    with small.ToyFederation(small.opened(fresh), MemoryNetwork()) as at_work:
        at_work.start("ash")
        assert Refusal.decode(at_work.sessions["ash"].handle(opening).head).code == "CR51"
        assert at_work.told("training") == []


LIES: dict[str, tuple[str, Callable[[bytes, bytes], tuple[bytes, bytes]]]] = {
    "head": ("CR21", lambda head, body: (flipped(head, 10), body)),
    "body": ("CR34", lambda head, body: (head, flipped(bytes(body), len(body) // 2))),
    "short": ("CR20", lambda head, body: (head[:-1], body)),
}


@pytest.mark.parametrize("what", sorted(LIES))
def test_an_introduction_that_was_tampered_with_is_refused_and_the_others_go_on(what, tmp_path):
    code, change = LIES[what]

    def tamper(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.INTRODUCE or crossing.department != "birch":
            return None
        return Parcel(parcel.INTRODUCE, *change(crossing.parcel.head, bytes(crossing.parcel.body)))

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(tamper)]), departments=5) as at_work:
        at_work.run()
        assert states(at_work.federation)[0] == "finished"
        assert all("birch" not in cohort for cohort in cohorts(at_work.federation))
        assert {facts["code"] for facts in at_work.told("refused")} == {code}


def test_a_department_whose_greeting_is_garbage_is_blamed_and_left_out_and_kept_as_evidence(tmp_path):
    def garbage(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.GREETING or crossing.department != "birch":
            return None
        return Parcel(parcel.GREETING, crossing.parcel.head, bytes(len(crossing.parcel.body)))

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(garbage)]), departments=5) as at_work:
        at_work.run()
        with small.journal_of(at_work.federation) as journal:
            assert {(f["department"], f["code"]) for f in journal.faults.all()} == {("birch", "CR54")}
            ((name, exhibit),) = journal.faults.exhibits()
        assert (name, exhibit.kind, exhibit.describe()["signed"]) == ("birch", parcel.GREETING, True)
        assert all("birch" not in cohort for cohort in cohorts(at_work.federation))


@pytest.mark.parametrize("kind", [parcel.GREET, parcel.GREETING, parcel.INTRODUCE, parcel.INTRODUCED])
def test_a_third_of_one_kind_of_parcel_lost_costs_time_and_nothing_else(kind, tmp_path):
    network = MemoryNetwork(seed=3, weather=[drop(0.34, kinds={kind})])
    with small.running(tmp_path, network=network, departments=4, attempts=12) as at_work:
        at_work.run()
        state, rounds, _ = states(at_work.federation)
        assert (state, rounds.count("closed")) == ("finished", 3)
        small.check_books(at_work.federation)


def test_a_greeting_is_the_same_each_time_it_is_asked_for(tmp_path):
    with small.ToyFederation(small.founded(tmp_path, departments=3), MemoryNetwork()) as at_work:
        at_work.start("birch")
        roster = at_work.federation.coordinator.roster()
        key = at_work.federation.coordinator.identity()
        asked = Parcel(parcel.GREET, Greet.signed(key, roster=roster.digest, epoch=1).encode())
        first = at_work.sessions["birch"].handle(asked)
        at_work.kill("birch")
        at_work.start("birch")
        assert at_work.sessions["birch"].handle(asked) == first
        greeting = Greeting.decode(first.head)
        assert (greeting.sender, greeting.to, len(first.body)) == (1, (2,), 1088)
