"""A full disk: one clear error, nothing half-written, and all goes on when there is room."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.refusing import contents, refused
from federation.wrong_files import draft

from commonroot.common.errors import StorageFull
from commonroot.simulations.network import MemoryNetwork


class _Full:
    """``os.fsync`` on a disk that is full from the n-th time on, until somebody frees space."""

    def __init__(self, nth: int) -> None:
        self.left, self.free = nth, False
        self._sync = os.fsync

    def __call__(self, handle: int) -> None:
        self.left -= 1
        if self.left < 0 and not self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._sync(handle)


def _syncing(disk: Callable[[str], Callable[[int], None]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A front that lets each department answer on a disk of its own."""

    def front(name: str, handle: Any) -> Any:
        def handled(request: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", disk(name))
                return handle(request)

        return handled

    return front


@pytest.mark.parametrize("nth", range(8))
def test_a_department_whose_disk_is_full_sends_nothing_and_goes_on_when_there_is_room(nth, tmp_path, monkeypatch):
    """Two blobs a round, four fsyncs; whichever fails first, the next try is as if nothing had been."""
    federation = small.founded(tmp_path / "full", attempts=2)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        full = _Full(nth)
        sync = os.fsync
        at_work.front = _syncing(lambda name: full if name == "ash" else sync, monkeypatch)
        at_work.start_all()
        at_work.queue()
        before = contents(federation.departments["ash"].root)
        at_work.run()
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            journal.resume(1)
        assert {facts["code"] for facts in at_work.told("refused") if facts["request"] == "round-open"} == {"CR15"}
        litter = [name for name in contents(federation.departments["ash"].root) if "/." in name]
        assert litter == []
        assert set(before) <= set(contents(federation.departments["ash"].root))
        full.free = True
        at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path)


def _undisturbed(tmp_path: Path, **shape: int) -> list[str]:
    with small.running(tmp_path / "undisturbed", **{"attempts": 2, **shape}) as at_work:
        at_work.run()
        return small.versions(at_work.federation)


@pytest.mark.parametrize("pages", range(3))
def test_a_department_whose_database_cannot_grow_sends_nothing_and_goes_on_when_there_is_room(pages, tmp_path):
    """Twelve rounds fill more than two pages of 4 KiB with answers and ledger entries."""
    shape = {"attempts": 2, "rounds": 12}
    federation = small.founded(tmp_path / "full", **shape)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()
        db = at_work._stores["ash"]._db
        (now,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {now + pages}")
        at_work.run()
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR15"}
        small.check_books(federation)
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            journal.resume(1)
        db.execute("PRAGMA max_page_count = 1000000")
        at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path, **shape)


@pytest.mark.parametrize("nth", range(8))
def test_a_coordinator_whose_disk_is_full_stops_with_one_error_and_goes_on_when_there_is_room(
    nth, tmp_path, monkeypatch
):
    """Two fsyncs for each version of the backbone; departments keep writing, for their disks are others."""
    federation = small.founded(tmp_path / "full", attempts=2)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        full, sync = _Full(nth), os.fsync
        at_work.front = _syncing(lambda name: sync, monkeypatch)
        at_work.start_all()
        at_work.queue()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageFull):
                at_work.run()
            assert not [name for name in contents(federation.coordinator.root) if "/." in name]
            full.free = True
            at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (lambda f: ["coordinator", "charter", str(f.coordinator.root), str(draft(f, "rounds = 3", "rounds = 4"))], 64),
        (lambda f: ["department", "join", str(f.departments["ash"].root), str(f.coordinator.root / "roster.json")], 64),
        (lambda f: ["coordinator", "run", str(f.coordinator.root), str(f.charter_path)], 64),
        (
            lambda f: [
                *["department", "approve", str(f.departments["ash"].root), str(f.charter_path)],
                *["--hash", f.charter.charter.digest.hex()],
            ],
            64,
        ),
    ],
    ids=["charter", "join", "run", "approve"],
)
def test_a_command_on_a_full_disk_says_so_and_keeps_what_was_there(words, limit, tmp_path, monkeypatch):
    """The kernel refuses to let any file grow beyond a few bytes (RLIMIT_FSIZE)."""
    federation = small.founded(tmp_path)
    line = words(federation)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        refused(tmp_path, line, "CR15", monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)
