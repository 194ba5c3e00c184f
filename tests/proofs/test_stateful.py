"""The laws of ``any_order`` hold in any sequence of events, and each breaks where the program is wrong."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)
from proofs.any_order import Sums

from commonroot.common.errors import TooFewSurvivors
from commonroot.common.messages import Confirm, Open
from commonroot.common.secure_sum import coordinator, department
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.masks import add_streams
from commonroot.common.secure_sum.memory import DepartmentMemory, Upload

#: Sequences of up to 40 events; 150 of them unless ``make fuzz`` asks for more.
LOOKED = settings(
    max_examples=max(150, int(os.environ.get("COMMONROOT_FUZZ", "0")) // 50),
    stateful_step_count=40,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # it would take minutes
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestSums = pytest.mark.timeout(3600)(Sums.TestCase)
TestSums.settings = LOOKED


def any_set_for_one_backbone(patch: pytest.MonkeyPatch) -> None:
    """Departments do not compare a survivor set with the one they opened the same backbone for."""

    def check(self: DepartmentMachine, asked: Open | Confirm, last: Upload) -> None:
        survivors = asked.survivors
        if len(survivors) < last.floor or not set(survivors) <= set(last.cohort):
            raise TooFewSurvivors("too few")

    patch.setattr(DepartmentMachine, "_check_survivors", check)


def answers_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Departments do not remember what they opened, nor let go of the keys."""
    for name in ("with_answer", "with_confirmation"):
        patch.setattr(DepartmentMemory, name, lambda self, commitment, upload, survivors: self)


def confirmations_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Departments do not remember what they confirmed."""
    patch.setattr(DepartmentMemory, "with_confirmation", lambda self, commitment, upload, survivors: self)


def nothing_need_be_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Departments give shares for any set, whoever confirmed it."""
    patch.setattr(department, "require_confirmed", lambda roster, asked, members: None)


def one_mask_left_in(patch: pytest.MonkeyPatch) -> None:
    """The coordinator takes off one mask too few."""

    def add(bulk: Any, exact: Any, streams: list[Any], *, threads: int) -> None:
        add_streams(bulk, exact, streams[:-1], threads=threads)

    patch.setattr(coordinator, "add_streams", add)


def one_pair_of_masks_does_not_cancel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(department, "sign", lambda me, peer: 1)


def late_uploads_count(patch: pytest.MonkeyPatch) -> None:
    """The coordinator adds an upload that comes after the survivor set was fixed."""
    upload = CoordinatorRound.upload

    def adding(self: CoordinatorRound, sender: int, head: bytes, body: Any) -> bool:
        fixed, self._survivors = self._survivors, None
        try:
            return upload(self, sender, head, body)
        finally:
            self._survivors = fixed

    patch.setattr(CoordinatorRound, "upload", adding)


def uploads_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """The coordinator adds an upload as often as it comes."""
    upload = CoordinatorRound.upload

    def adding(self: CoordinatorRound, sender: int, head: bytes, body: Any) -> bool:
        if self._survivors is None:
            self._kept.pop(sender, None)
        return upload(self, sender, head, body)

    patch.setattr(CoordinatorRound, "upload", adding)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (any_set_for_one_backbone, "was opened for"),
        (answers_forgotten, "was opened for|shares for different sets"),
        (one_mask_left_in, "is not the survivors' sum"),
        (one_pair_of_masks_does_not_cancel, "is not the survivors' sum"),
        (late_uploads_count, "is not the survivors' sum"),
        (uploads_counted_twice, "is not the survivors' sum"),
    ],
    ids=lambda thing: getattr(thing, "__name__", ""),
)
def test_a_program_that_is_wrong_breaks_a_law(wrong, law, monkeypatch):
    wrong(monkeypatch)
    found = settings(LOOKED, max_examples=2000, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(AssertionError, match=law):
        run_state_machine_as_test(Sums, settings=settings(found, report_multiple_bugs=False))


@pytest.mark.parametrize("wrong", [None, nothing_need_be_confirmed, confirmations_forgotten])
def test_departments_that_do_not_agree_on_the_survivor_set_break_a_law(wrong, monkeypatch):
    """Eight departments, quorum 5: each is asked about the first and two others, and to confirm its set or every set.

    Each of seven others stands in two or three of eight sets, so five or six members leave it out.
    """
    if wrong is not None:
        wrong(monkeypatch)
    sums = Sums()
    sums.found(n=8, seed=1)
    sums._lie_to_each(0, victim=0, beside=2, everybody=wrong is not nothing_need_be_confirmed)
    if wrong is None:
        sums.whatever_could_be_opened_obeys_the_laws()
    else:
        with pytest.raises(AssertionError, match=r"for different sets free (too few|another sum)"):
            sums.whatever_could_be_opened_obeys_the_laws()


@pytest.mark.parametrize("wrong", [False, True])
def test_departments_that_begin_an_epoch_from_nothing_break_a_law(wrong, monkeypatch):
    """All five are opened in epoch 1; the same backbone is asked for without the last one in epoch 2."""
    sums = Sums()
    sums.found(n=5, seed=1)
    sums.play_out(late=set(), silent=set())
    sums.whatever_could_be_opened_obeys_the_laws()
    if wrong:
        monkeypatch.setattr(DepartmentMemory, "follow", lambda self, before, **rosters: self)
    sums._another_epoch(range(5), newer=False, late=set())
    sums.play_out(late={4}, silent=set())
    if wrong:
        with pytest.raises(AssertionError, match="was opened for"):
            sums.whatever_could_be_opened_obeys_the_laws()
    else:
        sums.whatever_could_be_opened_obeys_the_laws()
    assert sums.opened[0] == {(0, 1, 2, 3, 4)} | ({(0, 1, 2, 3)} if wrong else set())
