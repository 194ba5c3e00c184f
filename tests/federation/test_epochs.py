"""From one epoch to the next: who leaves, who comes, and which rounds go on.

In a federation of five, t_c = 1 and an opening quorum is 4 = ⌊(5 + 1)/2⌋ + 1; of four, 3; of three (t_c = 0), 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.epochs import cohorts, setup_of, states
from federation.interrupted import Interrupted

from commonroot.client.setup import join, renew
from commonroot.common import parcel
from commonroot.common.errors import WrongFederation
from commonroot.common.greetings import Introduce, put_letters
from commonroot.common.messages import Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.founding import Federation, next_epoch
from commonroot.simulations.network import Crossing, MemoryNetwork, drop, lie


def run_until(at_work: small.ToyFederation, closed: int) -> None:
    """Run until so many rounds are closed; then the coordinator is gone."""

    def stop(kind: str, facts: dict[str, Any]) -> None:
        if kind == "closed" and facts["round"] == closed:
            raise Interrupted

    with pytest.raises(Interrupted):
        at_work.run(stop)


def second_epoch(federation: Federation, **moves: Any) -> Federation:
    later = next_epoch(federation, **moves)
    for at, name in enumerate(moves.get("coming", {})):
        section = small.data_section(name)
        small.write_table(later.departments[name].root / "rows.npz", *small.table(9 + at, 30, section.task))
    return later


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[tuple[small.ToyFederation, Federation, list[Parcel]]]:
    """Ash, birch, cedar and dogwood did two rounds of three; then ash left and elm came."""
    seen: list[Parcel] = []

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.department == "birch":
            seen.append(crossing.parcel)
        return None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(watch)]), departments=4) as at_work:
        run_until(at_work, 2)
    later = second_epoch(at_work.federation, leaving={"ash"}, coming={"elm": small.data_section("elm")})
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        yield after, at_work.federation, seen


def test_a_run_goes_on_in_the_next_epoch_with_who_stayed_and_who_came(moved):
    """Version and round numbers continue; numbers of departments do not: birch was 1 and is 0."""
    after, _, _ = moved
    after.run()
    assert states(after.federation) == ("finished", ["closed"] * 3, 3)
    assert cohorts(after.federation) == [["ash", "birch", "cedar", "dogwood"]] * 2 + [
        ["birch", "cedar", "dogwood", "elm"]
    ]
    with small.journal_of(after.federation) as journal:
        assert [r.round for r in journal.rounds()] == [1, 2, 3]
        assert [RoundOpen.decode(r.opening).epoch for r in journal.rounds()] == [1, 1, 2]
    assert after.told("refused") == []


def test_messages_of_the_last_epoch_are_refused(moved):
    after, _, seen = moved
    replayed = [p for p in seen if p.kind in (parcel.GREET, parcel.INTRODUCE, parcel.ROUND_OPEN, parcel.OPEN)]
    assert {p.kind for p in replayed} == {parcel.GREET, parcel.INTRODUCE, parcel.ROUND_OPEN, parcel.OPEN}
    small.introduce(after)
    for request in replayed:
        reply = after.sessions["birch"].handle(request)
        code = Refusal.decode(reply.head).code
        assert code == ("CR33" if request.kind == parcel.OPEN else "CR23"), request.kind


def test_one_that_left_is_refused_by_those_that_stayed_and_joins_no_more(moved, tmp_path):
    after, before, _ = moved
    ash = before.departments["ash"]
    with pytest.raises(WrongFederation, match="not in epoch 2"):
        join(ash, after.federation.coordinator.root / "roster.json", os.urandom)
    greeting = setup_of(ash)
    key = after.federation.coordinator.identity()
    roster = after.federation.coordinator.roster()
    body = put_letters([(greeting.greeting, b"")])
    told = Introduce.signed(key, roster=roster.digest, epoch=2, who=(1,), body=sha256(body))
    reply = after.sessions["birch"].handle(Parcel(parcel.INTRODUCE, told.encode(), body))
    assert Refusal.decode(reply.head).code == "CR21"  # it is not cedar's signature


def test_a_run_stops_with_a_reason_when_another_roster_is_signed_and_is_resumed_under_it(tmp_path):
    with small.running(tmp_path, departments=4) as at_work:
        coordinator = at_work.federation.coordinator

        def signs(kind: str, facts: dict[str, Any]) -> None:
            if kind == "closed" and facts["round"] == 1:
                for folder in at_work.federation.departments.values():
                    renew(folder, os.urandom)
                requests = [folder.root / "request.json" for folder in at_work.federation.departments.values()]
                coordinator.sign_roster(requests, colluders=None, survivors_min=None)

        at_work.run(signs)
        assert states(at_work.federation) == ("stopped", ["closed"], 1)
        with small.journal_of(at_work.federation) as journal:
            assert "epoch 1 has ended" in journal.runs()[0].reason
            journal.resume(1)
    # departments that have not joined yet refuse the new epoch, and the run waits for them in vain
    with small.ToyFederation(at_work.federation, MemoryNetwork()) as early:
        early.start_all()
        early.run()
        assert states(at_work.federation)[0] == "stopped"
        assert {facts["code"] for facts in early.told("refused")} == {"CR23"}
    with small.journal_of(at_work.federation) as journal:
        journal.resume(1)
    for folder in at_work.federation.departments.values():
        join(folder, coordinator.root / "roster.json", os.urandom)
    with small.ToyFederation(at_work.federation, MemoryNetwork()) as later:
        later.start_all()
        later.run()
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)


def test_a_backbone_opened_for_one_survivor_set_is_opened_for_no_other_in_the_next_epoch_either(tmp_path):
    """Round 1 is fixed and answered by all, but no answer arrives.  Then ash leaves: the others answered for a set with
    ash and contribute to version 0 for no set without it.  The sums' difference would be ash's update.
    """
    silence = drop(1.0, kinds={parcel.SHARES})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=4) as at_work:
        at_work.run()
        assert states(at_work.federation) == ("stopped", ["fixed"], 0)
    later = second_epoch(at_work.federation, leaving={"ash"})
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later)[0] == "stopped"
        assert states(later)[2] == 0
        codes = {facts["code"] for facts in after.told("refused") if facts["request"] == parcel.ROUND_OPEN}
        assert codes == {"CR32"}
        assert after.told("training") == []
        with small.journal_of(later) as journal:
            assert journal.rounds()[0].reason == "its epoch ended before it was over"


@pytest.mark.parametrize(("departments", "goes_on"), [(5, True), (4, False)])
def test_a_version_begun_in_the_last_epoch_is_taken_up_only_if_quorums_meet(departments, goes_on, tmp_path):
    """Uploads of round 1 are lost; then ash leaves.  5 → 4: (4 - 1) + 3 > 4 + 1, quorums share an honest department.
    4 → 3: (3 - 1) + 2 = 3 + 1: others might have opened version 0 unseen, so who masked for it does so no more.
    """
    silence = drop(1.0, kinds={parcel.MASKED})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=departments) as at_work:
        at_work.run()
        assert states(at_work.federation) == ("stopped", ["lost"] * 3, 0)
    later = second_epoch(at_work.federation, leaving={"ash"})
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later)[0] == ("finished" if goes_on else "stopped")
        assert {facts["code"] for facts in after.told("refused") if facts["request"] == parcel.ROUND_OPEN} == (
            set() if goes_on else {"CR32"}
        )


def test_the_same_survivor_set_may_be_opened_again_in_the_next_epoch(tmp_path):
    """As before, but nobody leaves: the set is the same by identity, though every key is another."""
    silence = drop(1.0, kinds={parcel.SHARES})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=4) as at_work:
        at_work.run()
    later = second_epoch(at_work.federation)
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later) == ("finished", ["lost", "closed", "closed", "closed"], 3)
