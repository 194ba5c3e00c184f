"""Masks made ahead of the data: the same uploads, and never two vectors under one mask."""

from __future__ import annotations

import threading
from random import Random

import numpy as np
import pytest
from sum_federation import BROADCAST, Federation, total

from commonroot.common.errors import UsageError, WrongSize
from commonroot.common.secure_sum.precompute import Background


def reviewed(federation: Federation, department: int, opening):
    return federation.machines[department].review(opening.encode(), BROADCAST, charter=federation.charter)


@pytest.mark.parametrize("n", [3, 17])
def test_an_upload_prepared_ahead_is_the_one_made_at_once(n):
    """One memory twice, with the same randomness: bytes of heads, bodies and memories are equal."""
    seen = []
    federation = Federation(n)
    begun = federation.machines[1].memory.to_bytes()
    opening = federation.opening()
    for ahead in (False, True):
        federation.restart(1, begun)
        machine = federation.machines[1]
        asked = reviewed(federation, 1, opening)
        lanes = federation.lanes(1, opening)
        random = Random(7).randbytes
        using = machine.prepare(asked, random, threads=2) if ahead else random
        head, body, memory = machine.mask(asked, *lanes, using)
        seen.append((head, bytes(body), memory.to_bytes()))
    assert seen[0] == seen[1]


def test_a_round_of_prepared_uploads_opens_to_the_exact_sum():
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.round(opening)
    for department, machine in enumerate(federation.machines):
        asked = reviewed(federation, department, opening)
        prepared = machine.prepare(asked, federation.random)
        head, body, _ = machine.mask(asked, *federation.lanes(department, opening), prepared)
        at_work.upload(department, head, body)
    at_work.fix()
    federation.answers(at_work, range(5))
    assert total(at_work) == federation.ring_sum(range(5), opening)


def test_preparing_changes_nothing_that_would_be_stored():
    federation = Federation(3)
    asked = reviewed(federation, 0, federation.opening())
    before = federation.machines[0].memory.to_bytes()
    federation.machines[0].prepare(asked, federation.random)
    assert federation.machines[0].memory.to_bytes() == before


def test_masks_hide_one_vector_and_are_refused_for_a_second():
    """Also by a machine that was set back to before the upload, as after a failed write: one mask, one vector."""
    federation = Federation(3)
    opening = federation.opening()
    before = federation.machines[0].memory.to_bytes()
    asked = reviewed(federation, 0, opening)
    prepared = federation.machines[0].prepare(asked, federation.random)
    federation.machines[0].mask(asked, *federation.lanes(0, opening), prepared)
    federation.restart(0, before)
    asked = reviewed(federation, 0, opening)
    other = federation.lanes(0, opening, seed=1)
    untouched = other[0].copy()
    with pytest.raises(UsageError, match="used already"):
        federation.machines[0].mask(asked, *other, prepared)
    assert np.array_equal(other[0], untouched)


def test_masks_prepared_for_another_round_are_refused():
    federation = Federation(3)
    first, second = federation.opening(1), federation.opening(2)
    prepared = federation.machines[0].prepare(reviewed(federation, 0, first), federation.random)
    asked = reviewed(federation, 0, second)
    with pytest.raises(UsageError, match="another round"):
        federation.machines[0].mask(asked, *federation.lanes(0, second), prepared)


def test_nothing_is_prepared_without_a_review_or_after_the_upload():
    federation = Federation(3)
    opening = federation.opening()
    with pytest.raises(UsageError, match="reviewed"):
        federation.machines[0].prepare(opening, federation.random)
    federation.upload(0, opening)
    with pytest.raises(UsageError, match="masked for already"):
        federation.machines[0].prepare(opening, federation.random)


def test_words_of_another_layout_are_not_masked():
    federation = Federation(3)
    opening = federation.opening()
    asked = reviewed(federation, 0, opening)
    bulk, exact = federation.lanes(0, opening)
    for wrong in ((bulk[:-1], exact), (bulk, exact[:-1]), (bulk.astype("<u4"), exact)):
        with pytest.raises(WrongSize):
            federation.machines[0].mask(asked, *wrong, federation.random)


def test_what_was_prepared_does_not_show_itself():
    federation = Federation(3)
    prepared = federation.machines[0].prepare(reviewed(federation, 0, federation.opening()), federation.random)
    assert repr(prepared) == f"Prepared({prepared.dealt.transcript.hex()[:12]}…)"


def test_work_in_the_background_gives_what_it_returns_or_raises():
    assert Background(lambda: threading.current_thread().name, "aside").result() == "aside"
    broken = Background(lambda: 1 // 0, "aside")
    broken.wait()
    with pytest.raises(ZeroDivisionError):
        broken.result()
