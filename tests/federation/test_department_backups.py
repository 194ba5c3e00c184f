"""A department lost its folder: what comes back from a backup, and when it takes part again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from federation import small
from federation.interrupted import Interrupted, stop_at
from federation.restoring import repacked, wipe

from commonroot.client.backup import backup as backup_department
from commonroot.client.backup import restore as restore_department
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.common import parcel
from commonroot.common.errors import (
    BackupDamaged,
    ForeignState,
    KeyFileError,
    RestoredFolder,
    StaleRound,
)
from commonroot.common.ledger import verify
from commonroot.common.manifest import flatten
from commonroot.common.messages import Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.server.backbones import BackboneStore
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork


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


def test_versions_without_anything_private_come_back_too(tmp_path):
    with small.running(tmp_path) as at_work:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 2))
        folder = at_work.federation.departments["ash"]
        at_work.kill("ash")
        with small.store_of(folder) as store:
            (charter,) = {row[0] for row in store._db.execute("SELECT charter FROM heads")}
            store.commit_upload(
                epoch=1,
                round=3,
                memory=store.memory(1),
                head=b"h",
                body=b"b",
                charter=charter,
                version=2,
                local={},
                facts={},
            )
            before = [store.head_before(charter, version) for version in (2, 3)]
        backup_department(folder, tmp_path / "ash.tar", with_keys=True)
        wipe(folder.root)
        restore_department(tmp_path / "ash.tar", folder.root)
        with small.store_of(DepartmentFolder(folder.root)) as store:
            again = [store.head_before(charter, version) for version in (2, 3)]
    assert again[1] == before[1] == {}
    assert again[0].keys() == before[0].keys() != set()
    assert all(np.array_equal(again[0][name], before[0][name]) for name in again[0])


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

    bad = repacked(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    with pytest.raises(BackupDamaged, match="never prepared"):
        restore_department(bad, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_state_is_named_and_not_backed_up(tmp_path):
    federation = small.founded(tmp_path)
    path = federation.departments["ash"].root / "state.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ForeignState, match=r"state\.db is damaged"):
        backup_department(federation.departments["ash"], tmp_path / "ash.tar")
    assert not (tmp_path / "ash.tar").exists()


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
