"""What the coordinator waits for where no charter says so: between lost rounds, and for room on a full disk."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from federation import small

from commonroot.common import parcel
from commonroot.common.errors import StorageFull
from commonroot.server.backbones import BackboneStore
from commonroot.server.coordinator import Space
from commonroot.server.exchange import Exchange
from commonroot.server.run import RunDriver
from commonroot.server.status import status_of
from commonroot.server.waits import Waits, pause_after
from commonroot.simulations.network import MemoryNetwork, drop


def test_the_first_lost_round_is_tried_at_once_and_each_later_one_after_three_times_as_long():
    """retry 2: nothing, 2, 6, 18, 54, 162, and never more than five minutes"""
    assert [pause_after(lost, 2.0) for lost in range(1, 9)] == [0, 2, 6, 18, 54, 162, 300, 300]
    assert pause_after(1_000_000, 2.0) == 300
    assert pause_after(7, 0.0) == 0


def test_a_run_whose_rounds_are_lost_rests_between_them_and_says_why_it_stops(tmp_path):
    """Nobody's upload arrives; attempts = 3: lost at once, tried at once, rests 2 s, and stops at the third."""
    network = MemoryNetwork(weather=[drop(1.0, kinds=[parcel.MASKED])])
    told: list[tuple[str, dict[str, Any]]] = []
    with small.running(tmp_path, network=network) as at_work, small.journal_of(at_work.federation) as journal:
        coordinator = at_work.federation.coordinator
        run = journal.next_run()
        RunDriver(
            run,
            roster=coordinator.roster(),
            identity=coordinator.identity(),
            journal=journal,
            backbones=BackboneStore(coordinator.root / "backbones"),
            exchange=Exchange(network, coordinator.roster(), network.clock, absence=10),
            clock=network.clock,
            on_event=lambda kind, facts: told.append((kind, facts | {"now": network.clock()})),
            retry=2.0,
        ).drive()
        lost = [facts for kind, facts in told if kind == "lost"]
        opened = [facts["now"] for kind, facts in told if kind == "round"]
        assert [facts["again_in"] for facts in lost] == [0, 2, 6]
        assert opened[1] - lost[0]["now"] < 1
        assert opened[2] - lost[1]["now"] >= 2
        status = status_of(coordinator)
        assert status["runs"][0]["state"] == "stopped"
        assert status["runs"][0]["reason"] == (
            "3 rounds in a row came to nothing; the last: 0 uploads, at least 3 are needed (CR40)"
        )
        assert status["trouble"] == []


def test_a_department_that_refuses_is_named_with_its_code_when_a_round_is_lost(tmp_path, monkeypatch):
    from commonroot.client.store import DepartmentStore

    def full(*_: Any, **__: Any) -> None:
        raise StorageFull("no room")

    with small.running(tmp_path) as at_work:
        monkeypatch.setattr(DepartmentStore, "commit_upload", full)
        at_work.run()
        monkeypatch.undo()
        reason = status_of(at_work.federation.coordinator)["runs"][0]["reason"]
    assert "0 uploads, at least 3 are needed; 'ash' refused with CR15; 'birch' refused with CR15" in reason


def test_a_run_that_nobody_carries_out_is_said_in_status(tmp_path):
    with small.running(tmp_path) as at_work:
        coordinator = at_work.federation.coordinator
        assert status_of(coordinator)["trouble"] == [
            f"no coordinator is up on {coordinator.root}: `commonroot coordinator up {coordinator.root}`"
        ]


def test_a_full_disk_is_said_once_and_waited_for_as_long_as_the_folder_says():
    told: list[str] = []
    stop = threading.Event()
    stop.set()  # nobody really waits
    space = Space(Waits(storage=0.2, look=0.1), stop, lambda kind, facts: told.append(f"{kind} {facts['code']}"))
    full = StorageFull("no room")
    space.wait(full)
    space.wait(full)
    assert told == ["storage-full CR15"]
    threading.Event().wait(0.25)
    with pytest.raises(StorageFull):
        space.wait(full)
    space.found()
    space.wait(full)
    assert told == ["storage-full CR15", "storage-full CR15"]
