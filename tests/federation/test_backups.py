"""A coordinator lost its folder: the run goes on from a backup to the same end, as far as is promised."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.interrupted import Interrupted, stop_at
from federation.restoring import journaled, moved, use, wipe
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.folder import DepartmentFolder
from commonroot.common import parcel
from commonroot.common.errors import (
    ConfigError,
)
from commonroot.common.restores import SKIPPED, SKIPPED_RUNS, restores_of
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.server.audit_file import verify_audit
from commonroot.server.backup import backup, restore
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port, processes


@pytest.fixture(scope="module")
def undisturbed(module_path: Path) -> tuple[list[str], dict[str, list[bytes]]]:
    """Versions and heads of a run that nobody disturbed."""
    with small.running(module_path) as at_work:
        at_work.run()
        return small.versions(at_work.federation), small.heads(at_work.federation)


@pytest.mark.parametrize("way", ["sqlite to sqlite", "sqlite to postgresql", "postgresql to sqlite"])
@pytest.mark.parametrize(
    ("moment", "nth"), [("run", 1), ("uploaded", 4), ("opening", 2), ("closed", 2), ("closing", 1)]
)
def test_a_wiped_coordinator_restored_elsewhere_takes_the_run_to_the_same_end(
    moment, nth, way, undisturbed, tmp_path, request
):
    """The round that was under way goes on with its number; later ones are numbered from further on."""
    before, after = way.split(" to ")
    federation = small.founded(tmp_path)
    if before == "postgresql":
        federation = use(federation, request.getfixturevalue("schema")())
    database = request.getfixturevalue("schema")() if after == "postgresql" else ""
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()
        with pytest.raises(Interrupted):
            at_work.run(stop_at(moment, nth))
        rounds = journaled(federation)[2]
        backup(federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        wipe(federation.coordinator.root)
        facts = restore(tmp_path / "backup.tar", tmp_path / "elsewhere", database=database)
        assert facts["missing_keys"] == []
        moved(at_work, tmp_path / "elsewhere")
        at_work.run()
        state, reason, ended = journaled(at_work.federation)
        assert (state, reason) == ("finished", "")
        pending = [number for number, state in rounds if state in ("open", "fixed")]
        assert [number for number, _ in ended if number <= SKIPPED] == [n for n, s in rounds if s == "closed"] + pending
        assert all(number > SKIPPED for number, _ in ended[len(rounds) :])
        small.check_books(at_work.federation)
        assert small.versions(at_work.federation) == undisturbed[0]
        assert small.heads(at_work.federation) == undisturbed[1]
        assert at_work.told("refused") == []


def test_a_coordinator_of_an_older_backup_goes_on_where_only_rounds_were_lost_since(undisturbed, tmp_path):
    """Versions stand where they stood; the numbers of the rounds that were lost since are not used again."""
    losing = []

    def weather(crossing, _random):
        return () if losing and crossing.parcel.kind == parcel.MASKED else (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[weather])) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        backup(at_work.federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        losing.append(True)
        at_work.run()
        assert journaled(at_work.federation)[0] == "stopped"
        losing.clear()
        wipe(at_work.federation.coordinator.root)
        restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
        moved(at_work, tmp_path / "elsewhere")
        at_work.run()
        assert journaled(at_work.federation)[0] == "finished"
        assert small.versions(at_work.federation) == undisturbed[0]
        small.check_books(at_work.federation)


@pytest.mark.parametrize("moment", ["closed", "uploaded", "opening"])
def test_a_coordinator_of_an_older_backup_never_takes_departments_back_and_says_how_to_go_on(moment, tmp_path):
    with small.running(tmp_path, rounds=5) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at(moment, 1))
        backup(at_work.federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 3))
        before = {name: _memory(folder) for name, folder in at_work.federation.departments.items()}
        wipe(at_work.federation.coordinator.root)
        restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
        moved(at_work, tmp_path / "elsewhere")
        at_work.run()
        state, reason, _ = journaled(at_work.federation)
        assert state == "stopped"
        newest = small.versions(at_work.federation)[-1]
        assert "comes from a backup, and ash, birch, cedar have gone on since" in reason
        assert f"warm_start = '{newest}'" in reason
        assert {name: _memory(folder) for name, folder in at_work.federation.departments.items()} == before


def test_a_coordinator_of_a_backup_one_round_old_does_that_round_again_over_the_same_departments(undisturbed, tmp_path):
    """A version that departments have masked for last is not an earlier one, and its contributions are the same."""
    with small.running(tmp_path) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        backup(at_work.federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        wipe(at_work.federation.coordinator.root)
        restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
        moved(at_work, tmp_path / "elsewhere")
        at_work.run()
        assert [number for number, _ in journaled(at_work.federation)[2]] == [1, SKIPPED + 2, SKIPPED + 3]
        assert small.versions(at_work.federation) == undisturbed[0]


def _memory(folder: DepartmentFolder) -> DepartmentMemory:
    with small.store_of(folder) as store:
        return DepartmentMemory.from_bytes(store.memory(1))


def test_a_restored_coordinator_says_so_signed_where_the_backups_log_ended_and_gives_up_what_was_open(tmp_path):
    """Round 2 was open: it may have had a survivor set since.  A round whose set was fixed in the backup goes on."""
    with small.running(tmp_path) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("uploaded", 4))
        backup(at_work.federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        with small.journal_of(at_work.federation) as journal:
            before = journal.audit()
    facts = restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
    assert (facts["given_up"], facts["rounds_from"], facts["signed"]) == ([2], SKIPPED + 3, True)
    folder = CoordinatorFolder(tmp_path / "elsewhere")
    with small._Closing(folder.journal()) as journal:
        log, rounds = journal.audit(), {r.round: r for r in journal.rounds()}
        told = journal.restored()
    entry = log[len(before)]
    assert log[: len(before)] == before
    assert entry.kind == "restored"
    assert (entry.facts["entries"], entry.facts["head"]) == (len(before), before[-1].hash.hex())
    assert [e.kind for e in log[len(before) :]] == ["restored", "round-lost", "checkpoint"]
    assert rounds[2].state == "lost" and "when the backup was made" in rounds[2].reason
    assert verify_audit(folder)["since"] == 0
    assert told["last_round"] == 2
    (good,), wrong = restores_of(log)
    assert (good.rounds, good.given_up, wrong) == ((2, SKIPPED + 2), (2,), [])
    shown = CliRunner().invoke(app, ["coordinator", "status", str(folder.root)])
    assert f"of rounds 3 to {SKIPPED + 2} nothing is known here" in shown.output


def test_without_its_key_a_restore_is_signed_when_the_coordinator_comes_up(tmp_path):
    federation = small.founded(tmp_path)
    key = (federation.coordinator.root / "keys" / "coordinator.key").read_bytes()
    backup(federation.coordinator, tmp_path / "backup.tar")
    assert not restore(tmp_path / "backup.tar", tmp_path / "elsewhere")["signed"]
    path = tmp_path / "elsewhere" / "keys" / "coordinator.key"
    path.write_bytes(key)
    path.chmod(0o600)
    folder = CoordinatorFolder(tmp_path / "elsewhere")
    with small._Closing(folder.journal()) as journal:
        assert journal.audit()[-1].kind == "restored"
        for _ in range(2):  # once
            journal.sign_restore(folder.identity())
        assert [e.kind for e in journal.audit()[-2:]] == ["restored", "checkpoint"]


def test_a_backup_of_a_restored_coordinator_is_restored_to_numbers_that_were_never_used(tmp_path):
    """Even where nothing was opened or queued in between: 0 + 1000, and from there 1000 more; runs by hundreds."""
    federation = small.founded(tmp_path)
    source = federation.coordinator
    for attempt in (1, 2):
        backup(source, tmp_path / f"{attempt}.tar", with_keys=True)
        facts = restore(tmp_path / f"{attempt}.tar", tmp_path / f"again-{attempt}")
        assert facts["rounds_from"] == attempt * SKIPPED + 1
        source = CoordinatorFolder(tmp_path / f"again-{attempt}")
    with small._Closing(source.journal()) as journal:
        assert journal.queue(federation.charter) == 2 * SKIPPED_RUNS + 1
        good, wrong = restores_of(journal.audit())
    assert (len(good), wrong) == (2, [])


def test_a_backup_is_taken_while_rounds_go_on_and_is_whole(tmp_path):
    """At every event of a run: whatever moment it shows, every file it names is in it and restores."""
    with small.running(tmp_path) as at_work:
        taken = []

        def listen(kind, _facts):
            target = tmp_path / f"backup-{len(taken)}.tar"
            backup(at_work.federation.coordinator, target)
            taken.append((kind, target))

        at_work.run(listen)
    assert len(taken) > 15
    for at, (_, target) in enumerate(taken):
        root = tmp_path / f"restored-{at}"
        restore(target, root)
        with small._Closing(CoordinatorFolder(root).journal()) as journal:
            for version in journal.versions(1):
                assert (root / "backbones" / version.file).is_file()
            assert all(journal.snapshot(r.round) for r in journal.rounds() if r.state == "fixed")


def test_a_restored_sequence_goes_on_after_the_rows_that_were_restored(tmp_path, schema):
    federation = small.founded(tmp_path)
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
        journal.faults.note("ash", "CR21", "first")
    backup(federation.coordinator, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "elsewhere", database=schema())
    with small._Closing(CoordinatorFolder(tmp_path / "elsewhere").journal()) as journal:
        journal.faults.note("ash", "CR21", "second")
        assert [fault["what"] for fault in journal.faults.all()] == ["first", "second"]


def test_a_database_that_holds_a_journal_is_never_restored_over(tmp_path, schema):
    federation = use(small.founded(tmp_path), schema())
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    backup(federation.coordinator, tmp_path / "backup.tar")
    with pytest.raises(ConfigError, match="holds a journal already"):
        restore(tmp_path / "backup.tar", tmp_path / "elsewhere", database=federation.coordinator.config.database)
    assert not (tmp_path / "elsewhere").exists()
    with small.journal_of(federation) as journal:
        assert len(journal.runs()) == 1


@pytest.mark.slow
def test_processes_go_on_with_a_coordinator_restored_to_another_folder_and_port(tmp_path):
    """Over TLS with real training: SIGKILL, backup of what was left, nothing else kept, another port; the run ends.

    Flower's own database is not in the backup: nodes are let in anew by their keys in the roster.
    """
    federation = small.founded(tmp_path / "grove", rounds=8, attempts=6, widths=(12, 5))
    small.move_to_port(federation, free_port())
    old = int(CoordinatorFolder(federation.coordinator.root).config.port)
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)

    def until(condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            started.check()
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def closed() -> int:
        with small.journal_of(federation) as journal:
            return sum(r.state == "closed" for r in journal.rounds())

    def over() -> bool:
        with small.journal_of(federation) as journal:
            return journal.runs()[0].state in ("finished", "stopped")

    with processes(tmp_path / "logs") as started:
        started.start_coordinator(federation.coordinator.root)
        for name, folder in federation.departments.items():
            started.start_department(name, folder.root)
        until(lambda: closed() >= 2, "two rounds")
        for name in ("coordinator", *federation.departments):
            started.kill(name)
        before = closed()
        backup(federation.coordinator, tmp_path / "backup.tar", with_keys=True)
        wipe(federation.coordinator.root)
        restore(tmp_path / "backup.tar", tmp_path / "elsewhere" / "coordinator")
        federation = dataclasses.replace(
            federation, coordinator=CoordinatorFolder(tmp_path / "elsewhere" / "coordinator")
        )
        new = free_port()
        for folder in (federation.coordinator, *federation.departments.values()):
            for path in folder.root.glob("*.toml"):
                path.write_text(path.read_text().replace(str(old), str(new)))
        started.start_coordinator(federation.coordinator.root)
        for name, folder in federation.departments.items():
            started.start_department(name, folder.root)
        until(over, "the end of the run")
    small.check_books(federation)
    assert journaled(federation)[:2] == ("finished", "")
    assert closed() == 8 > before
