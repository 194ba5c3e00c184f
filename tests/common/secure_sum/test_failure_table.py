"""Every row of the protocol's failure table, played between real machines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_federation import BROADCAST, Federation, total

from commonroot.common.errors import (
    BadBox,
    BadShare,
    BadSignature,
    BroadcastMismatch,
    CommitmentMismatch,
    ForeignState,
    NearbySurvivorSet,
    NotEnoughShares,
    NotEnoughUploads,
    SecondSurvivorSet,
    StaleRound,
    SumRejected,
    TooFewDepartments,
    TooFewSurvivors,
    UnknownRound,
    UsageError,
    WrongSize,
)
from commonroot.common.messages import Masked, Open, Shares
from commonroot.common.roster import Parameters
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.primitives import Identity, sha256


@pytest.mark.parametrize("n", [3, 4, 5, 10])
def test_the_opened_ring_sum_is_bit_exact_when_everyone_stays(n):
    federation = Federation(n)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(n))
    assert at_work.fix() == tuple(range(n))
    federation.answers(at_work, range(n))
    assert total(at_work) == federation.ring_sum(range(n), opening)


def test_the_largest_federation_loses_departments_at_every_stage():
    """n = 32, t_c = 1: tau = 17.  Of 30 asked 27 upload in time; 17 answer, two of them too late to count."""
    federation = Federation(32)
    opening = federation.opening(cohort=[*range(5), *range(7, 32)])
    survivors = [*range(4), *range(9, 32)]
    at_work = federation.gathered(opening, survivors)
    assert at_work.fix() == tuple(survivors)
    for late in (4, 7):
        federation.upload(late, opening)
    federation.answers(at_work, [4, 7, *survivors[:15]])
    assert total(at_work) == federation.ring_sum(survivors, opening)


@settings(max_examples=15)
@given(data=st.data())
def test_any_dropouts_above_the_floors_leave_the_exact_sum_of_the_survivors(data):
    n = data.draw(st.integers(3, 7))
    colluders = data.draw(st.integers(0, max(0, min(2, n - 2))))
    federation = Federation(n, colluders=colluders, seed=data.draw(st.integers(0, 99)))
    tau, floor = federation.roster.parameters.opening_quorum, federation.roster.parameters.survivors_min
    everyone = st.permutations(range(n))
    cohort = sorted(data.draw(everyone)[: data.draw(st.integers(max(tau, floor), n))])
    survivors = sorted(data.draw(st.permutations(cohort))[: data.draw(st.integers(floor, len(cohort)))])
    opening = federation.opening(round=data.draw(st.integers(1, 600)), cohort=cohort)
    at_work = federation.gathered(opening, data.draw(st.permutations(survivors)))
    at_work.fix()
    for late in set(cohort) - set(survivors):
        assert at_work.upload(late, *federation.upload(late, opening)) is False
    answering = data.draw(st.permutations(cohort))[: data.draw(st.integers(tau, len(cohort)))]
    federation.answers(at_work, answering)
    assert total(at_work) == federation.ring_sum(survivors, opening)
    assert at_work.liars == ()


def test_the_decoded_aggregate_is_the_clipped_plaintext_sum_within_the_stated_error():
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(5))
    at_work.fix()
    federation.answers(at_work, range(4))
    opened = federation.codec.decode(*at_work.finish(), 5, opening.bounds)
    bounds = federation.codec.error_bound(5, opening.bounds)
    for term in federation.charter.manifest.terms:
        plain = sum(np.clip(federation.values(i)[term.name].astype(float), -term.bound, term.bound) for i in range(5))
        assert np.abs(opened.values[term.name] - plain).max() < bounds[term.name]
    assert opened.values["weight"] == sum(federation.values(i)["weight"] for i in range(5))
    assert 0 < opened.clipped_share < 1


# -- lost before or during training, or upload late -------------------------------------------------------------------


def test_a_department_lost_before_its_upload_is_not_in_the_sum():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 3])
    assert at_work.fix() == (0, 1, 3)
    federation.answers(at_work, [0, 1, 3])
    assert total(at_work) == federation.ring_sum([0, 1, 3], opening)


def test_a_late_upload_is_discarded_and_its_department_may_still_help_to_open():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 2])
    at_work.fix()
    assert at_work.upload(3, *federation.upload(3, opening)) is False
    federation.answers(at_work, [0, 1, 3])
    assert total(at_work) == federation.ring_sum([0, 1, 2], opening)


# -- lost after upload, members absent --------------------------------------------------------------------------------


def test_a_department_lost_after_its_upload_is_still_counted():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(4))
    at_work.fix()
    federation.answers(at_work, [0, 2, 3])
    assert total(at_work) == federation.ring_sum(range(4), opening)


def test_with_fewer_answers_than_the_quorum_nothing_is_opened_and_the_same_set_may_be_asked_for_again():
    """n = 5, t_c = 1: tau = 4"""
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(5))
    at_work.fix()
    federation.answers(at_work, [0, 1, 4])
    assert not at_work.ready
    with pytest.raises(NotEnoughShares):
        at_work.finish()
    federation.answers(at_work, [0, 3])
    assert at_work.ready
    assert total(at_work) == federation.ring_sum(range(5), opening)


def test_a_lost_round_is_followed_by_a_new_one_with_everyone():
    federation = Federation(4)
    first = federation.gathered(federation.opening(1), range(4))
    first.fix()
    federation.answers(first, [0, 1])
    second = federation.gathered(federation.opening(2), range(4))
    second.fix()
    federation.answers(second, range(4))
    assert total(second) == federation.ring_sum(range(4), federation.opening(2))


# -- too few survivors ------------------------------------------------------------------------------------------------


def test_below_the_floor_the_coordinator_fixes_nothing():
    federation = Federation(4)
    at_work = federation.gathered(federation.opening(), [0, 1])
    with pytest.raises(NotEnoughUploads):
        at_work.fix()
    with pytest.raises(UsageError):
        at_work.open_for(0)
    with pytest.raises(UsageError):
        at_work.snapshot()


def forged_open(federation, at_work, member, survivors, *, identity=None, **changes):
    """What a coordinator that lies about the survivors would send, with the right boxes."""
    fields = {
        "transcript": at_work.transcript,
        "round": at_work.opening.round,
        "survivors": tuple(survivors),
        "boxes": tuple(at_work._kept[i].boxes[member] for i in survivors),
    }
    return Open.signed(identity or federation.coordinator, **(fields | changes)).encode()


def test_members_refuse_a_survivor_set_below_the_roster_floor_or_the_charter_floor():
    for floor, survivors in ((3, (0, 1)), (4, (0, 1, 2))):
        federation = Federation(5, floor=floor)
        at_work = federation.gathered(federation.opening(), range(5))
        before = federation.machines[0].memory
        with pytest.raises(TooFewSurvivors):
            federation.machines[0].answer(forged_open(federation, at_work, 0, survivors))
        assert federation.machines[0].memory is before


def test_members_refuse_a_survivor_set_outside_the_cohort():
    federation = Federation(5)
    at_work = federation.gathered(federation.opening(cohort=[0, 1, 2, 3]), range(4))
    asked = Open.decode(forged_open(federation, at_work, 0, range(4)))
    fields = {"transcript": asked.transcript, "round": 1, "survivors": (0, 1, 2, 4), "boxes": asked.boxes}
    with pytest.raises(TooFewSurvivors):
        federation.machines[0].answer(Open.signed(federation.coordinator, **fields).encode())


# -- crash of the coordinator -----------------------------------------------------------------------------------------


def test_a_crashed_coordinator_goes_on_from_its_snapshot_with_the_same_set():
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 2, 4])
    at_work.fix()
    stored = at_work.snapshot()
    federation.answers(at_work, [0, 1])
    restored = CoordinatorRound.restore(federation.roster, federation.coordinator, stored)
    assert restored.survivors == (0, 1, 2, 4)
    assert [restored.open_for(i) for i in range(5)] == [at_work.open_for(i) for i in range(5)]
    federation.answers(restored, [0, 1, 2, 4])
    assert total(restored) == federation.ring_sum([0, 1, 2, 4], opening)
    assert restored.opened_digest == at_work.opened_digest


def test_a_damaged_snapshot_is_refused_wherever_it_was_damaged():
    federation = Federation(3)
    at_work = federation.gathered(federation.opening(), range(3))
    at_work.fix()
    stored = at_work.snapshot()
    for bad in (b"", stored[:-1], stored + b"\0", stored[:50] + b"?" + stored[51:], bytes(len(stored))):
        with pytest.raises(ForeignState):
            CoordinatorRound.restore(federation.roster, federation.coordinator, bad)
    with pytest.raises(ForeignState):
        CoordinatorRound.restore(Federation(3, seed=2).roster, federation.coordinator, stored)


def test_a_member_repeats_its_answer_byte_for_byte_also_after_its_own_restart():
    federation = Federation(3)
    at_work = federation.gathered(federation.opening(), range(3))
    at_work.fix()
    first, memory = federation.machines[1].answer(at_work.open_for(1))
    assert federation.machines[1].answer(at_work.open_for(1))[0] == first
    federation.restart(1, memory.to_bytes())
    assert federation.machines[1].answer(at_work.open_for(1))[0] == first
    assert at_work.shares(1, first) is True
    assert at_work.shares(1, first) is False


# -- a coordinator that lies ------------------------------------------------------------------------------------------


def test_a_department_never_opens_two_survivor_sets_for_one_round():
    federation = Federation(5)
    at_work = federation.gathered(federation.opening(), range(5))
    at_work.fix()
    federation.machines[0].answer(at_work.open_for(0))
    with pytest.raises(SecondSurvivorSet):
        federation.machines[0].answer(forged_open(federation, at_work, 0, (0, 1, 2)))
    federation.restart(0, federation.machines[0].memory.to_bytes())
    with pytest.raises(SecondSurvivorSet):
        federation.machines[0].answer(forged_open(federation, at_work, 0, (0, 1, 2)))


def test_the_upload_of_a_live_department_that_is_claimed_dropped_stays_masked():
    """Members give the pairwise shares of department 3, and none of b_3; its upload minus all that stays sealed."""
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(5))
    uploaded = {i: at_work._kept[i] for i in range(5)}
    kinds = set()
    for member in range(5):
        reply, _ = federation.machines[member].answer(forged_open(federation, at_work, member, (0, 1, 2, 4)))
        kinds.add(len(Shares.decode(reply).shares))
    assert kinds == {4 * 2}  # b_i and s_i3 for each of four survivors; nothing that department 3 dealt
    for member in range(5):
        with pytest.raises(SecondSurvivorSet):
            federation.machines[member].answer(forged_open(federation, at_work, member, range(5)))
    assert uploaded.keys() == set(range(5))


def test_a_split_view_of_the_survivors_reaches_the_quorum_for_at_most_one_set():
    """n = 5, tau = 4: three members are shown one set and two another, so neither gathers four answers."""
    federation = Federation(5)
    at_work = federation.gathered(federation.opening(), range(5))
    digests = []
    for member in range(5):
        survivors = range(5) if member < 3 else range(3)
        reply, _ = federation.machines[member].answer(forged_open(federation, at_work, member, survivors))
        digests.append(Shares.decode(reply).opened)
    assert max(digests.count(d) for d in digests) < federation.roster.parameters.opening_quorum
    for member in range(5):
        other = range(3) if member < 3 else range(5)
        with pytest.raises(SecondSurvivorSet):
            federation.machines[member].answer(forged_open(federation, at_work, member, other))


@pytest.mark.parametrize(
    "changes", [{"cohort": (0, 1, 2, 3)}, {"version": 1}, {"bounds": (0.5, 4.0)}], ids=["cohort", "model", "bounds"]
)
def test_departments_shown_different_rounds_share_no_masks(changes):
    """Department 0 sees one opening, the others another: neither transcript's coordinator takes the other's upload,
    and no member answers for the transcript it did not see."""
    federation = Federation(5)
    one, two = federation.opening(), federation.opening(**changes)
    uploads = {i: federation.upload(i, one if i == 0 else two) for i in range(4)}
    at_one, at_two = federation.round(one), federation.round(two)
    at_one.upload(0, *uploads[0])
    for i in range(1, 4):
        with pytest.raises(UnknownRound):
            at_one.upload(i, *uploads[i])
        at_two.upload(i, *uploads[i])
    with pytest.raises(UnknownRound):
        at_two.upload(0, *uploads[0])
    at_two.fix()
    with pytest.raises(UnknownRound):
        federation.machines[0].answer(at_two.open_for(0))


def test_a_second_round_open_with_the_same_number_is_refused():
    federation = Federation(3)
    federation.upload(0, federation.opening())
    with pytest.raises(StaleRound):
        federation.upload(0, federation.opening(version=1))


# -- replayed and forged ----------------------------------------------------------------------------------------------


def test_an_old_round_open_is_refused_and_the_same_one_is_told_to_be_a_repeat():
    federation = Federation(3)
    machine = federation.machines[0]
    first, second = federation.opening(1), federation.opening(2)
    head, body = federation.upload(0, first)
    reviewed = machine.review(first.encode(), BROADCAST, charter=federation.charter)
    assert machine.repeat(reviewed).head == head
    assert machine.repeat(reviewed).body == sha256(body)
    with pytest.raises(UsageError):
        machine.mask(reviewed, *federation.lanes(0, first), federation.random)
    assert machine.repeat(second) is None
    federation.upload(0, second)
    with pytest.raises(StaleRound):
        machine.review(first.encode(), BROADCAST, charter=federation.charter)


def test_uploads_that_are_forged_moved_or_replayed_are_refused_by_name():
    federation = Federation(4)
    opening = federation.opening()
    head, body = federation.upload(0, opening)
    at_work = federation.round(opening)
    with pytest.raises(UnknownRound):
        at_work.upload(1, head, body)
    fields = {f.name: getattr(Masked.decode(head), f.name) for f in dataclasses.fields(Masked)}
    del fields["signature"]
    with pytest.raises(BadSignature, match="d0"):
        at_work.upload(0, Masked.signed(federation.identities[1], **fields).encode(), body)
    with pytest.raises(WrongSize, match="d0"):
        at_work.upload(0, head, body + b"\0")
    with pytest.raises(BroadcastMismatch, match="d0"):
        at_work.upload(0, head, body[:-1] + bytes([body[-1] ^ 1]))
    assert at_work.uploaded == ()
    assert at_work.upload(0, head, body) is True
    assert at_work.upload(0, head, body) is False
    later = federation.round(federation.opening(2))
    with pytest.raises(UnknownRound):
        later.upload(0, head, body)
    outside = federation.round(federation.opening(3, cohort=[1, 2, 3]))
    with pytest.raises(UnknownRound):
        outside.upload(0, head, body)


def test_an_upload_with_the_wrong_number_of_boxes_is_refused():
    federation = Federation(4)
    opening = federation.opening()
    _, body = federation.upload(0, opening)
    small = Federation(3)
    boxes = Masked.decode(small.upload(0, small.opening())[0])
    forged = Masked.signed(
        federation.identities[0],
        transcript=opening.transcript,
        sender=0,
        body=sha256(body),
        boxes=boxes.boxes,
        commitments=boxes.commitments,
    )
    with pytest.raises(WrongSize, match="d0"):
        federation.round(opening).upload(0, forged.encode(), body)


def test_openings_that_are_forged_or_of_another_round_are_refused():
    federation = Federation(4)
    at_work = federation.gathered(federation.opening(), range(4))
    machine = federation.machines[0]
    with pytest.raises(BadSignature):
        machine.answer(forged_open(federation, at_work, 0, range(4), identity=federation.identities[1]))
    with pytest.raises(UnknownRound):
        machine.answer(forged_open(federation, at_work, 0, range(4), round=2))
    with pytest.raises(UnknownRound):
        machine.answer(forged_open(federation, at_work, 0, range(4), transcript=bytes(32)))
    at_work.fix()
    federation.upload(0, federation.opening(2))
    with pytest.raises(UnknownRound):
        machine.answer(at_work.open_for(0))


def test_answers_that_are_forged_moved_or_of_another_set_are_refused():
    federation = Federation(4)
    at_work = federation.gathered(federation.opening(), range(4))
    at_work.fix()
    reply, _ = federation.machines[0].answer(at_work.open_for(0))
    shares = Shares.decode(reply)
    with pytest.raises(UnknownRound):
        at_work.shares(1, reply)
    with pytest.raises(BadSignature):
        at_work.shares(0, dataclasses.replace(shares, signature=bytes(64)).encode())
    mine = {"transcript": shares.transcript, "member": 0, "opened": shares.opened, "shares": shares.shares}
    for changes, error in (
        ({"opened": bytes(32)}, UnknownRound),
        ({"transcript": bytes(32)}, UnknownRound),
        ({"shares": shares.shares[:-1]}, BadShare),
    ):
        with pytest.raises(error):
            at_work.shares(0, Shares.signed(federation.identities[0], **(mine | changes)).encode())
    at_work.shares(0, reply)
    with pytest.raises(BadShare):
        at_work.shares(0, Shares.signed(federation.identities[0], **(mine | {"shares": shares.shares[::-1]})).encode())


# -- bad boxes, mismatched commitments, garbage -----------------------------------------------------------------------


def changed_upload(federation, department, opening, **changes):
    """An upload whose head a dishonest department changed, under its own valid signature."""
    head, body = federation.upload(department, opening)
    masked = Masked.decode(head)
    fields = {f.name: getattr(masked, f.name) for f in dataclasses.fields(Masked) if f.name != "signature"}
    fields |= {name: change(fields[name]) for name, change in changes.items()}
    return Masked.signed(federation.identities[department], **fields).encode(), body


def test_a_box_that_does_not_open_makes_its_receiver_refuse_and_names_the_sender():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.round(opening)
    spoil = lambda boxes: (bytes(len(boxes[0])), *boxes[1:])  # noqa: E731
    for i in range(4):
        upload = changed_upload(federation, i, opening, boxes=spoil) if i == 2 else federation.upload(i, opening)
        at_work.upload(i, *upload)
    at_work.fix()
    with pytest.raises(BadBox, match="department 2"):
        federation.machines[0].answer(at_work.open_for(0))
    federation.answers(at_work, [1, 2, 3])
    assert total(at_work) == federation.ring_sum(range(4), opening)


def test_a_box_for_another_member_does_not_open():
    federation = Federation(3)
    at_work = federation.gathered(federation.opening(), range(3))
    boxes = tuple(at_work._kept[i].boxes[1] for i in range(3))
    with pytest.raises(BadBox):
        federation.machines[0].answer(forged_open(federation, at_work, 0, range(3), boxes=boxes))


def test_mismatched_commitments_name_both_ends_and_leave_the_later_upload_out():
    """commitments are b_2, s_20, s_21, s_23: the third is of the edge to department 1"""
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 3])
    spoil = lambda c: (c[0], c[1], bytes(32), c[3])  # noqa: E731
    with pytest.raises(CommitmentMismatch, match="'d2' and department 'd1'"):
        at_work.upload(2, *changed_upload(federation, 2, opening, commitments=spoil))
    assert at_work.fix() == (0, 1, 3)
    federation.answers(at_work, [0, 1, 3])
    assert total(at_work) == federation.ring_sum([0, 1, 3], opening)


def test_a_false_commitment_to_its_own_secret_loses_the_round_and_names_the_dealer():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 3])
    at_work.upload(2, *changed_upload(federation, 2, opening, commitments=lambda c: (bytes(32), *c[1:])))
    at_work.fix()
    federation.answers(at_work, [0, 1, 2])
    with pytest.raises(NotEnoughShares):
        at_work.finish()
    federation.answers(at_work, [3])
    with pytest.raises(BadShare, match="d2") as caught:
        at_work.finish()
    assert "d1" not in str(caught.value)


def test_garbage_in_an_upload_rejects_the_sum_and_nothing_else():
    """38 random 16-bit lanes pass with at most (15/16)^38, 8 random 64-bit lanes with at most (1/8)^8: 5e-9 together"""
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 2])
    noise = federation.random(2 * federation.codec.length16 + 8 * federation.codec.length64)
    head, _ = changed_upload(federation, 3, opening, body=lambda _: sha256(noise))
    at_work.upload(3, head, noise)
    at_work.fix()
    federation.answers(at_work, range(4))
    with pytest.raises(SumRejected):
        federation.codec.decode(*at_work.finish(), 4, opening.bounds)


@pytest.mark.parametrize(("n", "colluders", "liars"), [(5, 1, [1]), (10, 1, [0, 2, 4]), (10, 1, [0, 1, 2, 3])])
def test_members_that_lie_about_their_shares_are_named_and_left_out(n, colluders, liars):
    """n = 10, tau = 6: ten answers leave four spare; three liars are found by algebra, four by search"""
    federation = Federation(n, colluders=colluders)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(n - 1))
    at_work.fix()
    federation.upload(n - 1, opening)
    federation.answers(at_work, [i for i in range(n) if i not in liars])
    for liar in liars:
        reply, _ = federation.machines[liar].answer(at_work.open_for(liar))
        honest = Shares.decode(reply)
        at_work.shares(
            liar,
            Shares.signed(
                federation.identities[liar],
                transcript=honest.transcript,
                member=liar,
                opened=honest.opened,
                shares=tuple(federation.random(32) for _ in honest.shares),
            ).encode(),
        )
    assert total(at_work) == federation.ring_sum(range(n - 1), opening)
    assert at_work.liars == tuple(liars)


# -- crash and rollback of a department -------------------------------------------------------------------------------


def test_a_department_that_restarts_from_its_stored_memory_repeats_and_answers():
    federation = Federation(4)
    opening = federation.opening()
    at_work = federation.round(opening)
    for i in range(4):
        head, body = federation.upload(i, opening)
        federation.restart(i, federation.machines[i].memory.to_bytes())
        reviewed = federation.machines[i].review(opening.encode(), BROADCAST, charter=federation.charter)
        assert federation.machines[i].repeat(reviewed).head == head
        at_work.upload(i, head, body)
    at_work.fix()
    federation.answers(at_work, [0, 1, 2])
    assert total(at_work) == federation.ring_sum(range(4), opening)


def test_a_rolled_back_department_masks_again_under_a_fresh_key_and_one_upload_is_opened():
    """The pairwise masks are the same, b is not: bodies differ everywhere, boxes and their keys too; either opens."""
    federation = Federation(4)
    opening = federation.opening()
    old = federation.machines[2].memory.to_bytes()
    first = federation.upload(2, opening)
    federation.restart(2, old)
    second = federation.upload(2, opening)
    one, two = Masked.decode(first[0]), Masked.decode(second[0])
    assert one.commitments[1:] == two.commitments[1:]
    assert one.commitments[0] != two.commitments[0]
    assert not {box[:16] for box in one.boxes} & {box[:16] for box in two.boxes}
    lanes = federation.codec.length16
    a, b = (np.frombuffer(body, "<u2", lanes) for _, body in (first, second))
    assert np.count_nonzero(a == b) < 3  # 38 lanes, each equal by chance with probability 2^-16
    at_work = federation.gathered(opening, [0, 1, 3])
    at_work.upload(2, *first)
    with pytest.raises(StaleRound, match="d2"):
        at_work.upload(2, *second)
    at_work.fix()
    federation.answers(at_work, range(4))
    assert total(at_work) == federation.ring_sum(range(4), opening)


def test_other_boxes_with_the_same_survivors_get_the_answer_already_given():
    """So the shares of a rolled-back department's second upload never leave a member that opened the first."""
    federation = Federation(4)
    opening = federation.opening()
    old = federation.machines[2].memory.to_bytes()
    first = federation.upload(2, opening)
    federation.restart(2, old)
    second = Masked.decode(federation.upload(2, opening)[0])
    at_work = federation.gathered(opening, [0, 1, 3])
    at_work.upload(2, *first)
    at_work.fix()
    given, _ = federation.machines[0].answer(at_work.open_for(0))
    boxes = tuple(second.boxes[0] if i == 2 else at_work._kept[i].boxes[0] for i in range(4))
    assert federation.machines[0].answer(forged_open(federation, at_work, 0, range(4), boxes=boxes))[0] == given


# -- nearby survivor sets, and sizes ----------------------------------------------------------------------------------


def test_one_broadcast_is_not_opened_for_two_sets_whose_difference_would_show_a_department():
    """t_c = 1: sets must be equal or differ in at least 3.  {0..4} and {0..3} differ in one."""
    federation = Federation(5)
    first = federation.gathered(federation.opening(1), range(5))
    first.fix()
    federation.answers(first, range(5))
    second = federation.gathered(federation.opening(2), range(4))
    second.fix()
    federation.upload(4, second.opening)
    for member in range(5):
        with pytest.raises(NearbySurvivorSet):
            federation.machines[member].answer(second.open_for(member))
    again = federation.gathered(federation.opening(3), range(5))
    again.fix()
    federation.answers(again, range(5))
    assert total(again) == federation.ring_sum(range(5), federation.opening(3))


def test_another_broadcast_or_a_distant_set_may_be_opened():
    """n = 6, t_c = 1: {0..5} then {0..2} differ in 3 = t_c + 2; and after another broadcast any set may be opened."""
    federation = Federation(6)
    for number, survivors, body in ((1, range(6), BROADCAST), (2, range(3), BROADCAST), (3, range(5), b"\1" * 24)):
        opening = federation.opening(number, broadcast=sha256(body))
        at_work = federation.round(opening)
        uploads = {i: federation.upload(i, opening, body=body) for i in range(6)}
        for i in survivors:
            at_work.upload(i, *uploads[i])
        at_work.fix()
        federation.answers(at_work, range(6))
        assert total(at_work) == federation.ring_sum(survivors, opening)


@pytest.mark.parametrize("departments", [0, 1, 2])
def test_a_federation_of_fewer_than_three_is_refused(departments):
    with pytest.raises(TooFewDepartments):
        Parameters.for_size(departments)


def test_only_the_coordinator_of_the_roster_can_hold_a_round():
    federation = Federation(3)
    with pytest.raises(ForeignState):
        CoordinatorRound(federation.roster, Identity(bytes(32)), federation.opening(), 1, 1)
    with pytest.raises(ForeignState):
        CoordinatorRound(federation.roster, federation.coordinator, Federation(3, seed=5).opening(), 1, 1)
