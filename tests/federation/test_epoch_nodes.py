"""Which nodes the hub lets in follows the roster."""

from __future__ import annotations

import os

from federation import small

from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.enrol_roster import book_of
from commonroot.server.enrol_watch import Doorkeeper
from commonroot.simulations.founding import Federation, next_epoch


class Hub:
    """A hub that, like Flower's, never takes back a key it has shut out."""

    def __init__(self) -> None:
        self.inside: dict[str, str] = {}
        self.out: set[str] = set()

    def register(self, key: str, name: str) -> None:
        if key in self.out:
            raise ValueError("public key already in use")
        self.inside[key] = name

    def unregister(self, key: str) -> None:
        del self.inside[key]
        self.out.add(key)

    def registered(self) -> list[str]:
        return list(self.inside)


def keeper(federation: Federation, hub: Hub, told: list[tuple[str, str]]) -> Doorkeeper:
    book = EnrolmentBook(federation.coordinator.journal(), federation="grove")
    tell = lambda kind, facts: told.append((kind, facts["department"]))  # noqa: E731
    return Doorkeeper(hub, book, federation.coordinator.roster, tell)


def test_who_left_is_shut_out_and_who_came_is_let_in(tmp_path):
    federation, hub, told = small.founded(tmp_path, departments=4), Hub(), []
    door = keeper(federation, hub, told)
    door.look()
    assert sorted(hub.inside.values()) == ["ash", "birch", "cedar", "dogwood"]
    later = next_epoch(federation, leaving={"ash"}, coming={"elm": small.data_section("elm")}, random=os.urandom)
    door.look()  # a run under the last roster may still be on
    assert sorted(hub.inside.values()) == ["ash", "birch", "cedar", "dogwood", "elm"]
    for again in (door, keeper(later, hub, told)):  # the second one after a restart
        again.look()
        again.leave_only(later.coordinator.roster())
        assert sorted(hub.inside.values()) == ["birch", "cedar", "dogwood", "elm"]
    assert told == []


def test_a_revoked_node_is_shut_out_at_once_and_after_a_restart_too(tmp_path):
    """Though the roster that stands still lists it."""
    federation, hub, told = small.founded(tmp_path, departments=4), Hub(), []
    door = keeper(federation, hub, told)
    door.look()
    with book_of(federation.coordinator) as book:
        book.revoke("birch", roster=federation.coordinator.roster(), now=1.0)
    door.look()
    assert sorted(hub.inside.values()) == ["ash", "cedar", "dogwood"]
    assert told == [("revoked", "birch")]
    restarted = Hub()
    keeper(federation, restarted, told).look()
    assert sorted(restarted.inside.values()) == ["ash", "cedar", "dogwood"]
    assert told == [("revoked", "birch")]


def test_a_node_key_that_was_shut_out_is_told_and_holds_up_nobody(tmp_path):
    federation, hub, told = small.founded(tmp_path, departments=3), Hub(), []
    hub.out.add(federation.coordinator.roster().departments[1].node_key)
    keeper(federation, hub, told).look()
    assert sorted(hub.inside.values()) == ["ash", "cedar"]
    assert told == [("shut-out", "birch")]
