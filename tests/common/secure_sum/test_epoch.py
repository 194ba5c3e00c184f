"""An epoch's beginning, machines only: who meets whom, from when on, and which lies of a coordinator are refused."""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import (
    AnotherSurvivorSet,
    BadGreeting,
    BadSignature,
    BroadcastMismatch,
    ForeignState,
    KeyFileError,
    NotCountersigned,
    NotIntroduced,
    SplitRoster,
    UsageError,
    WrongFederation,
)
from commonroot.common.greetings import Greet, Greeting, Introduce, put_letters
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import CIPHERTEXT_BYTES, AgreementKey
from commonroot.common.secure_sum.committee import peers_of
from commonroot.common.secure_sum.epoch import EpochSetup, acquainted, check_letter, introduction
from commonroot.common.secure_sum.memory import Commitment, DepartmentMemory, Opening, quorums_meet
from commonroot.common.secure_sum.primitives import Identity, sha256


class Epoch:
    """n departments of one epoch; ``identities`` and ``keys`` may be handed on from another."""

    def __init__(self, n: int = 5, *, epoch: int = 1, before: Epoch | None = None, expires: int = 2**40) -> None:
        self.coordinator = before.coordinator if before else Identity.generate(os.urandom)
        self.identities = before.identities if before else [Identity.generate(os.urandom) for _ in range(n)]
        self.keys = before.keys if before else [AgreementKey.generate(os.urandom) for _ in range(n)]
        members = [
            Member.signed(f"d{at}", identity, key.public, f"node-{at}")
            for at, (identity, key) in enumerate(zip(self.identities, self.keys, strict=True))
        ]
        self.roster = Roster(
            federation="f",
            epoch=epoch,
            coordinator=self.coordinator.public.hex(),
            parameters=Parameters.for_size(len(members)),
            departments=tuple(members),
            expires=expires,
        )
        self.setups = [self.fresh(at) for at in range(len(members))]
        self.memories = [DepartmentMemory.begin(self.roster, at, os.urandom) for at in range(len(members))]

    def fresh(self, at: int) -> EpochSetup:
        """A greeting of its own each time, for encapsulation is random."""
        return EpochSetup.begin(self.roster, self.identities[at], self.keys[at])

    def greetings(self, *who: int) -> dict[int, tuple[bytes, bytes]]:
        return {at: (self.setups[at].greeting, self.setups[at].ciphertexts) for at in who}

    def introduce(self, to: int, *who: int) -> None:
        told = introduction(self.coordinator, self.roster, to, self.greetings(*who))
        self.hear(to, *told)

    def hear(self, to: int, head: bytes, body: bytes) -> None:
        self.setups[to], self.memories[to] = self.setups[to].introduce(self.roster, head, body, self.memories[to])

    def chain(self, at: int, peer: int) -> bytes:
        return self.memories[at].chains.rounds[peer]


def lie(
    epoch: Epoch, who: tuple[int, ...], letters: list[tuple[bytes, bytes]], **changes: object
) -> tuple[bytes, bytes]:
    """An introduction under the coordinator's good signature, whatever it says."""
    body = put_letters(letters)
    fields = {"roster": epoch.roster.digest, "epoch": epoch.roster.epoch, "who": who, "body": sha256(body)}
    return Introduce.signed(epoch.coordinator, **(fields | changes)).encode(), body


def letter(epoch: Epoch, sender: int, to: int) -> tuple[bytes, bytes]:
    setup = epoch.setups[sender]
    addressed = Greeting.decode(setup.greeting).to
    at = addressed.index(to) if to in addressed else None
    cut = b"" if at is None else setup.ciphertexts[at * CIPHERTEXT_BYTES : (at + 1) * CIPHERTEXT_BYTES]
    return setup.greeting, cut


# -- meeting -----------------------------------------------------------------------------------------------------------


def test_once_everybody_met_everybody_each_pair_holds_one_chain_and_no_private_key_is_left():
    epoch = Epoch(5)
    for at in range(5):
        epoch.introduce(at, *(other for other in range(5) if other != at))
    chains = {(i, j): epoch.chain(i, j) for i in range(5) for j in range(5)}
    assert all(chains[i, j] == chains[j, i] for i in range(5) for j in range(5))
    assert len(set(chains.values())) == 5 * 6 // 2
    for setup in epoch.setups:
        assert (setup.seed, dict(setup.curve), dict(setup.roots)) == (b"", {}, {})


@given(st.permutations(range(5)), st.data())
def test_in_whatever_order_and_portions_greetings_come_the_chains_are_the_same(order, data):
    epoch = EPOCH
    at = data.draw(st.integers(0, 4))
    others = [other for other in order if other != at]
    cut = data.draw(st.integers(1, 4))
    setup, memory = epoch.setups[at], epoch.memories[at]
    for portion in (others[:cut], others[cut:], others):  # the last a repeat
        if portion:
            told = introduction(epoch.coordinator, epoch.roster, at, epoch.greetings(*portion))
            setup, memory = setup.introduce(epoch.roster, *told, memory)
    assert memory == WHOLE[at]
    assert setup.seed == b""


EPOCH = Epoch(5)
WHOLE = []
for _at in range(5):
    _told = introduction(EPOCH.coordinator, EPOCH.roster, _at, EPOCH.greetings(*(o for o in range(5) if o != _at)))
    WHOLE.append(EPOCH.setups[_at].introduce(EPOCH.roster, *_told, EPOCH.memories[_at])[1])


def test_no_chain_is_there_before_a_quorum_has_countersigned():
    """5 departments, t_c = 1: tau = ⌊(5 + 1)/2⌋ + 1 = 4, oneself included."""
    epoch = Epoch(5)
    epoch.introduce(4, 0, 1)
    assert len(epoch.setups[4].seen) == 3
    assert not any(epoch.memories[4].chains.holds(peer) for peer in range(4))
    with pytest.raises(NotCountersigned, match="3 departments countersigned this roster, 4 are needed"):
        epoch.setups[4].require_begun(epoch.roster)
    epoch.introduce(4, 2)
    epoch.setups[4].require_begun(epoch.roster)
    assert [epoch.memories[4].chains.holds(peer) for peer in range(5)] == [True, True, True, False, True]


def test_who_is_lowest_needs_no_private_key_from_the_start_and_who_is_highest_until_all_have_greeted():
    epoch = Epoch(4)
    assert epoch.setups[0].seed == b""
    assert dict(epoch.setups[0].curve) == {}
    epoch.introduce(3, 0, 1)
    assert epoch.setups[3].seed == epoch.keys[3].seed
    assert set(epoch.setups[3].curve) == {2}  # what was agreed with 0 and 1 is gone
    epoch.introduce(3, 2)
    assert epoch.setups[3].seed == b""


def test_the_curves_private_key_is_nowhere_in_what_is_kept():
    epoch = Epoch(4)
    for setup, key in zip(epoch.setups, epoch.keys, strict=True):
        assert key.curve.hex().encode() not in setup.to_bytes()


def test_a_latecomer_is_in_step_with_departments_that_are_rounds_ahead():
    epoch = Epoch(5)
    for at in range(4):
        epoch.introduce(at, *(other for other in range(4) if other != at))
    for at, ahead in enumerate((700, 3, 300, 256)):
        memory = epoch.memories[at]
        epoch.memories[at] = dataclasses.replace(memory, chains=memory.chains.forward(ahead))
        epoch.introduce(at, 4)
    epoch.introduce(4, 0, 1, 2, 3)
    for at in range(4):
        mine = epoch.memories[4].chains.forward(epoch.memories[at].chains.at)
        assert mine.rounds[at] == epoch.chain(at, 4)


def test_where_only_some_are_peers_all_countersignatures_count_and_only_peers_get_chains():
    epoch = Epoch(5)
    ring = {at: {(at - 1) % 5, (at + 1) % 5} for at in range(5)}
    epoch.setups = [EpochSetup.begin(epoch.roster, epoch.identities[at], epoch.keys[at], ring[at]) for at in range(5)]
    for at in range(5):
        epoch.introduce(at, *(other for other in range(5) if other != at))
    for at in range(5):
        assert {peer for peer in range(5) if epoch.memories[at].chains.holds(peer)} == ring[at] | {at}
        assert len(epoch.setups[at].seen) == 5
    assert epoch.chain(4, 0) == epoch.chain(0, 4)


def test_the_keys_must_be_the_rosters():
    epoch = Epoch(3)
    with pytest.raises(KeyFileError):
        EpochSetup.begin(epoch.roster, epoch.identities[0], epoch.keys[1])


# -- the coordinator lies ----------------------------------------------------------------------------------------------


def test_a_greeting_under_anothers_name_is_refused_and_the_name_is_said():
    epoch = Epoch(4)
    with pytest.raises(BadSignature, match="department 'd1'"):
        epoch.hear(3, *lie(epoch, (1,), [letter(epoch, 0, 3)]))


def test_a_ciphertext_that_was_swapped_or_changed_is_refused_and_its_sender_named():
    epoch = Epoch(4)
    head, ciphertext = letter(epoch, 0, 3)
    for other in (letter(epoch, 1, 3)[1], letter(epoch, 0, 2)[1], bytes(1088), ciphertext[:-1] + b"?", b""):
        with pytest.raises(BadGreeting, match="'d0'"):
            epoch.hear(3, *lie(epoch, (0,), [(head, other)]))


def test_a_ciphertext_for_somebody_who_needs_none_is_refused():
    epoch = Epoch(4)
    with pytest.raises(BadGreeting, match="nobody asked for"):
        epoch.hear(0, *lie(epoch, (3,), [(letter(epoch, 3, 0)[0], bytes(1088))]))


def test_a_greeting_of_an_earlier_epoch_is_refused():
    old = Epoch(4)
    new = Epoch(epoch=2, before=old)
    with pytest.raises(WrongFederation, match="'d0' is in epoch 1"):
        new.hear(3, *lie(new, (0,), [letter(old, 0, 3)]))
    with pytest.raises(WrongFederation, match="the coordinator is in epoch 1"):
        new.hear(3, *lie(old, (0,), [letter(old, 0, 3)]))


def test_a_second_greeting_of_one_department_is_refused_and_the_first_stands():
    epoch = Epoch(4)
    epoch.introduce(3, 0)
    epoch.setups[0] = epoch.fresh(0)
    with pytest.raises(BadGreeting, match="'d0' has greeted before"):
        epoch.introduce(3, 0, 1)
    assert set(epoch.setups[3].met) == {0, 3}  # nothing of a refused introduction counts


def test_a_body_that_is_not_the_signed_one_is_refused():
    epoch = Epoch(4)
    head, body = introduction(epoch.coordinator, epoch.roster, 3, epoch.greetings(0))
    with pytest.raises(BroadcastMismatch):
        epoch.hear(3, head, body[:-1] + b"?")


def test_what_somebody_else_than_the_coordinator_signs_is_refused():
    epoch = Epoch(4)
    for identity in (epoch.identities[0], Identity.generate(os.urandom)):
        with pytest.raises(BadSignature, match="the coordinator"):
            epoch.hear(3, *introduction(identity, epoch.roster, 3, epoch.greetings(0)))
        asked = Greet.signed(identity, roster=epoch.roster.digest, epoch=1).encode()
        with pytest.raises(BadSignature, match="the coordinator"):
            epoch.setups[3].greet(epoch.roster, asked)


def test_a_department_that_is_not_in_the_roster_cannot_be_introduced():
    epoch = Epoch(4)
    with pytest.raises(BadGreeting, match="not in the roster"):
        epoch.hear(3, *lie(epoch, (4,), [letter(epoch, 0, 3)]))


def test_two_rosters_of_one_epoch_never_both_reach_a_quorum():
    """Ten departments, t_c = 1, tau = 6: whoever saw the one roster does not count for the other, 6 + 6 > 10 + 1.

    Five are shown roster A and five roster B, both under every good signature; a greeting from the other side is
    refused as a split view, and neither side begins.
    """
    left = Epoch(10)
    right = Epoch(before=left, expires=2**39)
    assert left.roster.digest != right.roster.digest
    for mine, theirs, members, others in ((left, right, range(5), range(5, 10)), (right, left, range(5, 10), range(5))):
        for at in members:
            mine.introduce(at, *(other for other in members if other != at))
            for other in others:
                with pytest.raises(SplitRoster, match=f"department 'd{other}' has another roster of epoch 1"):
                    mine.hear(at, *lie(mine, (other,), [letter(theirs, other, at)]))
            assert not mine.setups[at].begun(mine.roster)
            assert not any(mine.memories[at].chains.holds(peer) for peer in range(10) if peer != at)


def test_a_request_for_another_roster_of_this_epoch_is_refused_as_a_split_view():
    epoch = Epoch(3)
    other = Epoch(before=epoch, expires=2**39)
    asked = Greet.signed(epoch.coordinator, roster=other.roster.digest, epoch=1).encode()
    with pytest.raises(SplitRoster, match="the coordinator"):
        epoch.setups[0].greet(epoch.roster, asked)


def test_a_cohort_with_somebody_withheld_is_refused_and_the_name_is_said():
    from sum_federation import BROADCAST, Federation

    federation = Federation(4)
    machine = federation.machines[0]
    chains = machine.memory.chains
    without = dataclasses.replace(
        chains,
        blocks=tuple(b"" if at == 2 else key for at, key in enumerate(chains.blocks)),
        rounds=tuple(b"" if at == 2 else key for at, key in enumerate(chains.rounds)),
    )
    machine._memory = dataclasses.replace(machine.memory, chains=without)
    with pytest.raises(NotIntroduced, match="'d2'"):
        machine.review(federation.opening().encode(), BROADCAST, charter=federation.charter)
    machine.review(federation.opening(cohort=(0, 1, 3)).encode(), BROADCAST, charter=federation.charter)


def test_an_introduction_changes_nothing_but_chains():
    from sum_federation import Federation

    machine = Federation(3).machines[0]
    with pytest.raises(UsageError):
        machine.adopt(dataclasses.replace(machine.memory, newest=((bytes(32), 4, bytes(32)),)))
    with pytest.raises(UsageError):
        machine.adopt(dataclasses.replace(machine.memory, chains=machine.memory.chains.forward(1)))


# -- what the coordinator checks ---------------------------------------------------------------------------------------


def test_the_coordinator_refuses_what_receivers_would_refuse():
    epoch = Epoch(4)
    head, body = epoch.setups[1].greeting, epoch.setups[1].ciphertexts
    peers = peers_of(epoch.roster, 1)
    check_letter(epoch.roster, 1, head, body, peers)
    for bad in (body[:-1], body + b"\0", body[::-1], b""):
        with pytest.raises(BadGreeting):
            check_letter(epoch.roster, 1, head, bad, peers)
    with pytest.raises(BadGreeting, match="does not greet the departments that it should"):
        check_letter(epoch.roster, 1, head, body, (0, 2))
    with pytest.raises(BadSignature):
        check_letter(epoch.roster, 2, head, body, peers)


@given(st.sets(st.integers(0, 6), max_size=7), st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))))
def test_a_cohort_holds_only_departments_that_have_all_met(present, strangers):
    met = {i: {j for j in range(7) if (i, j) not in strangers} for i in range(7)}
    peers = {i: tuple(j for j in range(7) if j != i) for i in range(7)}
    chosen = acquainted(present, met, peers)
    assert set(chosen) <= present
    assert all(j in met[i] for i in chosen for j in chosen if i != j)
    if not strangers:
        assert set(chosen) == present


def test_one_that_met_nobody_costs_nobody_else_a_place():
    met = {0: {1, 2, 3}, 1: {0, 2}, 2: {0, 1}, 3: set()}
    peers = {i: tuple(j for j in range(4) if j != i) for i in range(4)}
    assert acquainted(range(4), met, peers) == (0, 1, 2)


# -- from one epoch to the next ----------------------------------------------------------------------------------------


def roster_of(*names: str, epoch: int) -> Roster:
    members = [
        Member.signed(name, Identity(sha256(name.encode())), AgreementKey.generate(os.urandom).public, f"node-{name}")
        for name in names
    ]
    return Roster(
        federation="f",
        epoch=epoch,
        coordinator="00" * 32,
        parameters=Parameters.for_size(len(members)),
        departments=tuple(members),
        expires=1,
    )


CHARTER = bytes(32)


def opened_in(roster: Roster, *survivors: tuple[int, ...]) -> DepartmentMemory:
    """A memory in which versions 1, 2, … of a charter were opened for these sets."""
    sets = [Opening(CHARTER, at, bytes([at] * 32), one) for at, one in enumerate(survivors, 1)]
    return dataclasses.replace(
        DepartmentMemory.begin(roster, 0, os.urandom),
        commitments=(Commitment(7, bytes([2] * 32), b"the shares"),),
        openings=tuple(sets),
        newest=((CHARTER, len(sets), bytes(32)),),
    )


def test_what_was_opened_is_remembered_by_identity_and_keys_are_left_behind():
    """Numbers change: a, b, c, d, e become e, d, c, a.  {a, c, d} was (0, 2, 3) and is (1, 2, 3); {a, b, c} is gone."""
    left, now = roster_of(*"abcde", epoch=1), roster_of(*"edca", epoch=2)
    before = opened_in(left, (0, 2, 3), (0, 1, 2))
    fresh = DepartmentMemory.begin(now, 3, os.urandom)
    after = fresh.follow(before, left=left, roster=now)
    assert [opening.survivors for opening in after.openings] == [(1, 2, 3), ()]
    assert after.commitments == (Commitment(7, bytes([2] * 32), b""),)
    assert after.newest == before.newest
    assert after.chains == fresh.chains
    assert DepartmentMemory.from_bytes(after.to_bytes()) == after
    back = roster_of(*"abcde", epoch=3)
    again = DepartmentMemory.begin(back, 0, os.urandom).follow(after, left=now, roster=back)
    assert [opening.survivors for opening in again.openings] == [(0, 2, 3), ()]
    with pytest.raises(ForeignState):
        fresh.follow(before, left=now, roster=now)


def test_where_quorums_need_not_meet_what_was_masked_last_is_closed_for_good():
    """Or where the earlier roster is lost: then nobody can tell."""
    left, now = roster_of(*"abc", epoch=1), roster_of(*"abd", epoch=2)
    before = opened_in(left, (0, 1, 2), (0, 1, 2))
    for roster in (left, None):
        after = DepartmentMemory.begin(now, 0, os.urandom).follow(before, left=roster, roster=now)
        assert [(opening.version, opening.survivors) for opening in after.openings] == [(1, ()), (2, ()), (2, ())]


@pytest.mark.parametrize(
    ("left", "now", "meet"),
    [
        ("abcde", "abcde", True),  # 4 + 4 > 5 + 1
        ("abcde", "abcd", True),  # (4 - 1) + 3 > 4 + 1
        ("abcd", "abcde", True),  # 3 + (4 - 1) > 4 + 1
        ("abcd", "abc", False),  # (3 - 1) + 2 = 3 + 1
        ("abc", "abd", False),  # (2 - 1) + (2 - 1) = 2 + 0
        ("abcdef", "ghijkl", False),
        ("abcde", "abcfg", False),  # (4 - 2) + (4 - 2) = 3 + 1
    ],
)
def test_quorums_of_two_epochs_meet_in_an_honest_department_where_the_numbers_say_so(left, now, meet):
    """The law by brute force: every quorum of the one with every quorum of the other, in more than t_c departments."""
    one, other = roster_of(*left, epoch=1), roster_of(*now, epoch=2)
    colluders = max(one.parameters.colluders, other.parameters.colluders)
    found = all(
        len(set(first) & set(second)) > colluders
        for first in itertools.combinations(left, one.parameters.opening_quorum)
        for second in itertools.combinations(now, other.parameters.opening_quorum)
    )
    assert quorums_meet(one, other) == quorums_meet(other, one) == meet == found


def test_a_backbone_that_is_closed_for_good_is_contributed_to_no_more():
    from sum_federation import BROADCAST, Federation

    federation = Federation(4)
    machine = federation.machines[0]
    for about in ((federation.charter.digest, 0, bytes(32)), (bytes(32), 9, sha256(BROADCAST))):
        machine._memory = dataclasses.replace(machine.memory, openings=(Opening(*about, ()),))
        with pytest.raises(AnotherSurvivorSet, match="closed for good"):
            machine.review(federation.opening().encode(), BROADCAST, charter=federation.charter)


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_a_setup_survives_its_bytes_at_every_stage_and_is_never_shown():
    epoch = Epoch(4)
    stages = [epoch.setups[2]]
    epoch.introduce(2, 0)
    stages.append(epoch.setups[2])
    epoch.introduce(2, 1, 3)
    stages.append(epoch.setups[2])
    for setup in stages:
        assert EpochSetup.from_bytes(setup.to_bytes()) == setup
        for secret in (setup.seed, *setup.curve.values(), *setup.roots.values()):
            assert not secret or secret.hex() not in repr(setup)
    for bad in (b"{}", b"null", stages[0].to_bytes()[:-1], stages[0].to_bytes().replace(b'"layout":1', b'"layout":2')):
        with pytest.raises(ForeignState):
            EpochSetup.from_bytes(bad)
