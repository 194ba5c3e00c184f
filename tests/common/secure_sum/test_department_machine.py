"""What a department refuses before it trains, what it compares, and what it remembers."""

from __future__ import annotations

import dataclasses

import pytest
from sum_federation import BROADCAST, Federation

from commonroot.common.errors import (
    BadCohort,
    BadSignature,
    BroadcastMismatch,
    ForeignState,
    Malformed,
    OutsideCharter,
    ResultMismatch,
    StaleRound,
    UsageError,
    WrongFederation,
    WrongSize,
)
from commonroot.common.messages import Previous, RoundOpen
from commonroot.common.secure_sum.coordinator import close_run
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.memory import COMMITMENTS_KEPT, DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256

#: What a round-open may say that an honest one does not, and the name under which it is refused.  n = 10: tau = 6.
REFUSED = {
    "another charter": ({"charter": bytes(32)}, WrongFederation),
    "another roster": ({"roster": bytes(32)}, WrongFederation),
    "another epoch": ({"epoch": 2}, WrongFederation),
    "another manifest": ({"manifest": bytes(32)}, OutsideCharter),
    "another broadcast": ({"broadcast": bytes(32)}, BroadcastMismatch),
    "a round beyond the last": ({"round": 101}, StaleRound),
    "a cohort without me": ({"cohort": tuple(range(1, 10))}, BadCohort),
    "a cohort beyond the roster": ({"cohort": tuple(range(11))}, BadCohort),
    "a cohort below the quorum": ({"cohort": tuple(range(5))}, BadCohort),
    "a bound above the term's": ({"bounds": (1.5, 4.0)}, OutsideCharter),
    "a bound below any use": ({"bounds": (2.0**-60, 4.0)}, OutsideCharter),
    "a bound too few": ({"bounds": (1.0,)}, OutsideCharter),
    "a bound too many": ({"bounds": (1.0, 4.0, 4.0)}, OutsideCharter),
    "more time than the charter has": ({"upload_seconds": 121}, OutsideCharter),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_round_open_is_refused_for(case):
    changes, error = REFUSED[case]
    federation = Federation(10, rounds_max=100)
    machine = federation.machines[0]
    before = machine.memory
    with pytest.raises(error):
        machine.review(federation.opening(**changes).encode(), BROADCAST, charter=federation.charter)
    assert machine.memory is before
    machine.review(federation.opening(100, upload_seconds=120).encode(), BROADCAST, charter=federation.charter)


def test_a_cohort_below_the_charters_floor_is_refused():
    federation = Federation(5, floor=5)
    with pytest.raises(BadCohort):
        federation.upload(0, federation.opening(cohort=range(4)))


def test_a_round_open_under_any_other_signature_is_refused():
    federation = Federation(3)
    opening = federation.opening()
    spoiled = dataclasses.replace(opening, version=7)
    with pytest.raises(BadSignature):
        federation.machines[0].review(spoiled.encode(), BROADCAST, charter=federation.charter)
    fields = {f.name: getattr(opening, f.name) for f in dataclasses.fields(opening) if f.name != "signature"}
    usurped = RoundOpen.signed(federation.identities[1], **fields)
    with pytest.raises(BadSignature):
        federation.machines[0].review(usurped.encode(), BROADCAST, charter=federation.charter)


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"", WrongSize), (BROADCAST[:-1], WrongSize), (BROADCAST + b"\0", WrongSize), (b"\1" * 24, BroadcastMismatch)],
)
def test_a_broadcast_that_was_not_signed_for_is_refused(body, error):
    federation = Federation(3)
    with pytest.raises(error):
        federation.machines[0].review(federation.opening().encode(), body, charter=federation.charter)


def test_nothing_is_masked_that_was_not_reviewed():
    federation = Federation(3)
    machine, opening = federation.machines[0], federation.opening()
    with pytest.raises(UsageError):
        machine.mask(opening, *federation.lanes(0, opening), federation.random)
    machine.review(opening.encode(), BROADCAST, charter=federation.charter)
    other = federation.opening(version=1)
    with pytest.raises(UsageError):
        machine.mask(other, *federation.lanes(0, other), federation.random)


def play(federation, round, **changes):
    """One whole round; the result that the coordinator is to announce."""
    at_work = federation.gathered(federation.opening(round, **changes), range(federation.n))
    at_work.fix()
    federation.answers(at_work, range(federation.n))
    return Previous(round, at_work.opened_digest, sha256(b"aggregate"))


def test_an_announced_result_must_be_of_the_set_that_was_opened():
    federation = Federation(3)
    result = play(federation, 1)
    later = play(federation, 2, previous=result)
    machine = federation.machines[0]
    for previous in (dataclasses.replace(later, opened=bytes(32)), dataclasses.replace(later, round=1)):
        with pytest.raises(ResultMismatch):
            machine.review(federation.opening(3, previous=previous).encode(), BROADCAST, charter=federation.charter)
    for previous in (later, result, Previous()):
        machine.review(federation.opening(3, previous=previous).encode(), BROADCAST, charter=federation.charter)


def test_the_end_of_a_run_is_checked_like_a_round():
    federation = Federation(3)
    result = play(federation, 4)
    machine = federation.machines[1]

    def close(body=BROADCAST, **changes):
        fields = {"charter": federation.charter.digest, "round": 4, "version": 1, "previous": result}
        return close_run(federation.coordinator, federation.roster, body=body, **(fields | changes)).encode()

    assert machine.review_close(close(), BROADCAST, charter=federation.charter).version == 1
    for head, body, error in (
        (close(charter=bytes(32)), BROADCAST, WrongFederation),
        (close(round=3, previous=Previous()), BROADCAST, StaleRound),
        (close(previous=Previous(4, bytes(32), bytes(32))), BROADCAST, ResultMismatch),
        (close(body=b"\1" * 24), BROADCAST, BroadcastMismatch),
        (close(), BROADCAST[1:], WrongSize),
        (close()[:-1] + b"?", BROADCAST, BadSignature),
        (close()[:-1], BROADCAST, Malformed),
    ):
        with pytest.raises(error):
            machine.review_close(head, body, charter=federation.charter)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_survives_its_bytes_at_every_stage():
    federation = Federation(4)
    stages = [federation.machines[0].memory]
    for number in range(1, COMMITMENTS_KEPT + 3):
        at_work = federation.gathered(federation.opening(number), range(4))
        stages.append(federation.machines[0].memory)
        at_work.fix()
        federation.answers(at_work, range(4))
        stages.append(federation.machines[0].memory)
    for memory in stages:
        assert DepartmentMemory.from_bytes(memory.to_bytes()) == memory
    assert len(stages[-1].commitments) == COMMITMENTS_KEPT
    assert len(stages[-1].openings) == 1  # one broadcast, one set


def test_answering_erases_the_rounds_keys():
    federation = Federation(3)
    at_work = federation.gathered(federation.opening(), range(3))
    at_work.fix()
    held = federation.machines[0].memory.chains.rounds
    _, memory = federation.machines[0].answer(federation.confirm(at_work).open_for(0))
    assert memory.chains.at == 2
    assert not any(key.hex().encode() in memory.to_bytes() for key in held)


@pytest.mark.parametrize("damage", [b"", b"{}", b"null", b'{"layout":2}', b"[1]", b"\xff"])
def test_damaged_memory_is_refused(damage):
    with pytest.raises(ForeignState):
        DepartmentMemory.from_bytes(damage)


def test_memory_cut_short_or_of_another_layout_is_refused():
    data = Federation(3).machines[0].memory.to_bytes()
    for bad in (
        data[:-1],
        data + b" ",
        data.replace(b'"layout":2', b'"layout":3'),
        data.replace(b'"at":0', b'"at":"x"'),
    ):
        with pytest.raises(ForeignState):
            DepartmentMemory.from_bytes(bad)


def test_memory_of_another_department_or_epoch_is_refused():
    federation = Federation(3)
    with pytest.raises(ForeignState):
        DepartmentMachine(federation.roster, federation.identities[0], federation.machines[1].memory)
    with pytest.raises(ForeignState):
        DepartmentMachine(federation.roster, federation.identities[0], Federation(3, seed=9).machines[0].memory)


def test_an_identity_outside_the_roster_is_refused():
    federation = Federation(3)
    with pytest.raises(WrongFederation):
        DepartmentMachine(federation.roster, Federation(3, seed=9).identities[0], federation.machines[0].memory)


def test_no_secret_shows_in_any_representation():
    federation = Federation(3)
    at_work = federation.gathered(federation.opening(), range(3))
    at_work.fix()
    _, memory = federation.machines[0].answer(federation.confirm(at_work).open_for(0))
    secrets = [*memory.chains.rounds, *memory.chains.blocks, memory.commitments[0].answer]
    shown = repr(memory) + repr(memory.upload) + repr(memory.commitments) + repr(federation.machines[0])
    assert not any(secret.hex() in shown or repr(secret)[2:-1] in shown for secret in secrets)
