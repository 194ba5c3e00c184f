"""Numbered layouts of a department's state: brought up to date whole or not at all, and no key is left in a copy."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from commonroot.client import store_layout
from commonroot.client.store import DepartmentStore
from commonroot.client.store_layout import NEWEST
from commonroot.common import parcel
from commonroot.common.errors import NewerLayout, OlderLayout, StorageFull
from commonroot.common.ledger import named, verify
from commonroot.common.messages import Open
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import take_ownership

#: The state of a department after three rounds under this charter, as version 0.1.0 wrote it.
CHARTER = "ffaaa8232ec491f294ceb4ce9a996154e5484ca1ed4afca819a75eb25ce96d53"
FIELD = Path(__file__).parent.parent / "vectors" / "layouts" / "state-1.sql"


@pytest.fixture
def field(tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        db.executescript(FIELD.read_text())
    return tmp_path


def opened(folder, **options):
    return DepartmentStore(folder, federation="grove", department="ash", **options)


def dump(folder):
    with closing(sqlite3.connect(folder / "state.db")) as db:
        return sorted(db.iterdump())


def test_a_state_of_the_first_layout_is_brought_up_to_date_with_all_that_it_holds(field):
    with closing(opened(field, owner=True)) as store:
        assert store.migrated == (1, NEWEST)
        assert verify(store.ledger()) == len(store.ledger()) > 5
        assert DepartmentMemory.from_bytes(store.memory(1)).round == 3
        last = store.accepted(parcel.OPEN, round=3)
        assert Open.decode(last).round == 3
        assert store.accepted(parcel.OPEN, backbone=f"charter {CHARTER} version 2") == last
        assert store.was_accepted(parcel.OPEN, last)
        assert [one.kind for one in store.statements()] == [parcel.ROUND_OPEN, parcel.OPEN] * 3
        assert {sha256(one.head).hex() for one in store.statements()} <= named(store.ledger())
    with closing(opened(field)) as store:
        assert store.migrated is None


@pytest.mark.parametrize("subject", ["round 7", "charter c version 3"])
def test_what_was_refused_and_then_obeyed_in_layout_2_was_obeyed(subject, tmp_path, monkeypatch):
    """There it stood in both tables: as refused while the department was paused, and among the accepted."""
    with monkeypatch.context() as earlier:
        earlier.setattr(store_layout, "STEPS", store_layout.STEPS[:2])
        earlier.setattr(store_layout, "NEWEST", 2)
        with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
            store_layout.migrate(db, tmp_path / "state.db", alone=True)
            for name, value in (("federation", "grove"), ("department", "ash")):
                db.execute("INSERT INTO about VALUES (?, ?)", (name, value))
            row = (parcel.OPEN, sha256(b"head"), 7, 0, b"head")
            db.execute("INSERT INTO statements (kind, digest, round, accepted, head) VALUES (?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO accepted (kind, subject, head) VALUES (?, ?, ?)", (parcel.OPEN, subject, b"head"))
    with closing(opened(tmp_path, owner=True)) as store:
        assert store.migrated == (2, NEWEST)
        assert store.was_accepted(parcel.OPEN, b"head")
        assert store.accepted(parcel.OPEN, round=7) == b"head"
        assert [one.accepted for one in store.statements()] == [True]


def test_no_copy_with_keys_is_left_after_a_migration(field):
    with closing(opened(field, owner=True)):
        pass
    assert sorted(path.name for path in field.iterdir()) == ["blobs", "daemon.lock", "state.db"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StorageFull("no room")])
def test_a_migration_that_ends_in_the_middle_leaves_the_old_layout_and_begins_again(failure, field, monkeypatch):
    before = dump(field)

    class Half(str):
        def split(self, _):
            yield "CREATE TABLE half (x)"
            raise failure

    with monkeypatch.context() as patch:
        patch.setattr(store_layout, "STEPS", (store_layout.STEPS[0], (Half(), "half")))
        with pytest.raises(type(failure)):
            opened(field, owner=True)
    assert dump(field) == before
    assert not list(field.glob("*before*"))
    opened(field, owner=True).close()
    assert dump(field) != before


def test_a_state_of_a_newer_version_is_one_clear_error_and_stays_as_it_is(field):
    opened(field).close()
    with closing(sqlite3.connect(field / "state.db")) as db, db:
        db.execute("UPDATE about SET value = '99' WHERE name = 'layout'")
    before = dump(field)
    with pytest.raises(NewerLayout, match="layout 99"):
        opened(field, owner=True)
    assert dump(field) == before


def test_a_command_does_not_migrate_under_a_daemon_of_the_earlier_version(field):
    with closing(take_ownership(field)), pytest.raises(OlderLayout, match="runs on it"):
        opened(field)
    opened(field).close()


def test_an_old_state_that_others_could_read_is_its_owners_alone_from_now_on(field):
    (field / "state.db").chmod(0o644)
    with closing(opened(field, owner=True)) as store:
        store.record("note", {})
        assert {stat.S_IMODE(path.stat().st_mode) for path in field.glob("state.db*")} == {0o600}
