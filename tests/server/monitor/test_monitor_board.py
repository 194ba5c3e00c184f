"""What is going on right now, from events alone."""

from __future__ import annotations

from commonroot.common.charter import Timing
from commonroot.server.monitor.board import EVENTS_KEPT, Board

NAMES = ["ash", "birch", "cedar"]


class Hour:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def board(hour: Hour) -> Board:
    made = Board(clock=hour)
    made.expect(NAMES)
    made.run_begins(Timing(gather=20, upload=30, opening=16, closing=40))
    return made


def test_a_round_is_followed_from_gathering_to_its_end():
    """Deadlines by hand: gathering 1000 + 20, uploading 1005 + 30, confirming 1010 + 16/2, opening 1011 + 16."""
    hour = Hour()
    at = board(hour)
    at.tell("run", {"run": 7, "rounds": 3, "charter": "00"})
    assert at.moment() | {"asked": None} == {
        "run": 7, "stage": "gathering", "round": None, "since": 1000, "until": 1020, "asked": None, "done": [],
    }  # fmt: skip
    at.tell("waiting", {"ready": ["ash"], "of": 3})
    assert (at.moment()["asked"], at.moment()["done"]) == (NAMES, ["ash"])
    hour.now = 1005
    at.tell("round", {"round": 12, "version": 4, "cohort": ["ash", "cedar"]})
    at.tell("uploaded", {"round": 12, "uploads": 1, "department": "cedar"})
    moment = at.moment()
    assert (moment["stage"], moment["round"], moment["until"]) == ("uploading", 12, 1035)
    assert (moment["asked"], moment["done"]) == (["ash", "cedar"], ["cedar"])
    hour.now = 1010
    at.tell("confirming", {"round": 12, "survivors": [2]})
    assert (at.moment()["stage"], at.moment()["until"], at.moment()["asked"]) == ("confirming", 1018, ["cedar"])
    hour.now = 1011
    at.tell("opening", {"round": 12, "survivors": [2]})
    assert (at.moment()["stage"], at.moment()["until"], at.moment()["round"]) == ("opening", 1027, 12)
    at.tell("closed", {"round": 12})
    assert (at.moment()["stage"], at.moment()["round"], at.moment()["run"]) == ("", None, 7)


def test_a_deadline_of_gathering_does_not_move_as_departments_come():
    hour = Hour()
    at = board(hour)
    at.tell("run", {"run": 1})
    hour.now += 15
    at.tell("waiting", {"ready": ["ash", "birch"], "of": 3})
    assert at.moment()["until"] == 1020


def test_who_declined_is_known_until_they_say_yes():
    hour = Hour()
    at = board(hour)
    at.tell("run", {"run": 1})
    at.tell("fault", {"department": "birch", "code": "CR37", "what": "the charter: refused with CR12"})
    at.tell("fault", {"department": "cedar", "code": "CR20", "what": "the charter: answered with 'x'"})
    at.tell("fault", {"department": "ash", "code": "link", "what": "the department is not online"})
    assert at.declined() == {"birch": ("CR12", 1000.0), "cedar": ("CR20", 1000.0)}
    at.tell("ready", {"department": "birch"})
    assert set(at.declined()) == {"cedar"}
    at.tell("run", {"run": 2})
    assert at.declined() == {}


def test_a_run_that_stopped_leaves_nothing_going_on():
    at = board(Hour())
    at.tell("run", {"run": 1})
    at.tell("round", {"round": 1, "cohort": NAMES})
    at.tell("stopped", {"why": "the disk is full"})
    assert at.moment()["stage"] == "" and at.moment()["run"] is None


def test_an_event_of_a_later_version_is_remembered_and_changes_nothing():
    at = board(Hour())
    before = at.moment()
    at.tell("something-new", {"a": 1})
    assert at.moment() == before
    assert [one["event"] for one in at.events()] == ["something-new"]


def test_only_the_last_events_are_kept():
    at = board(Hour())
    for number in range(3 * EVENTS_KEPT):
        at.tell("trained", {"round": number})
    assert len(at.events()) == EVENTS_KEPT
    assert at.events()[-1]["facts"] == {"round": 3 * EVENTS_KEPT - 1}


def test_what_is_handed_out_is_a_copy():
    at = board(Hour())
    at.tell("run", {"run": 1})
    at.moment()["done"].append("nobody")
    assert at.moment()["done"] == []
