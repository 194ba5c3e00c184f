"""The layout of a department's ``state.db``, in numbered steps.

A new database goes through every step, an old one through those it lacks, all of them in one transaction: a process
that is killed in the middle leaves the old layout, and the next one begins again.  The file is copied first, and the
copy is erased as soon as the new layout stands: it holds the epoch's keys, and those must lie in one place only.

To add a step, append to ``STEPS``.  A step is never changed once a version with it was published.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from commonroot.client import ledger_table
from commonroot.common import ledger
from commonroot.common.errors import ForeignState, NewerLayout, OlderLayout
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import erase, lock_file, storage_errors

_FIRST: Final = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS memory (epoch INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS epochs (epoch INTEGER PRIMARY KEY, roster BLOB NOT NULL, setup BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS accepted (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL,
                                     head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS evidence (id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, code TEXT NOT NULL,
                                     signer TEXT NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL,
                                     against TEXT NOT NULL, accepted BLOB NOT NULL, UNIQUE (code, head));
CREATE TABLE IF NOT EXISTS uploads (epoch INTEGER, round INTEGER, head BLOB NOT NULL, blob TEXT NOT NULL,
                                    PRIMARY KEY (epoch, round));
CREATE TABLE IF NOT EXISTS heads (charter TEXT, version INTEGER, blob TEXT NOT NULL, PRIMARY KEY (charter, version));
CREATE TABLE IF NOT EXISTS closed (charter TEXT, version INTEGER, predictor TEXT NOT NULL, at REAL NOT NULL,
                                   PRIMARY KEY (charter, version));
CREATE TABLE IF NOT EXISTS ledger (sequence INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL,
                                   facts TEXT NOT NULL, hash BLOB NOT NULL);
"""
_SECOND: Final = """
CREATE TABLE forgotten (charter TEXT PRIMARY KEY);
CREATE TABLE statements (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, digest BLOB NOT NULL, round INTEGER,
                         accepted INTEGER NOT NULL, head BLOB NOT NULL, body BLOB, UNIQUE (kind, digest));
CREATE TABLE consents (charter TEXT PRIMARY KEY, state TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL);
CREATE TABLE sealed (sequence INTEGER PRIMARY KEY, salt BLOB NOT NULL, facts TEXT NOT NULL);
CREATE TABLE traffic (kind TEXT PRIMARY KEY, requests INTEGER NOT NULL, bytes INTEGER NOT NULL);
"""
#: Accepted heads lay in a table of their own, once for every subject; here ``sha256`` is SQL's, see ``_run_steps``.
_THIRD: Final = """
ALTER TABLE statements ADD COLUMN backbone TEXT;
INSERT INTO statements (kind, digest, round, accepted, head, body)
    SELECT kind, sha256(head), CAST(SUBSTR(subject, 7) AS INTEGER), 1, head, x'' FROM accepted
    WHERE subject LIKE 'round %' ORDER BY id
    ON CONFLICT (kind, digest) DO UPDATE SET accepted = 1;
INSERT INTO statements (kind, digest, backbone, accepted, head, body)
    SELECT kind, sha256(head), subject, 1, head, x'' FROM accepted WHERE subject LIKE 'charter %' ORDER BY id
    ON CONFLICT (kind, digest) DO UPDATE SET accepted = 1, backbone = excluded.backbone;
DROP TABLE accepted
"""
#: What leads to layout 1, 2, …: statements, and what they are for.
STEPS: Final[tuple[tuple[str, str], ...]] = (
    (_FIRST, "memory, epochs, heads, answers, ledger, evidence"),
    (_SECOND, "what a backup may have forgotten; statements, consents, sealed facts, traffic"),
    (_THIRD, "what was accepted is told by statements"),
)
NEWEST: Final = len(STEPS)


def layout_of(db: sqlite3.Connection) -> int:
    """Which layout a database has, 0 for an empty one; NewerLayout, ForeignState."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone() is None:
        return 0
    row = db.execute("SELECT value FROM about WHERE name = 'layout'").fetchone()
    if row is None:
        return 0
    if not str(row[0]).isdecimal() or int(row[0]) == 0:
        raise ForeignState(f"this department's state has layout {row[0]!r}, which no version wrote")
    if int(row[0]) > NEWEST:
        raise NewerLayout(f"this department's state has layout {row[0]}; this version knows layouts up to {NEWEST}")
    return int(row[0])


def migrate(db: sqlite3.Connection, file: Path, *, alone: bool) -> tuple[int, int] | None:
    """Bring a database to the newest layout; (from, to) where that was an older one.

    Parameters  db: in autocommit; alone: is this the daemon, so that no other can be running?
    Raises      as ``layout_of``; OlderLayout: a daemon uses it in the old layout
    """
    before = layout_of(db)
    if before == NEWEST:
        return None
    if before == 0:
        _run_steps(db)
        return None
    with _alone(file.parent, alone, before), _copied(db, file):
        _run_steps(db)
        (told,) = db.execute("PRAGMA quick_check").fetchone()
        if told != "ok":
            raise ForeignState(f"{file} is damaged: {told}", hint="restore the newest backup")
    return before, NEWEST


def _run_steps(db: sqlite3.Connection) -> None:
    db.create_function("sha256", 1, sha256, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    try:
        before = layout_of(db)
        for statements, _ in STEPS[before:]:
            for statement in statements.split(";"):
                db.execute(statement)
        if before:
            _name_what_is_kept(db)
        db.execute("INSERT OR REPLACE INTO about VALUES ('layout', ?)", (str(NEWEST),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _name_what_is_kept(db: sqlite3.Connection) -> None:
    """Entries for statements that no entry names, as none of layout 1 does: what is not named may be slipped in."""
    named = ledger.named(ledger_table.entries(db))
    for kind, digest in db.execute("SELECT kind, digest FROM statements ORDER BY id").fetchall():
        if digest.hex() not in named:
            ledger_table.append(db, "kept", {"what": kind, "asked": digest.hex()})


@contextmanager
def _alone(folder: Path, alone: bool, layout: int) -> Iterator[None]:
    lock = None if alone else lock_file(folder / "daemon.lock")
    if not alone and lock is None:
        raise OlderLayout(f"{folder} has layout {layout}, this version needs {NEWEST}, and a daemon runs on it")
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


@contextmanager
def _copied(db: sqlite3.Connection, file: Path) -> Iterator[None]:
    """A copy beside the file while the block runs; it stays where the block fails and the file is damaged."""
    copy = file.with_name(f"{file.name}.before")
    with storage_errors(copy):
        handle, name = tempfile.mkstemp(prefix=f".{copy.name}.", dir=file.parent)  # 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(name)) as target:
                db.backup(target)
            Path(name).replace(copy)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    try:
        yield
    except ForeignState:
        raise
    except BaseException:
        erase(copy)
        raise
    erase(copy)
