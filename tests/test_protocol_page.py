"""``docs/protocol.md`` says what the code does: its tables, diagrams and lists are made from it, and compared here."""

from __future__ import annotations

import re

import protocol_page as page
import pytest
from checks_in_order import Reader
from federation import small
from made_pages import made, names

from commonroot.common import parcel
from commonroot.common.errors import BadBox, Malformed, StaleRound
from commonroot.simulations.network import MemoryNetwork

TEXT = page.PAGE.read_text("utf-8")


def test_the_page_is_what_the_code_says():
    assert made(TEXT, page.MAKERS) == TEXT, "run `make docs`"


def test_every_part_that_can_be_made_stands_on_the_page_once():
    assert sorted(names(TEXT)) == sorted(page.MAKERS)


def test_every_label_in_the_code_is_explained_and_no_other():
    named = {("sign", kind.label) for kind in page.signed_messages()}
    assert set(page.labels()) <= set(page.MEANING) | named
    assert {label for _, label in named} <= {label for _, label in page.labels()}


def test_no_label_serves_two_operations_or_two_purposes():
    """One derivation, hash or signature could otherwise stand for another."""
    assert len(page.labels()) == len({(operation, label) for operation, label in page.labels()})
    for kind in page.signed_messages():
        assert sum(other.label == kind.label for other in page.signed_messages()) == 1


def test_every_code_that_the_page_mentions_by_hand_is_one_that_exists():
    assert set(re.findall(r"\bCR\d\d\b", TEXT)) <= set(page.all_errors())


def test_every_kind_of_parcel_is_a_request_or_a_reply_on_the_page():
    replies = page.replies()
    assert set(replies) == parcel.TO_DEPARTMENT
    assert {*replies.values(), parcel.REFUSAL, parcel.GOODBYE} == parcel.TO_COORDINATOR
    assert list(replies) == [kind for kind in page.ORDER if kind in replies]


@pytest.fixture(scope="module")
def crossings(tmp_path_factory):
    """Every parcel of an honest run of three rounds among five departments, in order."""
    seen = []

    def watch(crossing, _random):
        seen.append(crossing)
        return (crossing,)

    federation = small.founded(tmp_path_factory.mktemp("run") / "at-work", departments=5, rounds=3, attempts=1)
    at_work = small.ToyFederation(federation, MemoryNetwork(weather=[watch]))
    at_work.start_all()
    at_work.queue()
    at_work.run(lambda kind, facts: None)
    at_work.close()
    return seen


def test_a_real_run_follows_the_diagram(crossings):
    """Per department: once each of what stands before the loop, three times the loop, then the end."""
    replies = page.replies()
    for name in small.NAMES:
        kinds = [one.parcel.kind for one in crossings if one.department == name]
        requests, answers = kinds[::2], kinds[1::2]
        assert answers == [replies[kind] for kind in requests]
        once = [kind for kind in replies if kind not in page.ROUND]
        # A ready stage stands in the loop where the mask graph is sparse; five departments have none.  Nobody was lost,
        # so there is nothing to confirm either.
        loop = [kind for kind in page.ROUND if kind in replies and kind not in ("train", "confirm")]
        assert requests == [*once[:-1], *loop, *loop, *loop, once[-1]]


class Sample:
    """Something to read."""

    def begin(self, data):
        self._inner(data)
        if not data:
            raise StaleRound(f"round {data} is old")
        self._store.commit_upload(data)
        raise ValueError("its own affair")

    def _inner(self, data):
        if data is None:
            raise Malformed("nothing at all")
        raise BadBox(data)


def test_checks_are_read_in_order_with_their_codes_and_words():
    steps = Reader({}).read(Sample, "begin")
    assert [(step.what, step.codes, step.text) for step in steps] == [
        ("check", "CR20", "nothing at all"),
        ("check", "CR29", "A sealed box does not open under this round's transcript"),
        ("check", "CR24", "round … is old"),
        ("disk", "", "`commit_upload`"),
    ]


def test_what_is_durable_before_an_answer_stands_before_it_on_the_page():
    """The write-ahead rule, as the source has it: nothing is sent above the line that says what is on disk."""
    for kind, call in (
        ("round-open", "commit_upload"),
        ("confirm", "commit_answer"),
        ("open", "commit_answer"),
        ("introduce", "commit_introduction"),
    ):
        rows = page.MAKERS[f"checks-{kind}"]().splitlines()
        on_disk = max(at for at, row in enumerate(rows) if call in row)
        assert "*answered*" in rows[-1]
        assert on_disk < len(rows) - 1
