"""The failure table of the protocol, played between real machines: losses, crashes, a coordinator that lies.

Forgeries, replays, insiders and rollbacks are in ``test_forgeries_and_rollbacks``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_federation import BROADCAST, Federation, forged_open, total

from commonroot.common.errors import (
    AnotherSurvivorSet,
    ForeignState,
    NotEnoughShares,
    NotEnoughUploads,
    OutsideCharter,
    SecondSurvivorSet,
    StaleRound,
    TooFewDepartments,
    TooFewSurvivors,
    UnknownRound,
    UsageError,
)
from commonroot.common.messages import Confirm, Open, Shares
from commonroot.common.roster import Parameters
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.masks import add_streams, sign
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
    boxes = Open.decode(forged_open(federation, at_work, 0, range(4))).boxes
    asked = {"transcript": at_work.transcript, "round": 1, "survivors": (0, 1, 2, 4)}
    none = {"confirmed_by": (), "confirmations": ()}
    with pytest.raises(TooFewSurvivors):
        federation.machines[0].answer(Open.signed(federation.coordinator, boxes=boxes, **asked, **none).encode())
    with pytest.raises(TooFewSurvivors):
        federation.machines[0].confirm(Confirm.signed(federation.coordinator, **asked).encode())


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
    with pytest.raises(UsageError, match="'confirming' cannot ask a member to open"):
        restored.open_for(0)
    assert restored.confirm_request == at_work.confirm_request
    federation.confirm(restored)  # from the same members, with the same bytes, two of which have answered
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
    first, memory = federation.machines[1].answer(federation.confirm(at_work).open_for(1))
    assert federation.machines[1].answer(federation.confirm(at_work).open_for(1))[0] == first
    federation.restart(1, memory.to_bytes())
    assert federation.machines[1].answer(federation.confirm(at_work).open_for(1))[0] == first
    assert at_work.shares(1, first) is True
    assert at_work.shares(1, first) is False


# -- a coordinator that lies ------------------------------------------------------------------------------------------


def test_a_department_never_opens_two_survivor_sets_for_one_round():
    federation = Federation(5)
    at_work = federation.gathered(federation.opening(), range(5))
    at_work.fix()
    federation.machines[0].answer(federation.confirm(at_work).open_for(0))
    with pytest.raises(SecondSurvivorSet):
        federation.machines[0].answer(forged_open(federation, at_work, 0, (0, 1, 2)))
    federation.restart(0, federation.machines[0].memory.to_bytes())
    with pytest.raises(SecondSurvivorSet):
        federation.machines[0].answer(forged_open(federation, at_work, 0, (0, 1, 2)))


def test_the_upload_of_a_live_department_that_is_claimed_dropped_stays_masked():
    """Everyone answers for {0, 1, 2, 4}, so the coordinator can take all pairwise masks off department 3's upload.
    b_3 is still on it: nothing of it shows, and with b_3, which nobody may give any more, all of it would."""
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, [0, 1, 2, 4])
    drawn = []
    reviewed = federation.machines[3].review(opening.encode(), BROADCAST, charter=federation.charter)
    _, body, _ = federation.machines[3].mask(
        reviewed, *federation.lanes(3, opening), lambda size: drawn.append(federation.random(size)) or drawn[-1]
    )
    at_work.fix()
    federation.answers(at_work, range(5))
    secrets = at_work._recover()
    assert all(dealer != 3 for dealer, _ in secrets)
    seen = [part.copy() for part in federation.codec.layout.split(body)]
    add_streams(*seen, [(-sign(3, i), secrets[i, 3]) for i in (0, 1, 2, 4)])
    plain = federation.lanes(3, opening)
    assert np.count_nonzero(seen[0] == plain[0]) < 3  # 38 lanes, each equal by chance with probability 2^-16
    for member in range(5):
        with pytest.raises(SecondSurvivorSet):
            federation.machines[member].answer(
                forged_open(federation, at_work, member, (0, 1, 2)),
            )
    add_streams(*seen, [(-1, drawn[0])])
    assert all(np.array_equal(left, right) for left, right in zip(seen, plain, strict=True))


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
        federation.machines[0].confirm(at_two.confirm_request)


def test_a_second_round_open_with_the_same_number_is_refused():
    federation = Federation(3)
    federation.upload(0, federation.opening())
    with pytest.raises(StaleRound):
        federation.upload(0, federation.opening(version=1))


# -- one survivor set per backbone, and sizes --------------------------------------------------------------------------


@pytest.mark.parametrize("second", [range(4), range(3), (0, 1, 4)])
def test_one_backbone_is_not_opened_for_two_survivor_sets(second):
    """However far apart the sets are: (1 2 3) + (1 4 5) - (2 3 4 5) would be twice the first one's contribution."""
    federation = Federation(5)
    first = federation.gathered(federation.opening(1), range(5))
    first.fix()
    federation.answers(first, range(5))
    other = federation.gathered(federation.opening(2), second)
    other.fix()
    for member in set(range(5)) - set(second):
        federation.upload(member, other.opening)
    for member in range(5):
        with pytest.raises(AnotherSurvivorSet):
            federation.machines[member].confirm(other.confirm_request)
        with pytest.raises(AnotherSurvivorSet):
            federation.machines[member].answer(forged_open(federation, other, member, second))
    again = federation.gathered(federation.opening(3), range(5))
    again.fix()
    federation.answers(again, range(5))
    assert total(again) == federation.ring_sum(range(5), federation.opening(3))


@pytest.mark.parametrize("what", ["broadcast", "bounds"])
def test_a_retry_of_a_version_repeats_its_broadcast_and_its_bounds(what):
    """Sums of the same values clipped at other bounds would show where each of them lies."""
    federation = Federation(4)
    federation.upload(0, federation.opening(1))
    other = {
        "broadcast": sha256(b"\1" * 24),
        "bounds": tuple((federation.codec.initial_bounds() / 2).astype("<f4").tolist()),
    }
    body = b"\1" * 24 if what == "broadcast" else BROADCAST
    with pytest.raises(StaleRound):
        federation.upload(0, federation.opening(2, **{what: other[what]}), body=body)
    federation.upload(0, federation.opening(3))


def test_a_backbone_under_another_number_is_the_same_backbone():
    federation = Federation(4)
    first = federation.gathered(federation.opening(1), range(4))
    first.fix()
    federation.answers(first, range(4))
    second = federation.gathered(federation.opening(2, version=1), range(3))
    second.fix()
    federation.upload(3, second.opening)
    with pytest.raises(AnotherSurvivorSet):
        federation.machines[0].confirm(second.confirm_request)


def test_the_next_backbone_may_be_opened_for_any_survivor_set():
    federation = Federation(6)
    for number, survivors in ((1, range(6)), (2, range(4)), (3, range(5))):
        body = bytes([number]) * 24
        opening = federation.opening(number, version=number - 1, broadcast=sha256(body))
        at_work = federation.round(opening)
        uploads = {i: federation.upload(i, opening, body=body) for i in range(6)}
        for i in survivors:
            at_work.upload(i, *uploads[i])
        at_work.fix()
        federation.answers(at_work, range(6))
        assert total(at_work) == federation.ring_sum(survivors, opening)


def test_versions_never_go_back_and_end_with_the_charter():
    federation = Federation(3)
    federation.upload(0, federation.opening(1, version=2))
    with pytest.raises(StaleRound):
        federation.upload(0, federation.opening(2, version=1))
    with pytest.raises(OutsideCharter):
        federation.upload(0, federation.opening(2, version=federation.charter.rounds))


@pytest.mark.parametrize("departments", [0, 1, 2])
def test_a_federation_of_fewer_than_three_is_refused(departments):
    with pytest.raises(TooFewDepartments):
        Parameters.for_size(departments)


def test_only_the_coordinator_of_the_roster_can_hold_a_round():
    federation = Federation(3)
    with pytest.raises(ForeignState):
        CoordinatorRound(federation.roster, Identity(bytes(32)), federation.opening(), federation.codec.layout)
    with pytest.raises(ForeignState):
        CoordinatorRound(
            federation.roster, federation.coordinator, Federation(3, seed=5).opening(), federation.codec.layout
        )
