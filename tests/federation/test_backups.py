"""Backups of real folders: wiped, restored elsewhere, and the run goes on to the same end, as far as is promised."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.backup import backup as backup_department
from commonroot.client.backup import restore as restore_department
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.common import parcel
from commonroot.common.errors import (
    BackupDamaged,
    ConfigError,
    ForeignState,
    KeyFileError,
    RestoredFolder,
    StaleRound,
    StorageFull,
)
from commonroot.common.ledger import verify
from commonroot.common.manifest import flatten
from commonroot.common.messages import Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.restores import SKIPPED, SKIPPED_RUNS, restores_of
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.server.audit_file import verify_audit
from commonroot.server.backbones import BackboneStore
from commonroot.server.backup import backup, restore, with_database
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port, processes

SECRET = "correct-horse-battery"


class Interrupted(Exception):
    """The coordinator stops in the middle of a run."""


def stop_at(kind: str, nth: int = 1) -> Callable[[str, dict[str, Any]], None]:
    """Stops the coordinator at the n-th event of a kind."""
    left = [nth]

    def listen(told: str, _facts: dict[str, Any]) -> None:
        left[0] -= told == kind
        if told == kind and left[0] == 0:
            raise Interrupted

    return listen


def moved(at_work: small.ToyFederation, root: Path) -> None:
    """From now on the coordinator is the one in another folder."""
    at_work.federation = dataclasses.replace(at_work.federation, coordinator=CoordinatorFolder(root))


def use(federation: Federation, url: str) -> Federation:
    """Let the coordinator keep its journal elsewhere."""
    path = federation.coordinator.root / "coordinator.toml"
    path.write_text(with_database(path.read_text(), url))
    return dataclasses.replace(federation, coordinator=CoordinatorFolder(path.parent))


def wipe(folder: Path) -> None:
    shutil.rmtree(folder)


def journaled(federation: Federation) -> tuple[str, str, list[tuple[int, str]]]:
    with small.journal_of(federation) as journal:
        run = journal.runs()[0]
        return run.state, run.reason, [(r.round, r.state) for r in journal.rounds()]


@pytest.fixture(scope="module")
def undisturbed(module_path: Path) -> tuple[list[str], dict[str, list[bytes]]]:
    """Versions and heads of a run that nobody disturbed."""
    with small.running(module_path) as at_work:
        at_work.run()
        return small.versions(at_work.federation), small.heads(at_work.federation)


# -- the coordinator ---------------------------------------------------------------------------------------------------


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


def test_keys_are_in_a_backup_only_where_asked_for_and_it_is_its_owners_alone_anyway(tmp_path):
    federation = small.founded(tmp_path)
    secret = (federation.coordinator.root / "keys" / "coordinator.key").read_bytes().strip()
    for name, with_keys in (("without.tar", False), ("with.tar", True)):
        backup(federation.coordinator, tmp_path / name, with_keys=with_keys)
        with tarfile.open(tmp_path / name) as tar:
            keys = {member for member in tar.getnames() if member.endswith(".key")}
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert (secret in (tmp_path / name).read_bytes()) is with_keys
        assert ("keys/coordinator.key" in keys, "authority/authority.key" in keys) == (with_keys, with_keys)
        facts = restore(tmp_path / name, tmp_path / f"restored-{name}")
        assert facts["missing_keys"] == ([] if with_keys else ["keys/coordinator.key", "tls/server.key"])
        private = list((tmp_path / f"restored-{name}").rglob("*.key"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} <= {0o600}
    restored = CoordinatorFolder(tmp_path / "restored-without.tar")
    with pytest.raises(KeyFileError):
        restored.identity()


def test_no_backup_holds_the_databases_password(tmp_path, schema):
    federation = small.founded(tmp_path)
    url = schema().replace("owner@", f"owner:{SECRET}@")  # trusted without one
    (federation.coordinator.root / "coordinator.toml").chmod(0o600)
    federation = use(federation, url)
    (federation.coordinator.root / "coordinator.toml").chmod(0o600)
    backup(federation.coordinator, tmp_path / "backup.tar", with_keys=True)
    assert SECRET.encode() not in (tmp_path / "backup.tar").read_bytes()


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


def test_a_backup_is_never_written_over_and_a_folder_never_restored_into(tmp_path):
    federation = small.founded(tmp_path)
    (tmp_path / "precious").write_text("two years of work")
    with pytest.raises(ConfigError, match="exists already"):
        backup(federation.coordinator, tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "two years of work"
    backup(federation.coordinator, tmp_path / "backup.tar")
    with pytest.raises(ConfigError, match="not empty"):
        restore(tmp_path / "backup.tar", federation.coordinator.root)


def _repacked(source: Path, target: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    """The same backup with some of its files changed."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            for name, data in change(member.name, old.extractfile(member).read()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return target


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name, data: [(name, data.replace(b"grove", b"grave"))], "changed, missing or added"),
        (lambda name, data: [] if name == "roster.json" else [(name, data)], r"added: roster\.json"),
        (lambda name, data: [(name, data)] + [("extra", b"x")] * (name == "roster.json"), "added: extra"),
        (lambda name, data: [("../" + name if name == "roster.json" else name, data)], "which no backup holds"),
        (lambda name, data: [("/" + name if name == "roster.json" else name, data)], "which no backup holds"),
        (lambda name, data: [(name, data)] * 2, "which no backup holds"),
        (lambda name, data: [] if name == "backup.json" else [(name, data)], "no list of its files"),
        (lambda name, data: [(name, b"[]" if name == "backup.json" else data)], "cannot be read"),
        (lambda name, data: [(name, data.replace(b'"format": 1', b'"format": 9'))], "format 9"),
        (lambda name, data: [(name, data.replace(b'"layout": 2', b'"layout": 7'))], "layout 7"),
    ],
    ids=["changed", "missing", "added", "upwards", "absolute", "twice", "no list", "list", "format", "layout"],
)
def test_a_backup_that_was_changed_is_refused_and_nothing_of_it_is_there(change, told, tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "good.tar")
    bad = _repacked(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(BackupDamaged, match=told):
        restore(bad, tmp_path / "elsewhere")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", [0, 0.2, 0.5, 0.99])
def test_a_backup_that_was_cut_short_is_refused(part, tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "good.tar")
    data = (tmp_path / "good.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "bad.tar").write_bytes(data[: int(part * len(data))])
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "bad.tar", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_a_backup_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo("keys")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(BackupDamaged, match="which no backup holds"):
        restore(tmp_path / "bad.tar", tmp_path / "elsewhere")


def test_a_backbone_that_was_changed_on_disk_is_not_backed_up_as_good(tmp_path, monkeypatch):
    monkeypatch.setattr("commonroot.server.backup._ATTEMPTS", 1)
    with small.running(tmp_path) as at_work:
        at_work.run()
        path = at_work.federation.coordinator.root / "backbones" / "run-1-version-2.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(BackupDamaged, match="run-1-version-2"):
            backup(at_work.federation.coordinator, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


def test_a_full_disk_leaves_no_half_backup(tmp_path, monkeypatch):
    federation = small.founded(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(StorageFull):
        backup(federation.coordinator, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('database = ""\n', 'database = "env:X"\n'),
        ("federation = 'g'\n", "database = \"env:X\"\nfederation = 'g'\n"),
        ('a = 1\ndatabase="old"  # note\nb = 2\n', 'a = 1\ndatabase = "env:X"\nb = 2\n'),
        ("a = 1\n[waits]\ndatabase = 30\n", 'database = "env:X"\na = 1\n[waits]\ndatabase = 30\n'),
    ],
)
def test_only_the_database_of_a_configuration_is_replaced(text, expected):
    assert with_database(text, "env:X") == expected


# -- a department ------------------------------------------------------------------------------------------------------


def lost_and_restored(at_work: small.ToyFederation, tmp_path: Path, name: str) -> DepartmentFolder:
    """Wipe a department's folder and put the backup in its place."""
    folder = at_work.federation.departments[name]
    if name in at_work.sessions:
        at_work.kill(name)
    table = (folder.root / "rows.npz").read_bytes()
    wipe(folder.root)
    facts = restore_department(tmp_path / f"{name}.tar", folder.root)
    assert facts["missing_keys"] == []
    (folder.root / "rows.npz").write_bytes(table)
    return DepartmentFolder(folder.root)


def enter_next_epoch(federation: Federation) -> None:
    """Everybody renews, is enrolled again and joins."""
    for each in federation.departments.values():
        renew(DepartmentFolder(each.root), os.urandom)
    requests = [each.root / "request.json" for each in federation.departments.values()]
    federation.coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    for each in federation.departments.values():
        join(DepartmentFolder(each.root), federation.coordinator.root / "roster.json", os.urandom)


def test_a_restored_department_takes_no_part_before_the_next_epoch(tmp_path):
    with small.running(tmp_path) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 2))
        backup_department(at_work.federation.departments["ash"], tmp_path / "ash.tar", with_keys=True)
        folder = lost_and_restored(at_work, tmp_path, "ash")
        with pytest.raises(RestoredFolder, match="epoch 1"):
            at_work.start("ash")
        at_work._stores.pop("ash").close()
        with pytest.raises(RestoredFolder, match="epoch 1"):
            join(folder, at_work.federation.coordinator.root / "roster.json", lambda n: bytes(n))


def test_a_backup_of_a_department_holds_no_key_of_an_epoch(tmp_path):
    """Neither raw nor in hexadecimal, nor among free pages: chains, setup, masked uploads, the agreement key."""
    with small.running(tmp_path) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("uploaded", 4))
        folder = at_work.federation.departments["ash"]
        renew(folder, os.urandom)
        agreement = (folder.root / "keys" / "agreement.key").read_bytes().strip()
        with small.store_of(folder) as store:
            memory, setup = DepartmentMemory.from_bytes(store.memory(1)), json.loads(store.setup(1))
        upload = next((folder.root / "blobs").glob("upload-*")).read_bytes()
        backup_department(folder, tmp_path / "ash.tar", with_keys=True)
    found = (tmp_path / "ash.tar").read_bytes()
    keys = [*memory.chains.blocks, *memory.chains.rounds]
    assert len(keys) == 6
    for key in keys:
        assert key not in found and key.hex().encode() not in found
    for _, shared in (*setup["curve"], *setup["roots"]):
        assert shared.encode() not in found
    assert agreement not in found and upload[:64] not in found
    assert (folder.root / "keys" / "identity.key").read_bytes().strip() in found


def test_a_restored_department_comes_back_in_the_next_epoch_with_its_head_and_passes_over_one_backbone(tmp_path):
    """Four departments.  Ash is backed up after round 1, takes part in round 2, and is lost.

    In epoch 2 it is shown version 2 first: it may have opened that for somebody, so it contributes nothing to it; from
    version 3 on it takes part.  Its heads go on from the backup's: that of version 0.
    """
    with small.running(tmp_path, departments=4, rounds=5) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        backup_department(at_work.federation.departments["ash"], tmp_path / "ash.tar", with_keys=True)
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        charter = at_work.federation.charter.charter.digest.hex()
        for name in list(at_work.sessions):
            at_work.kill(name)
        folder = lost_and_restored(at_work, tmp_path, "ash")
        with small.store_of(folder) as store:
            assert store.head_versions(charter) == [0]
            assert [entry.kind for entry in store.ledger()][-1] == "restored"
            assert verify(store.ledger()) > 3
        enter_next_epoch(at_work.federation)
    with small.ToyFederation(small.opened(tmp_path), MemoryNetwork()) as again:
        again.start_all()
        with small.journal_of(again.federation) as journal:
            journal.set_run(1, "stopped", "moved")
            journal.resume(1)
        again.run()
        with small.journal_of(again.federation) as journal:
            closed = {r.version: r.report["survivors"] for r in journal.rounds() if r.state == "closed"}
            assert journal.runs()[0].state == "finished"
        assert "ash" in closed[0] and "ash" in closed[1]
        assert closed[2] == ["birch", "cedar", "dogwood"]
        assert closed[3] == closed[4] == ["ash", "birch", "cedar", "dogwood"]
        assert [facts["version"] for facts in again.told("passed-over")] == [2]
        with small.store_of(again.federation.departments["ash"]) as store:
            assert verify(store.ledger()) == len(store.ledger())
            assert store.head_versions(charter) == [0, 3, 4]


def test_a_departments_backup_without_keys_says_which_are_missing(tmp_path):
    federation = small.founded(tmp_path)
    backup_department(federation.departments["ash"], tmp_path / "ash.tar")
    facts = restore_department(tmp_path / "ash.tar", tmp_path / "ash-again")
    assert facts["missing_keys"] == ["keys/identity", "keys/node", "keys/training"]
    assert stat.S_IMODE((tmp_path / "ash-again").stat().st_mode) == 0o700
    with pytest.raises(KeyFileError):
        DepartmentFolder(tmp_path / "ash-again").identity()


def test_a_state_that_was_not_prepared_for_a_backup_is_refused(tmp_path):
    """Somebody put a whole state.db, keys and all, into a backup by hand."""
    federation = small.founded(tmp_path / "founded")
    folder = federation.departments["ash"]
    backup_department(folder, tmp_path / "good.tar")
    with sqlite3.connect(folder.root / "state.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    state = (folder.root / "state.db").read_bytes()

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if name == "backup.json":
            about = json.loads(data)
            about["files"]["state.db"] = {"sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}
            return [(name, json.dumps(about).encode())]
        return [(name, state if name == "state.db" else data)]

    bad = _repacked(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    with pytest.raises(BackupDamaged, match="never prepared"):
        restore_department(bad, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_one_sides_backup_is_not_the_others(tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "coordinator.tar")
    backup_department(federation.departments["ash"], tmp_path / "ash.tar")
    with pytest.raises(BackupDamaged, match="a backup of a department"):
        restore(tmp_path / "ash.tar", tmp_path / "x")
    with pytest.raises(BackupDamaged, match="a backup of a coordinator"):
        restore_department(tmp_path / "coordinator.tar", tmp_path / "x")


def test_a_damaged_state_is_named_and_not_backed_up(tmp_path):
    federation = small.founded(tmp_path)
    path = federation.departments["ash"].root / "state.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ForeignState, match=r"state\.db is damaged"):
        backup_department(federation.departments["ash"], tmp_path / "ash.tar")
    assert not (tmp_path / "ash.tar").exists()


def test_the_whole_journal_is_in_a_dump(tmp_path):
    """Row by row, table by table: what is restored is what was there, and two entries that say so under a signature."""
    with small.running(tmp_path) as at_work:
        at_work.run()
        federation = at_work.federation
    backup(federation.coordinator, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
    restored, before = _rows(tmp_path / "elsewhere"), _rows(federation.coordinator.root)
    assert [row[2] for row in restored["audit"][len(before["audit"]) :]] == ["restored"]
    restored["audit"] = restored["audit"][: len(before["audit"])]
    assert restored == before


def _rows(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    engine = sa.create_engine(f"sqlite:///{root / 'journal.db'}")
    with engine.connect() as db:
        names = [name for name in sa.inspect(db).get_table_names() if name not in ("about",)]
        found = {name: sorted(map(tuple, db.execute(sa.text(f"SELECT * FROM {name}")))) for name in names}
    engine.dispose()
    return found


def test_an_older_version_than_the_backups_does_not_count_as_the_one_that_is_passed_over(tmp_path):
    """A coordinator that shows version 0 first gets a refusal, and the department stays on its guard."""
    with small.running(tmp_path, departments=4, rounds=5) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 3))
        backup_department(at_work.federation.departments["ash"], tmp_path / "ash.tar", with_keys=True)
        for name in list(at_work.sessions):
            at_work.kill(name)
        lost_and_restored(at_work, tmp_path, "ash")
        enter_next_epoch(at_work.federation)
    with small.ToyFederation(small.opened(tmp_path), MemoryNetwork()) as again:
        again.start_all()
        small.introduce(again)
        root = again.federation.coordinator.root
        with small.journal_of(again.federation) as journal:
            first, asked = journal.versions(1)[0], RoundOpen.decode(journal.rounds()[0].opening)
        charter, roster = again.federation.charter.charter, again.federation.coordinator.roster()
        state = BackboneStore(root / "backbones").read(first.file, first.digest)
        body = flatten(state, charter.broadcast)
        fields = {"charter": charter.digest, "roster": roster.digest, "epoch": roster.epoch, "round": 50, "version": 0}
        fields |= {name: getattr(asked, name) for name in ("cohort", "broadcast", "manifest", "bounds", "previous")}
        opening = RoundOpen.signed(
            again.federation.coordinator.identity(), **fields, upload_seconds=asked.upload_seconds
        )
        reply = again.sessions["ash"].handle(Parcel(parcel.ROUND_OPEN, opening.encode(), body))
        assert Refusal.decode(reply.head).code == StaleRound.code
        assert again.told("passed-over") == []
        with small.store_of(again.federation.departments["ash"]) as store:
            assert store.is_forgotten(charter.digest.hex())


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
