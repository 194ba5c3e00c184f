"""A department's store: all or nothing, durable before it returns, tidy afterwards, and nobody else's."""

from __future__ import annotations

import dataclasses
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from commonroot.client import blobs as blobs_module
from commonroot.client import ledger_table, statements
from commonroot.client.statements import Statement
from commonroot.client.store import HEADS_KEPT, DepartmentStore, Tensors
from commonroot.common.errors import ConfigError, ForeignState, Malformed, StorageFull
from commonroot.common.ledger import verify
from commonroot.common.messages import Open
from commonroot.files import atomic_write


@pytest.fixture
def store(tmp_path):
    with closing(opened(tmp_path, owner=True)) as made:
        yield made


def opened(folder: Path, *, federation: str = "f", department: str = "d", owner: bool = False) -> DepartmentStore:
    return DepartmentStore(folder, federation=federation, department=department, owner=owner)


def head(value: float) -> dict[str, np.ndarray]:
    return {"head/weight": np.full((2, 3), value, np.float32), "optimizer/head": np.zeros(0, np.float32)}


def upload(
    store: DepartmentStore,
    round: int,
    version: int | None = None,
    *,
    charter: str = "c" * 64,
    local: Tensors | None = None,
) -> None:
    version = round - 1 if version is None else version
    store.commit_upload(
        epoch=1,
        round=round,
        memory=f"memory {round}".encode(),
        head=f"head {round}".encode(),
        body=f"body {round}".encode() * 100,
        charter=charter,
        version=version,
        local=head(float(round)) if local is None else local,
        facts={"what": "masked", "round": round, "bytes": 7},
    )


def blobs(store: DepartmentStore) -> set[str]:
    return {path.name for path in (store.folder / "blobs").iterdir()}


def test_what_was_committed_is_there_after_a_restart(tmp_path):
    with closing(opened(tmp_path, owner=True)) as store:
        upload(store, 1)
        store.commit_answer(epoch=1, round=1, memory=b"later", facts={"what": "shares", "round": 1})
    with closing(opened(tmp_path, owner=True)) as again:
        assert again.memory(1) == b"later"
        found = again.upload(1, 1)
        assert found is not None
        assert (found.head, found.body) == (b"head 1", b"body 1" * 100)
        before = again.head_before("c" * 64, 1)
        assert before is not None
        np.testing.assert_array_equal(before["head/weight"], head(1.0)["head/weight"])
        assert [entry.kind for entry in again.ledger()] == ["sent", "sent"]
        assert verify(again.ledger()) == 2


def test_an_epoch_begins_with_its_memory_and_erases_the_one_before(store):
    assert store.memory(1) is None
    store.begin_epoch(1, roster=b"r", setup=b"s", memory=b"first", facts={"epoch": 1})
    assert store.memory(1) == b"first"
    store.begin_epoch(2, roster=b"r", setup=b"s", memory=b"second", facts={"epoch": 2})
    assert (store.memory(1), store.memory(2)) == (None, b"second")


def test_only_the_newest_upload_can_be_asked_for_again(store):
    upload(store, 1)
    upload(store, 2)
    assert store.upload(1, 1) is None
    assert store.upload(1, 2) is not None
    assert [name for name in blobs(store) if name.startswith("upload")] == ["upload-1-2.bin"]


def test_the_head_before_a_version_is_the_newest_of_an_earlier_one(store):
    for round in (1, 2, 3):
        upload(store, round)
    assert store.head_before("c" * 64, 0) is None
    assert [store.head_before("c" * 64, version)["head/weight"][0, 0] for version in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert store.head_before("another", 9) is None


def test_where_nothing_is_private_no_file_is_made_for_it(store):
    upload(store, 1, local={})
    assert blobs(store) == {"upload-1-1.bin"}
    assert store.head_before("c" * 64, 1) == {}
    upload(store, 2, 0)
    assert store.head_before("c" * 64, 1)["head/weight"][0, 0] == 2
    upload(store, 3, 0, local={})
    assert (store.head_before("c" * 64, 1), blobs(store)) == ({}, {"upload-1-3.bin"})


def test_blobs_that_were_removed_are_not_looked_for_again(store):
    for round in range(1, HEADS_KEPT + 4):
        upload(store, round)
        assert store._blobs._written == blobs(store)


def test_a_version_trained_again_replaces_its_head(store):
    upload(store, 1, 0)
    upload(store, 2, 0)
    assert store.head_versions("c" * 64) == [0]
    assert store.head_before("c" * 64, 1)["head/weight"][0, 0] == 2
    assert len(blobs(store)) == 2


def test_a_few_heads_are_kept_for_each_charter_and_no_more(store):
    for round in range(1, 8):
        upload(store, round)
    upload(store, 8, 0, charter="e" * 64)
    assert store.head_versions("c" * 64) == [4, 5, 6]
    assert store.head_versions("e" * 64) == [0]
    assert len(blobs(store)) == HEADS_KEPT + 1 + 1


@pytest.mark.parametrize("nth", range(4))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_at_any_fsync_keeps_the_old_state_and_no_litter(store, nth, code, monkeypatch):
    """Two blobs, for each the file and its folder are synced."""
    upload(store, 1)
    before, calls, sync = blobs(store), iter(range(99)), os.fsync

    def full(handle: int) -> None:
        if next(calls) == nth:
            raise OSError(code, os.strerror(code))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            upload(store, 2)
    assert (blobs(store), store.memory(1), len(store.ledger())) == (before, b"memory 1", 1)
    assert store.upload(1, 1) is not None
    upload(store, 2)
    assert store.memory(1) == b"memory 2"


def test_a_full_database_keeps_the_old_state_and_no_litter(store):
    upload(store, 1)
    before = blobs(store)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull, match=r"state\.db"):
        store.record("long", {"text": "x" * 20_000})
    with pytest.raises(StorageFull):
        store.commit_answer(epoch=1, round=1, memory=bytes(20_000), facts={})
    assert (blobs(store), store.memory(1), len(store.ledger())) == (before, b"memory 1", 1)


def test_a_failure_in_the_middle_of_a_transaction_takes_all_of_it_back(store, monkeypatch):
    upload(store, 1)

    def broken(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_table, "append", broken)
        with pytest.raises(RuntimeError):
            upload(store, 2)
    assert store.memory(1) == b"memory 1"
    assert store.head_versions("c" * 64) == [0]
    assert store.upload(1, 1) is not None


def test_a_blob_is_durable_before_the_transaction_that_names_it(store, monkeypatch):
    order: list[str] = []
    write, append = blobs_module.atomic_write, ledger_table.append
    monkeypatch.setattr(
        blobs_module, "atomic_write", lambda path, *a, **k: (write(path, *a, **k), order.append(path.name))
    )
    monkeypatch.setattr(ledger_table, "append", lambda *a: (append(*a), order.append("transaction")))
    upload(store, 1)
    assert order == ["upload-1-1.bin", f"head-{'c' * 16}-0-1.safetensors", "transaction"]


def test_the_database_syncs_at_every_commit(store):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_litter_of_a_crash_is_removed_at_the_next_start(tmp_path):
    with closing(opened(tmp_path, owner=True)) as store:
        upload(store, 1)
    (tmp_path / "blobs" / "upload-1-2.bin").write_bytes(b"never named")
    (tmp_path / "blobs" / ".head-half.tmp").write_bytes(b"never renamed")
    with closing(opened(tmp_path)) as beside:
        assert len(blobs(beside)) == 4, "a command that only looks must not remove what a daemon may be writing"
    with closing(opened(tmp_path, owner=True)) as again:
        assert len(blobs(again)) == 2
        assert again.upload(1, 1) is not None


def test_secrets_are_readable_by_their_owner_alone(store):
    upload(store, 1)
    assert {path.stat().st_mode & 0o777 for path in (store.folder / "blobs").iterdir()} == {0o600}


def test_there_is_one_owner_and_others_may_look(tmp_path, store):
    with pytest.raises(ConfigError, match="already runs"):
        opened(tmp_path, owner=True)
    with closing(opened(tmp_path)) as beside:
        upload(store, 1)
        assert beside.memory(1) == b"memory 1"


def test_an_owner_that_ended_makes_room(tmp_path):
    opened(tmp_path, owner=True).close()
    opened(tmp_path, owner=True).close()


@pytest.mark.parametrize("other", [{"federation": "g"}, {"department": "e"}])
def test_another_federations_or_departments_folder_is_refused_and_stays_usable(tmp_path, other):
    opened(tmp_path).close()
    with pytest.raises(ForeignState, match=next(iter(other))):
        opened(tmp_path, owner=True, **other)
    opened(tmp_path, owner=True).close()


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path):
    (tmp_path / "state.db").write_bytes(b"certainly no database" * 100)
    with pytest.raises(ForeignState, match=r"state\.db is damaged"):
        opened(tmp_path, owner=True)


def test_a_state_that_cannot_be_written_is_said_in_words_of_ours_and_stays_as_it_is(tmp_path, store):
    upload(store, 1)
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match=r"state\.db cannot be written"):
        upload(store, 2)
    store._db.execute("PRAGMA query_only = OFF")
    store._db.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match=r"state\.db is locked"):
            upload(store, 2)
    assert (store.memory(1), len(store.ledger())) == (b"memory 1", 1)
    upload(store, 2)


def test_the_states_files_are_their_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with closing(opened(tmp_path, owner=True)) as store:
            upload(store, 1)
            assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}
    finally:
        os.umask(before)


def test_of_accepted_requests_the_newest_are_kept_and_the_oldest_make_room(store, monkeypatch):
    """Heads of 10 bytes, room for 25: two stay."""
    monkeypatch.setattr(statements, "MOST_BYTES_OF_OTHERS", 25)
    for round in range(1, 5):
        store.commit_ready(round=round, request=b"%010d" % round, facts={})
    heads = [store.accepted("train", round=round) for round in range(1, 5)]
    assert heads == [None, None, b"0000000003", b"0000000004"]
    assert [one.head for one in store.statements()] == [b"0000000003", b"0000000004"]


def test_room_for_small_requests_is_looked_after_now_and_then(store, monkeypatch):
    monkeypatch.setattr(statements, "MOST_BYTES_OF_OTHERS", 1000)
    sizes: dict[str, list[int]] = {"train": [], "confirm": []}
    for round in range(1, 200):  # by turns, as in a run: neither kind is passed over
        store.commit_ready(round=round, request=b"%010d" % round, facts={})
        store.commit_answer(epoch=1, round=round, memory=b"m", kind="confirm", request=b"c%09d" % round, facts={})
        for kind, seen in sizes.items():
            seen.append(sum(len(one.head) for one in store.statements() if one.kind == kind))
    for seen in sizes.values():
        assert 1000 in seen
        assert max(seen) <= 1250


def answer(store, head, *, round=1, backbone="charter c version 0"):
    store.commit_answer(epoch=1, round=round, memory=b"m", request=head, backbone=backbone, facts={})


def test_an_accepted_request_is_found_by_its_round_and_by_its_backbone(store):
    answer(store, b"first")
    answer(store, b"second", round=2, backbone="charter c version 1")
    answer(store, b"third", round=3, backbone="charter c version 1")
    assert [store.accepted("open", round=n) for n in (1, 2, 4)] == [b"first", b"second", None]
    assert store.accepted("open", backbone="charter c version 1") == b"third"
    assert store.accepted("confirm", round=1) is None
    assert store.accepted("open") is None


def opening(box, *, transcript=b"t", survivors=(0, 2)):
    """A request to open this set, with boxes of so many of one letter."""
    boxes = tuple(box * 4 for _ in survivors)
    return Open(transcript * 32, 1, survivors, boxes, (), (), b"s" * 64).encode()


def test_an_opening_asked_for_again_is_known_again_and_takes_no_room(store):
    """With boxes of other members it is another message, and says nothing new."""
    first, others = opening(b"a"), opening(b"b")
    for head in (first, others, first, others):
        answer(store, head)
    assert [store.was_accepted("open", head) for head in (first, others, opening(b"c"))] == [True, True, False]
    assert [one.head for one in store.statements()] == [first]
    assert store.accepted("open", round=1) == first


@pytest.mark.parametrize("backbone", ["charter c version 0", "charter c version 7"])
def test_a_round_number_of_a_later_epoch_is_another_round(store, backbone):
    """Also where it is on the same backbone: the roster is another, so a set of it contradicts none of before."""
    before, after = opening(b"a"), opening(b"a", transcript=b"u")
    answer(store, before)
    answer(store, after, backbone=backbone)
    assert store.accepted("open", round=1) == after
    assert [one.head for one in store.statements()] == [before, after]


def test_a_charter_is_kept_as_it_came_when_its_offer_was_accepted(store):
    """Not as somebody sent it before, under the same signed offer, where it was refused."""
    for body, accepted in ((b"junk", False), (b"charter", True), (b"junk", False)):
        store.record("note", {}, statement=Statement("charter", b"offer", body, accepted))
    assert store.statements() == [Statement("charter", b"offer", b"charter", True)]


@pytest.mark.parametrize("accepted_first", [True, False])
def test_what_was_refused_once_and_accepted_once_was_accepted(store, accepted_first):
    """As where a paused department is asked again; one that was accepted and is refused later is still found."""
    steps = [
        lambda: answer(store, b"asked"),
        lambda: store.record("refused", {}, statement=Statement("open", b"asked", b"", False)),
    ]
    for step in steps if accepted_first else reversed(steps):
        step()
    assert store.was_accepted("open", b"asked")
    assert store.accepted("open", backbone="charter c version 0") == b"asked"
    assert [one.accepted for one in store.statements()] == [True]


def test_a_changed_ledger_is_seen(store):
    for n in range(3):
        store.record("note", {"n": n})
    store._db.execute("UPDATE ledger SET facts = '{\"n\": 7}' WHERE sequence = 1")
    with pytest.raises(Malformed, match="entry 1"):
        verify(store.ledger())
    entries = store.ledger()
    with pytest.raises(Malformed):
        verify([entries[0], dataclasses.replace(entries[2], sequence=1)])


def test_the_newest_predictor_is_the_one_that_is_used(store):
    assert store.latest_predictor() is None
    store.commit_closed(charter="c", version=3, predictor="first", facts={})
    store.commit_closed(charter="e", version=3, predictor="second", facts={})
    assert store.latest_predictor() == store.folder / "predictors" / "second"
    assert store.closed("c", 3) == "first"
    assert store.closed("c", 4) is None


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_whole_however_little_one_call_writes_and_has_its_permissions(tmp_path, monkeypatch, mode):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    atomic_write(tmp_path / "file", b"one and", bytearray(b" another"), b"", mode=mode)
    assert (tmp_path / "file").read_bytes() == b"one and another"
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
