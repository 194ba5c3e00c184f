"""Logins for the audit log: none is missing from the counts, and a flood of them makes few entries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.server.monitor.visits import ADDRESSES, FIRST_WINDOW, LONGEST_WINDOW, OTHERS, Visits


class Book:
    """What was written, at a settable time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written: list[dict[str, Any]] = []
        self.full = False
        self.visits = Visits(self._write, clock=lambda: self.now)

    def _write(self, facts: dict[str, Any]) -> None:
        if self.full:
            raise OSError("no room")
        self.written.append(facts)

    def counted(self, result: str) -> int:
        return sum(one["times"] for one in self.written if one["result"] == result)


def test_the_first_is_written_at_once_and_those_after_it_as_one_when_the_minute_is_over():
    book = Book()
    for _ in range(5):
        book.visits.note("refused", "10.0.0.7")
    assert book.written == [{"from": "10.0.0.7", "result": "refused", "times": 1, "seconds": 0}]
    book.now = FIRST_WINDOW
    book.visits.settle()
    assert book.written[1:] == [{"from": "10.0.0.7", "result": "refused", "times": 4, "seconds": 60}]


def test_an_accepted_login_is_written_at_once_in_the_middle_of_a_flood_of_refusals():
    book = Book()
    for number in range(1000):
        book.visits.note("refused", f"10.0.{number // 256}.{number % 256}")
    book.visits.note("accepted", "10.9.9.9")
    assert book.written[-1] == {"from": "10.9.9.9", "result": "accepted", "times": 1, "seconds": 0}


def test_a_year_of_guessing_from_everywhere_makes_few_entries_and_every_guess_is_in_one():
    """Windows of 1, 2, 4, 8, 16, 32 and then 60 minutes: some 24 a day.  A window writes the first of nine names at
    once and what else came of each as one line, so 18 at the most: within ten days, 250 windows and 4500 lines."""
    book = Book()
    guesses = 0
    for minute in range(10 * 24 * 60):
        book.now = 60.0 * minute
        for address in range(20):
            book.visits.note("refused", f"10.0.0.{address}")
            guesses += 1
    book.visits.settle(all_of_it=True)
    assert book.counted("refused") == guesses
    assert len(book.written) <= 250 * 2 * (ADDRESSES + 1)
    assert {one["from"] for one in book.written} == {f"10.0.0.{n}" for n in range(ADDRESSES)} | {OTHERS}
    assert max(one["seconds"] for one in book.written) == LONGEST_WINDOW


def test_after_a_quiet_window_the_next_is_written_at_once_again():
    book = Book()
    book.visits.note("refused", "10.0.0.7")
    book.now = FIRST_WINDOW + 1
    book.visits.note("refused", "10.0.0.7")
    assert [(one["times"], one["seconds"]) for one in book.written] == [(1, 0), (1, 0)]


@pytest.mark.parametrize("over", [False, True])
def test_what_cannot_be_written_is_kept_until_it_can_be(over):
    book = Book()
    book.full = True
    with pytest.raises(OSError, match="no room"):
        book.visits.note("refused", "10.0.0.7")
    book.visits.note("refused", "10.0.0.7")  # counted, to be written later
    if over:
        book.now = FIRST_WINDOW
        with pytest.raises(OSError, match="no room"):
            book.visits.note("refused", "10.0.0.7")
    book.full = False
    book.visits.settle(all_of_it=True)
    assert book.counted("refused") == 2 + over


@given(
    st.lists(st.tuples(st.floats(0, 4000), st.sampled_from(["accepted", "refused"]), st.integers(0, 30)), max_size=60)
)
def test_every_login_is_counted_once_whenever_it_comes(steps):
    book = Book()
    for after, result, address in steps:
        book.now += after
        book.visits.note(result, f"10.0.0.{address}")
        if address % 3 == 0:
            book.visits.settle()
    book.visits.settle(all_of_it=True)
    for result in ("accepted", "refused"):
        assert book.counted(result) == sum(one == result for _, one, _ in steps)
