"""Simulations wait for nobody's disk; whatever is deployed does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import commonroot
from commonroot.client.store import DepartmentStore
from commonroot.files import atomic_write, unforced

ROOT = Path(commonroot.__file__).parent.parent


@pytest.fixture
def forced(monkeypatch):
    """How often the disk was waited for."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls


def pragma(folder: Path) -> int:
    store = DepartmentStore(folder, federation="f", department="d", owner=True)
    try:
        return store._db.execute("PRAGMA synchronous").fetchone()[0]
    finally:
        store.close()


def test_a_write_waits_for_the_file_and_its_folder_unless_told_not_to(tmp_path, forced):
    with unforced():
        atomic_write(tmp_path / "a", b"text")
    assert forced == []
    atomic_write(tmp_path / "a", b"other")
    assert len(forced) == 2


def test_a_store_waits_unless_it_was_opened_by_a_simulation(tmp_path):
    off, full = 0, 2
    with unforced():
        assert pragma(tmp_path / "simulated") == off
    assert pragma(tmp_path / "deployed") == full


def left_in_the_log(folder: Path, key: bytes) -> bool:
    """After another memory was put in the place of one that held a key."""
    store = DepartmentStore(folder, federation="f", department="d", owner=True)
    try:
        for number, memory in enumerate((key, bytes(len(key))), start=1):
            store.begin_epoch(number, roster=bytes(32), setup=b"", memory=memory, facts={})
        return key in (folder / "state.db-wal").read_bytes()
    finally:
        store.close()


def test_what_was_replaced_is_overwritten_at_once_unless_by_a_simulation(tmp_path):
    key = os.urandom(64)
    assert not left_in_the_log(tmp_path / "deployed", key)
    with unforced():
        assert left_in_the_log(tmp_path / "simulated", key)


def test_threads_begin_with_waiting(tmp_path, forced):
    with unforced():
        thread = threading.Thread(target=atomic_write, args=(tmp_path / "a", b"text"))
        thread.start()
        thread.join()
    assert len(forced) == 2


def test_nothing_but_simulations_leaves_out_the_waiting():
    rooms = ("client", "common", "commonroot", "server", "strategies")
    found = [path for room in rooms for path in (ROOT / room).rglob("*.py") if "unforced()" in path.read_text()]
    assert [path.name for path in found] == ["files.py"]
