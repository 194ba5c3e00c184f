"""The rest of the failure table: replayed and forged messages, dishonest departments, rolled-back memories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sum_federation import BROADCAST, Federation, changed_upload, forged_open, total

from commonroot.common.errors import (
    BadBox,
    BadShare,
    BadSignature,
    BroadcastMismatch,
    CommitmentMismatch,
    NotEnoughShares,
    StaleRound,
    SumRejected,
    UnknownRound,
    UsageError,
    WrongSize,
)
from commonroot.common.messages import Masked, Shares
from commonroot.common.secure_sum.pieces import body_digest, digests

# -- replayed and forged ----------------------------------------------------------------------------------------------


def test_an_old_round_open_is_refused_and_the_same_one_is_told_to_be_a_repeat():
    federation = Federation(3)
    machine = federation.machines[0]
    first, second = federation.opening(1), federation.opening(2)
    head, body = federation.upload(0, first)
    reviewed = machine.review(first.encode(), BROADCAST, charter=federation.charter)
    assert machine.repeat(reviewed).transcript == Masked.decode(head).transcript
    assert machine.repeat(reviewed).body == body_digest(digests(body))
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
        body=body_digest(digests(body)),
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
        machine.answer(federation.confirm(at_work).open_for(0))


def test_answers_that_are_forged_moved_or_of_another_set_are_refused():
    federation = Federation(4)
    at_work = federation.gathered(federation.opening(), range(4))
    at_work.fix()
    reply, _ = federation.machines[0].answer(federation.confirm(at_work).open_for(0))
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
        federation.machines[0].answer(federation.confirm(at_work).open_for(0))
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
    noise = federation.random(federation.codec.layout.nbytes)
    head, _ = changed_upload(federation, 3, opening, body=lambda _: body_digest(digests(noise)))
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
        reply, _ = federation.machines[liar].answer(federation.confirm(at_work).open_for(liar))
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
        assert federation.machines[i].repeat(reviewed).transcript == Masked.decode(head).transcript
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
    lanes = federation.codec.layout.bulk
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
    given, _ = federation.machines[0].answer(federation.confirm(at_work).open_for(0))
    boxes = tuple(second.boxes[0] if i == 2 else at_work._kept[i].boxes[0] for i in range(4))
    assert federation.machines[0].answer(forged_open(federation, at_work, 0, range(4), boxes=boxes))[0] == given
