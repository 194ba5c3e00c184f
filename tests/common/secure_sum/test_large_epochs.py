"""An epoch of more than 32 departments: keys with neighbours and the committee alone, a majority that countersigns."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sum_federation import Federation, total

from commonroot.common.errors import NotCountersigned, NotIntroduced
from commonroot.common.greetings import Greeting
from commonroot.common.roster import Parameters, Roster
from commonroot.common.secure_sum.committee import Committee, peers_of
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup, acquainted, check_letter, countersigners, introduction
from commonroot.common.secure_sum.graph import MaskGraph
from commonroot.common.secure_sum.memory import DepartmentMemory, Opening, quorums_meet
from commonroot.common.secure_sum.primitives import sha256


class Met(Federation):
    """Sixty departments with real greetings: t_c = 6, m = 40, tau = 24, k = 28, u_min = 30.

    34 = ⌊(60 + 6)/2⌋ + 1 must countersign.
    """

    def _acquainted(self, private):
        self.keys = private
        self.setups = [
            EpochSetup.begin(self.roster, identity, key) for identity, key in zip(self.identities, private, strict=True)
        ]
        self.greetings = {at: (setup.greeting, setup.ciphertexts) for at, setup in enumerate(self.setups)}
        self.done = [self.introduced(at, peers_of(self.roster, at)) for at in range(len(private))]
        return [memory for _, memory in self.done]

    def introduced(self, to: int, whom) -> tuple[EpochSetup, DepartmentMemory]:
        told = introduction(self.coordinator, self.roster, to, {at: self.greetings[at] for at in whom})
        return self.setups[to].introduce(self.roster, *told, DepartmentMemory.begin(self.roster, to, self.random))


@cache
def sixty() -> Met:
    return Met(60)


def test_keys_are_agreed_with_neighbours_and_the_committee_and_with_nobody_else():
    made = sixty()
    committee, graph = set(Committee.of(made.roster).members), MaskGraph.of(made.roster)
    assert (len(committee), countersigners(made.roster)) == (40, 34)
    for at, (setup, memory) in enumerate(made.done):
        peers = {*graph.neighbours(at), *committee} - {at} if at not in committee else set(range(60)) - {at}
        assert set(setup.peers) == peers
        assert {peer for peer in range(60) if memory.chains.holds(peer)} == peers | {at}
        assert Greeting.decode(setup.greeting).to == tuple(sorted(peer for peer in peers if peer > at))
        check_letter(made.roster, at, setup.greeting, setup.ciphertexts, peers)
        assert (setup.seed, dict(setup.curve), dict(setup.roots)) == (b"", {}, {})
    bystander = next(at for at in range(60) if at not in committee)
    assert len(made.setups[bystander].peers) < 59


def test_both_ends_hold_the_same_chain():
    made = sixty()
    for at, (setup, memory) in enumerate(made.done):
        assert all(memory.chains.rounds[peer] == made.done[peer][1].chains.rounds[at] for peer in setup.peers)


def test_a_round_under_agreed_keys_loses_a_fifth_and_its_sum_is_exact():
    made = sixty()
    survivors = [at for at in range(60) if at % 5 != 2]
    opening = made.opening()
    at_work = made.gathered(opening, survivors)
    at_work.fix()
    made.answers(at_work, [member for member in at_work.members if member in survivors][:24])
    assert total(at_work) == made.ring_sum(survivors, opening)


def test_a_majority_of_all_departments_countersigns_and_not_a_quorum_of_one_committee():
    """Two rosters have two committees.  24 of 40 members could be found for either; 34 of the same 60 could not."""
    made = sixty()
    whom = [at for at in peers_of(made.roster, 0) if at != 0][:32]
    setup, memory = made.introduced(0, whom)
    assert len(setup.seen) == 33 > made.roster.parameters.opening_quorum
    with pytest.raises(NotCountersigned, match="33 departments countersigned this roster, 34 are needed"):
        setup.require_begun(made.roster)
    assert not any(memory.chains.holds(peer) for peer in whom)
    more = next(at for at in range(60) if at not in {0, *whom})
    told = introduction(made.coordinator, made.roster, 0, {more: made.greetings[more]})
    setup, memory = setup.introduce(made.roster, *told, memory)
    setup.require_begun(made.roster)
    assert all(memory.chains.holds(peer) for peer in whom)


@pytest.mark.parametrize("n", [3, 5, 32, 33, 100, 1000])
def test_two_sets_of_countersigners_share_an_honest_department(n):
    """2·(⌊(n + t_c)/2⌋ + 1) > n + t_c; in a complete graph it is the opening quorum."""
    p = Parameters.for_size(n)
    roster = Roster.model_construct(parameters=p, departments=(None,) * n)
    enough = countersigners(roster)
    assert 2 * enough > n + p.colluders
    assert enough < n or n == 3
    if p.committee is None:
        assert enough == p.opening_quorum


def test_only_partners_of_the_round_must_have_been_met():
    """A bystander never meets some; a member must have met everybody.  Who greets whom first is by number."""
    made = sixty()
    committee = Committee.of(made.roster).members
    absent = committee[0]
    for at in (max(set(range(60)) - set(committee)), committee[-1]):
        others = [peer for peer in peers_of(made.roster, at) if peer != absent]
        setup, memory = made.introduced(at, others)
        setup.require_begun(made.roster)
        machine = DepartmentMachine(made.roster, made.identities[at], memory)
        with pytest.raises(NotIntroduced, match=f"'d{absent}'"):
            machine.review(made.opening().encode(), bytes(24), charter=made.charter)
        rest = tuple(who for who in range(60) if who != absent)
        machine.review(made.opening(cohort=rest).encode(), bytes(24), charter=made.charter)


# -- two epochs --------------------------------------------------------------------------------------------------------


def test_committees_of_two_epochs_need_not_share_anybody_and_what_was_masked_for_is_closed():
    """The same sixty departments, one epoch later: another committee, and no argument that quorums meet."""
    made = sixty()
    later = made.roster.model_copy(update={"epoch": 2})
    later = Roster.model_validate(later.model_dump())
    one, other = (set(Committee.of(roster).members) for roster in (made.roster, later))
    shared = len(one & other)
    assert 2 * (24 - (40 - shared)) <= shared + 6
    assert not quorums_meet(made.roster, later)
    assert quorums_meet(made.roster, made.roster)
    made.upload(7, made.opening(5))
    before = made.machines[7].memory
    after = DepartmentMemory.begin(later, 7, made.random).follow(before, left=made.roster, roster=later)
    assert after.openings == (Opening(made.charter.digest, 0, sha256(bytes(24)), ()),)


# -- who can be in one cohort ------------------------------------------------------------------------------------------


def slowly(present, met, peers):
    """The definition: again and again, leave out who lacks most, counted at both ends."""
    left = set(present)
    while left:
        lacking = {
            at: len((left & set(peers[at])) - met[at])
            + sum(at in peers[other] and at not in met[other] for other in left - {at})
            for at in left
        }
        worst = max(sorted(left), key=lambda at: lacking[at])
        if lacking[worst] == 0:
            break
        left.discard(worst)
    return tuple(sorted(left))


@given(st.data())
def test_who_is_acquainted_is_what_the_slow_definition_says(data):
    n = data.draw(st.integers(1, 9))
    some = st.frozensets(st.integers(0, n - 1))
    peers = {at: tuple(sorted(data.draw(some) - {at})) for at in range(n)}
    met = {at: data.draw(some) for at in range(n)}
    present = data.draw(some)
    assert acquainted(present, met, peers) == slowly(present, met, peers)
