"""Which nodes the hub lets in follows the roster."""

from __future__ import annotations

import os
from typing import Any

from federation import small

from commonroot.server.coordinator import _let_in
from commonroot.simulations.founding import next_epoch


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


def test_who_left_is_shut_out_and_who_came_is_let_in(tmp_path):
    federation, hub, told = small.founded(tmp_path, departments=4), Hub(), []

    def tell(kind: str, facts: dict[str, Any]) -> None:
        told.append((kind, facts["department"]))

    _let_in(hub, federation.coordinator.roster(), tell)
    assert sorted(hub.inside.values()) == ["ash", "birch", "cedar", "dogwood"]
    later = next_epoch(federation, leaving={"ash"}, coming={"elm": small.data_section("elm")}, random=os.urandom)
    for _ in range(2):  # again after a restart
        _let_in(hub, later.coordinator.roster(), tell)
        assert sorted(hub.inside.values()) == ["birch", "cedar", "dogwood", "elm"]
    assert told == []


def test_a_node_key_that_was_shut_out_is_told_and_holds_up_nobody(tmp_path):
    federation, hub, told = small.founded(tmp_path, departments=3), Hub(), []
    roster = federation.coordinator.roster()
    hub.out.add(roster.departments[1].node_key)
    _let_in(hub, roster, lambda kind, facts: told.append((kind, facts["department"])))
    assert sorted(hub.inside.values()) == ["ash", "cedar"]
    assert told == [("shut-out", "birch")]
