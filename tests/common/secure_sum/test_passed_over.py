"""A department that forgot: the backbone it passes over is closed for good, as are all before, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.secure_sum.chains import Chains
from commonroot.common.secure_sum.memory import DepartmentMemory, Opening


@dataclass(frozen=True)
class Asked:
    """What of a request counts here."""

    charter: bytes
    version: int
    broadcast: bytes


def memory(**fields):
    return DepartmentMemory(bytes(32), 2, 0, Chains.begin(3, 0, bytes(32)), **fields)


def closed(after, asked):
    """As ``DepartmentMachine`` judges: an earlier version, or a backbone that is closed by number or by contents."""
    earlier = asked.version < after.newest_version(asked.charter)[0]
    return earlier or any(not one.survivors and one.same_backbone(asked) for one in after.openings)


CHARTER, OTHER = b"c" * 32, b"o" * 32


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_exactly_the_versions_up_to_the_one_passed_over_are_closed(remembered, shown, asked):
    before = memory(newest=((CHARTER, remembered, b"a" * 32),))
    after = before.passed_over(Asked(CHARTER, shown, b"b" * 32))
    later = Asked(CHARTER, asked, b"x" * 32)
    assert closed(after, later) == (asked < max(remembered, shown) or asked == shown)
    assert not closed(after, Asked(OTHER, asked, b"x" * 32))


def test_the_same_contents_under_another_charter_are_closed_too():
    after = memory().passed_over(Asked(CHARTER, 7, b"b" * 32))
    assert closed(after, Asked(OTHER, 0, b"b" * 32))


def test_what_was_remembered_before_stays_and_the_memory_reads_back():
    opening = Opening(OTHER, 1, b"z" * 32, (0, 1, 2))
    after = memory(openings=(opening,), newest=((OTHER, 1, b"a" * 32),)).passed_over(Asked(CHARTER, 3, b"b" * 32))
    assert opening in after.openings
    assert after.newest_version(OTHER) == (1, b"a" * 32)
    assert DepartmentMemory.from_bytes(after.to_bytes()) == after


@pytest.mark.parametrize("version", [2, 5])
def test_passing_over_never_goes_back(version):
    before = memory(newest=((CHARTER, 5, b"a" * 32),))
    assert before.passed_over(Asked(CHARTER, version, b"b" * 32)).newest_version(CHARTER)[0] == 5
