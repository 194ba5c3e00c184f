"""Rounds of more than 32 departments: sparse masks, a committee, losses at every stage, and a coordinator that lies."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from large_federation import LargeFederation
from sum_federation import BROADCAST, changed_upload, forged_open, total

from commonroot.common.errors import (
    AnotherSurvivorSet,
    BadCohort,
    BadSignature,
    CommitmentMismatch,
    NotEnoughShares,
    NotEnoughUploads,
    OutsideCharter,
    SecondSurvivorSet,
    StaleRound,
    TooFewSurvivors,
    UnknownRound,
    UsageError,
    WrongFederation,
    WrongSize,
)
from commonroot.common.messages import Masked, Ready, Shares, Train, box_bytes
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.masks import add_streams, sign
from commonroot.common.secure_sum.memory import ANSWERS_KEPT, COMMITMENTS_KEPT, Commitment, DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256


def test_a_hundred_departments_lose_thirty_and_the_sum_is_exact():
    """n = 100: m = 40, tau = 25, k = 36.  Thirty are lost before they upload; 25 members answer, lost ones not."""
    federation = LargeFederation(100)
    lost = federation.lost(0.3, seed=4)
    survivors = sorted(set(range(100)) - lost)
    opening = federation.opening()
    at_work = federation.fixed(opening, survivors)
    answering = [member for member in at_work.members if member not in lost]
    assert len(answering) >= 25
    federation.answers(at_work, answering[:24])
    with pytest.raises(NotEnoughShares):
        at_work.finish()
    federation.answers(at_work, answering[24:25])
    assert total(at_work) == federation.ring_sum(survivors, opening)
    assert at_work.liars == ()


def test_a_thousand_departments_lose_three_hundred_and_the_sum_is_exact():
    """n = 1,000: m = 96, tau = 61, k = 104, t_c = 25; 700 upload, of the committee 61 answer."""
    federation = LargeFederation(1000)
    assert (federation.parameters.committee, federation.parameters.degree) == (96, 104)
    lost = federation.lost(0.3, seed=1)
    survivors = sorted(set(range(1000)) - lost)
    opening = federation.opening()
    at_work = federation.fixed(opening, survivors)
    answering = [member for member in at_work.members if member not in lost]
    federation.answers(at_work, answering[:61])
    sum16, sum64 = at_work.finish()
    lanes = [federation.lanes(department, opening) for department in survivors]
    assert np.array_equal(sum16, np.sum([a for a, _ in lanes], axis=0, dtype=sum16.dtype))
    assert np.array_equal(sum64, np.sum([b for _, b in lanes], axis=0, dtype=np.uint64))


@pytest.fixture
def fifty():
    """n = 50: t_c = 5, m = 32, tau = 19, k = 24, u_min = 25; 12 in a row on the ring keep at least 3."""
    federation = LargeFederation(50)
    p = federation.parameters
    assert (p.colluders, p.committee, p.opening_quorum, p.degree, p.survivors_min) == (5, 32, 19, 24, 25)
    return federation


def test_uploads_hold_a_box_per_member_and_a_commitment_per_neighbour(fifty):
    opening = fifty.opening(cohort=sorted(set(range(50)) - fifty.lost(0.2, seed=3)))
    for sender in (fifty.committee[0], next(i for i in opening.cohort if i not in fifty.committee)):
        if sender not in opening.cohort:
            continue
        head, _ = fifty.upload(sender, opening)
        masked = Masked.decode(head)
        assert len(masked.boxes) == len(set(fifty.committee) & set(opening.cohort))
        assert len(masked.commitments) == 1 + len(set(fifty.graph.neighbours(sender)) & set(opening.cohort))
        assert {len(box) for box in masked.boxes} == {box_bytes(len(masked.commitments))}
        assert masked.encode() == head


def test_departments_outside_the_cohort_are_missing_like_any_that_are_lost(fifty):
    """Ten were never asked, five are lost; edges to the ten do not exist, and nobody pays for them at opening."""
    outside = fifty.lost(0.2, seed=5)
    cohort = sorted(set(range(50)) - outside)
    lost = fifty.lost(0.1, seed=6, of=cohort)
    survivors = sorted(set(cohort) - lost)
    opening = fifty.opening(cohort=cohort)
    at_work = fifty.fixed(opening, survivors)
    assert not {j for pair in at_work._wanted for j in pair} & outside
    fifty.answers(at_work, [member for member in at_work.members if member in survivors][:19])
    assert total(at_work) == fifty.ring_sum(survivors, opening)


def test_members_that_were_late_still_open_and_others_are_not_asked(fifty):
    late = set(fifty.committee[:8])
    opening = fifty.opening()
    at_work = fifty.fixed(opening, set(range(50)) - late)
    for member in late:
        assert at_work.upload(member, *fifty.upload(member, opening)) is False
    bystander = next(i for i in range(50) if i not in fifty.committee)
    with pytest.raises(UsageError):
        at_work.open_for(bystander)
    with pytest.raises(UnknownRound, match="not on the opening committee"):
        fifty.machines[bystander].answer(fifty.confirm(at_work).open_for(fifty.committee[0]))
    fifty.answers(at_work, fifty.committee[:19])
    assert total(at_work) == fifty.ring_sum(set(range(50)) - late, opening)


def test_an_answer_of_no_member_is_refused(fifty):
    at_work = fifty.fixed(fifty.opening(), range(50))
    bystander = next(i for i in range(50) if i not in fifty.committee)
    forged = Shares.signed(
        fifty.identities[bystander],
        transcript=at_work.transcript,
        member=bystander,
        opened=at_work.opened_digest,
        shares=(bytes(32),) * 50,
    )
    with pytest.raises(UnknownRound):
        at_work.shares(bystander, forged.encode())


# -- the window rule --------------------------------------------------------------------------------------------------


def test_a_row_of_lost_neighbours_is_not_summed_around(fifty):
    """12 in a row keep 3 of 12: without nine of them the sum is opened, without ten nobody settles on it."""
    row = fifty.row(7, 12)
    opening = fifty.opening()
    at_work = fifty.gathered(opening, sorted(set(range(50)) - set(row[:10])))
    with pytest.raises(NotEnoughUploads, match="2 of some 12 departments in a row"):
        at_work.fix()
    at_work.upload(row[9], *fifty.upload(row[9], opening))
    survivors = at_work.fix()
    assert set(survivors) == set(range(50)) - set(row[:9])
    fifty.answers(at_work, [member for member in fifty.committee if member in survivors][:19])
    assert total(at_work) == fifty.ring_sum(survivors, opening)


def test_members_refuse_a_survivor_set_that_colluders_could_split(fifty):
    """The coordinator claims a row of ten dropped, so that 5 colluders in two windows could cut honest ones off."""
    opening = fifty.opening()
    at_work = fifty.gathered(opening, range(50))
    member = fifty.committee[3]
    before = fifty.machines[member].memory
    survivors = sorted(set(range(50)) - set(fifty.row(20, 10)))
    with pytest.raises(TooFewSurvivors, match="in a row"):
        fifty.machines[member].answer(forged_open(fifty, at_work, member, survivors))
    with pytest.raises(TooFewSurvivors, match="24 survivors"):
        fifty.machines[member].answer(forged_open(fifty, at_work, member, range(24)))
    assert fifty.machines[member].memory is before


def test_departments_refuse_a_cohort_that_could_not_be_opened(fifty):
    thin = sorted(set(range(50)) - set(fifty.row(0, 10)))
    few = sorted(set(range(50)) - set(fifty.committee[:14]))
    for cohort, said in ((thin, "in a row"), (few, "18 members"), (range(24), "a cohort of 24")):
        opening = fifty.opening(cohort=cohort)
        asked = next(iter(opening.cohort))
        with pytest.raises(BadCohort, match=said):
            fifty.upload(asked, opening)
        with pytest.raises(BadCohort, match=said):
            fifty.round(opening)


# -- lies -------------------------------------------------------------------------------------------------------------


def test_the_upload_of_a_live_department_that_is_claimed_dropped_stays_masked(fifty):
    """All pairwise masks of department 3 can be taken off; b_3 is still on it."""
    opening = fifty.opening()
    at_work = fifty.gathered(opening, sorted(set(range(50)) - {3}))
    _, body = fifty.upload(3, opening)
    at_work.fix()
    fifty.answers(at_work, fifty.committee[:19])
    secrets = at_work._recover()
    assert {dealer for dealer, of in secrets if of == 3} == set(fifty.graph.neighbours(3))
    assert all(dealer != 3 for dealer, _ in secrets)
    seen = [part.copy() for part in fifty.codec.layout.split(body)]
    add_streams(*seen, [(-sign(3, i), secrets[i, 3]) for i in fifty.graph.neighbours(3)])
    assert np.count_nonzero(seen[0] == fifty.lanes(3, opening)[0]) < 3  # 38 lanes, each by chance with 2^-16


def test_one_round_is_opened_for_one_set_and_one_backbone_too(fifty):
    member = fifty.committee[0]
    at_work = fifty.fixed(fifty.opening(), range(50))
    fifty.machines[member].answer(fifty.confirm(at_work).open_for(member))
    with pytest.raises(SecondSurvivorSet):
        fifty.machines[member].answer(forged_open(fifty, at_work, member, range(1, 50)))
    second = fifty.gathered(fifty.opening(2), range(1, 50))
    if member == 0:
        fifty.upload(0, fifty.opening(2))
    second.fix()
    with pytest.raises(AnotherSurvivorSet):
        fifty.machines[member].answer(fifty.confirm(second).open_for(member))


def test_false_commitments_and_counts_are_found_at_upload(fifty):
    opening = fifty.opening()
    at_work = fifty.gathered(opening, fifty.graph.neighbours(7))
    spoil = lambda c: (c[0], bytes(32), *c[2:])  # noqa: E731
    with pytest.raises(CommitmentMismatch, match="'d7'"):
        at_work.upload(7, *changed_upload(fifty, 7, opening, commitments=spoil))
    other = fifty.gathered(fifty.opening(2), [])
    with pytest.raises(WrongSize, match="'d8' sent 31 boxes"):
        other.upload(8, *changed_upload(fifty, 8, fifty.opening(2), boxes=lambda b: b[:-1]))
    fewer = {"commitments": lambda c: c[:-1], "boxes": lambda b: tuple(box[:-32] for box in b)}
    with pytest.raises(WrongSize, match="'d9' made 24 commitments"):
        other.upload(9, *changed_upload(fifty, 9, fifty.opening(2), **fewer))


def test_members_that_lie_are_named_and_the_sum_is_exact_without_them(fifty):
    """tau = 19 of 32; five liars, t_c, are at most (32 - 19)/2; 27 agree, 19 + 5 - 1 = 23 would do to name them."""
    lost = fifty.lost(0.2, seed=8)
    survivors = sorted(set(range(50)) - lost)
    opening = fifty.opening()
    at_work = fifty.fixed(opening, survivors)
    for member in lost & set(fifty.committee):
        fifty.upload(member, opening)
    liars = fifty.committee[2:7]
    for member in fifty.committee:
        reply, _ = fifty.machines[member].answer(fifty.confirm(at_work).open_for(member))
        if member in liars:
            said = Shares.decode(reply)
            fields = {"transcript": said.transcript, "member": member, "opened": said.opened}
            shares = tuple(bytes(byte ^ 1 for byte in share) for share in said.shares)
            reply = Shares.signed(fifty.identities[member], shares=shares, **fields).encode()
        at_work.shares(member, reply)
    assert total(at_work) == fifty.ring_sum(survivors, opening)
    assert at_work.liars == tuple(liars)


# -- crash, memory ----------------------------------------------------------------------------------------------------


def test_a_crashed_coordinator_goes_on_from_its_snapshot(fifty):
    lost = fifty.lost(0.3, seed=2)
    opening = fifty.opening()
    at_work = fifty.fixed(opening, set(range(50)) - lost)
    restored = CoordinatorRound.restore(fifty.roster, fifty.coordinator, at_work.snapshot())
    assert restored.members == at_work.members
    fifty.confirm(at_work)
    fifty.confirm(restored)
    assert all(restored.open_for(member) == at_work.open_for(member) for member in at_work.members)
    for member in lost & set(fifty.committee):
        fifty.upload(member, opening)
    fifty.answers(restored, restored.members[-19:])
    assert total(restored) == fifty.ring_sum(set(range(50)) - lost, opening)


def test_who_does_not_open_keeps_no_key_of_a_round_it_masked_for(fifty):
    opening = fifty.opening()
    for department in range(50):
        fifty.upload(department, opening)
        assert fifty.machines[department].memory.chains.at == (1 if department in fifty.committee else 2)
        fifty.restart(department, fifty.machines[department].memory.to_bytes())
    second = fifty.opening(2)
    at_work = fifty.fixed(second, range(50))
    fifty.answers(at_work, fifty.committee[:19])
    assert total(at_work) == fifty.ring_sum(range(50), second)


def answered(memory, number, size):
    """The memory after another round, with an answer of that many bytes."""
    masked = memory.with_upload(replace(memory.upload, round=number), memory.chains.forward(number))
    return masked.with_answer(Commitment(number, bytes(32), bytes(size)), masked.upload, (0, 1, 2))


def test_old_replies_are_let_go_of_when_they_are_large_and_what_was_opened_is_not(fifty):
    member = fifty.committee[0]
    opening = fifty.opening()
    at_work = fifty.fixed(opening, range(50))
    fifty.machines[member].answer(fifty.confirm(at_work).open_for(member))
    memory = fifty.machines[member].memory
    for number in range(2, 5):
        memory = answered(memory, number, ANSWERS_KEPT // 2)
    assert [len(one.answer) for one in memory.commitments] == [0, 0, ANSWERS_KEPT // 2, ANSWERS_KEPT // 2]
    memory = answered(memory, 5, 2 * ANSWERS_KEPT)
    assert [bool(one.answer) for one in memory.commitments] == [False] * 4 + [True]
    assert len(memory.commitments) <= COMMITMENTS_KEPT
    fifty.machines[member]._memory = DepartmentMemory.from_bytes(memory.to_bytes())
    with pytest.raises(UnknownRound, match="is not kept"):
        fifty.machines[member].answer(fifty.confirm(at_work).open_for(member))
    with pytest.raises(SecondSurvivorSet):
        fifty.machines[member].answer(forged_open(fifty, at_work, member, range(1, 50)))


# -- the ready stage --------------------------------------------------------------------------------------------------


def asked_to_train(federation, **changes):
    fields = {
        "charter": federation.charter.digest,
        "roster": federation.roster.digest,
        "epoch": 1,
        "round": 1,
        "version": 0,
        "broadcast": sha256(BROADCAST),
        "seconds": 60,
    }
    return Train.signed(federation.coordinator, **(fields | changes))


def test_training_ahead_changes_nothing_and_its_answer_is_signed(fifty):
    machine = fifty.machines[4]
    before = machine.memory
    asked = machine.review_train(asked_to_train(fifty).encode(), BROADCAST, charter=fifty.charter)
    ready = Ready.decode(machine.ready(asked))
    ready.check(fifty.identities[4].public, who="department 4")
    assert (ready.asked, ready.sender) == (asked.digest, 4)
    assert machine.memory is before
    machine.review(fifty.opening().encode(), BROADCAST, charter=fifty.charter)
    with pytest.raises(BadSignature):
        dataclasses.replace(ready, sender=5).check(fifty.identities[4].public, who="department 4")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"charter": bytes(32)}, WrongFederation),
        ({"roster": bytes(32)}, WrongFederation),
        ({"epoch": 2}, WrongFederation),
        ({"round": 10_001}, StaleRound),
        ({"version": 5}, OutsideCharter),
        ({"seconds": 121}, OutsideCharter),
    ],
)
def test_a_request_to_train_is_refused_like_a_round(fifty, changes, error):
    with pytest.raises(error):
        fifty.machines[0].review_train(asked_to_train(fifty, **changes).encode(), BROADCAST, charter=fifty.charter)


def test_nobody_trains_for_a_round_that_is_past(fifty):
    fifty.upload(0, fifty.opening(3, version=1))
    for changes in ({"round": 3, "version": 1}, {"round": 4}):
        with pytest.raises(StaleRound):
            fifty.machines[0].review_train(asked_to_train(fifty, **changes).encode(), BROADCAST, charter=fifty.charter)


def test_departments_lost_before_they_were_ready_cost_the_opening_nothing(fifty):
    """Fifteen are lost while training.  With everyone in the cohort their masks are recovered edge by edge; with those
    that were ready alone, one secret per survivor is."""
    lost = fifty.lost(0.3, seed=2)
    ready = sorted(set(range(50)) - lost)
    at_once = fifty.fixed(fifty.opening(1), ready)
    after = fifty.fixed(fifty.opening(2, cohort=ready), ready)
    edges = sum(len(set(fifty.graph.neighbours(i)) & lost) for i in ready)
    assert edges > 200
    assert len(at_once._wanted) == len(ready) + edges
    assert len(after._wanted) == len(ready)
    fifty.answers(after, after.members[:19])
    assert total(after) == fifty.ring_sum(ready, after.opening)
