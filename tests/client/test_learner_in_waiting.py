"""A learner that is still being loaded: who needs it waits, once; who does not, does not."""

from __future__ import annotations

import threading

import pytest

from commonroot.client.learner_in_waiting import LearnerInWaiting
from commonroot.client.session import Trained
from commonroot.common.errors import DataError


class Counting:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check(self, charter):
        self.asked.append("check")

    def train(self, charter, received, version, local):
        self.asked.append("train")
        return Trained({}, {})

    def finish(self, charter, received, version, local):
        self.asked.append("finish")
        return "chosen"


def test_loading_begins_once_and_whoever_asks_waits_for_it():
    gate, loads = threading.Event(), []

    def load():
        loads.append(threading.current_thread().name)
        gate.wait(10)
        return learner

    learner = Counting()
    waiting = LearnerInWaiting(load, on_failure=lambda: None)
    waiting.begin()
    waiting.begin()
    threading.Timer(0.05, gate.set).start()
    assert waiting.finish(None, {}, 3, None) == "chosen"
    waiting.check(None)
    assert waiting.train(None, {}, 3, None) == Trained({}, {})
    assert learner.asked == ["finish", "check", "train"]
    assert loads == ["commonroot-learner"]


def test_settling_waits_for_what_was_begun_and_begins_nothing():
    gate, loads = threading.Event(), []
    waiting = LearnerInWaiting(lambda: loads.append(gate.wait(10)) or Counting(), on_failure=lambda: None)
    waiting.settle(10)
    assert loads == []
    waiting.begin()
    waiting.settle(0.01)
    assert loads == []
    gate.set()
    waiting.settle(10)
    assert loads == [True]


def test_a_question_begins_loading_by_itself():
    learner = Counting()
    LearnerInWaiting(lambda: learner, on_failure=lambda: None).check(None)
    assert learner.asked == ["check"]


def test_a_table_that_cannot_be_read_stops_the_daemon_and_is_what_everybody_is_told():
    stopped = threading.Event()

    def load():
        raise DataError("three problems")

    waiting = LearnerInWaiting(load, on_failure=stopped.set)
    waiting.begin()
    assert stopped.wait(10)
    for _ in range(2):
        with pytest.raises(DataError, match="three problems"):
            waiting.check(None)
    assert isinstance(waiting.failure, DataError)
