"""A department's own memory: heads, protocol state, the ledger of everything sent.  It never leaves this folder.

One SQLite file plus blobs beside it.  A blob is written and fsynced before the transaction that names it, and blobs
that no transaction names are removed at the next start; so a daemon that is killed at any moment finds its last head,
its last round and its last answer as they were, and nothing half-written.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from commonroot.client import exhibits, ledger_table, statements, store_layout
from commonroot.client.blobs import Blobs
from commonroot.client.statements import Consent, Statement
from commonroot.common import ledger, parcel
from commonroot.common.errors import (
    ConfigError,
    ForeignState,
    HasLeft,
    Malformed,
    NotApproved,
    Paused,
    StorageFull,
)
from commonroot.common.evidence import Exhibit, round_of
from commonroot.common.ledger import Entry, Fact, Head
from commonroot.common.secure_sum.primitives import Identity
from commonroot.files import atomic_write, is_forced, private_file, sqlite_synchronous, take_ownership

Tensors = dict[str, NDArray[np.generic]]

#: Whether a department takes part: ``leaving`` has begun and will be carried out, ``left`` is for good.
ACTIVE, PAUSED, LEAVING, LEFT = "active", "paused", "leaving", "left"
#: From which standing a department may come to another.  What has begun to leave leaves.
_STANDINGS: Final = {
    ACTIVE: {PAUSED, LEAVING},
    PAUSED: {ACTIVE, LEAVING},
    LEAVING: {LEFT},
    LEFT: set[str](),
}
#: Heads of earlier versions that are kept, newest first, in case somebody wants to look back.
HEADS_KEPT = 3
#: In the place of a head's file where a method keeps nothing private, so that none is made each round.
NOTHING_PRIVATE: Final = ""


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """The masked upload of a round, kept so that a repeated request gets the identical bytes."""

    head: bytes
    body: bytes


class DepartmentStore:
    """Everything a department keeps.

    ``owner`` is the daemon: there is one at a time, and only it writes heads and answers.  Commands that only look open
    the store beside it.  Raises ForeignState for another's folder, StorageFull for a full disk, ConfigError for a
    second daemon.
    """

    def __init__(self, folder: Path, *, federation: str, department: str, owner: bool = False) -> None:
        self.folder = folder
        self._blobs = Blobs(folder / "blobs")
        self._lock = threading.RLock()
        with ExitStack() as undo:  # what was opened is closed again where something below refuses
            self._owner_lock = take_ownership(folder) if owner else None
            if self._owner_lock is not None:
                undo.callback(self._owner_lock.close)
            with self._storage_errors():
                for each in ("", "-wal", "-shm"):  # SQLite makes its other files with the first one's permissions
                    private_file(folder / f"state.db{each}", make=not each)
                self._db = sqlite3.connect(
                    folder / "state.db", isolation_level=None, check_same_thread=False, timeout=30
                )
                undo.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(f"PRAGMA synchronous={sqlite_synchronous()}")
                self._db.execute("PRAGMA secure_delete=ON")  # what is deleted or replaced is overwritten: keys
                #: (from, to) where an earlier version's layout was brought up to date just now.
                self.migrated = store_layout.migrate(self._db, folder / "state.db", alone=owner)
            self._claim({"federation": federation, "department": department})
            if owner:
                self._sweep()
            undo.pop_all()

    def close(self) -> None:
        """Release the database and the ownership."""
        with self._lock:
            self._db.close()
            if self._owner_lock is not None:
                self._owner_lock.close()

    # -- the secure sum --------------------------------------------------------------------------------------------

    def memory(self, epoch: int) -> bytes | None:
        """The protocol memory of an epoch, or None before it began."""
        row = self._one("SELECT value FROM memory WHERE epoch = ?", epoch)
        return None if row is None else row[0]

    def newest_epoch(self) -> tuple[int, bytes] | None:
        """The epoch that was begun last and its roster's digest, or None before the first."""
        row = self._one("SELECT epoch, roster FROM epochs ORDER BY epoch DESC LIMIT 1")
        return None if row is None else (int(row[0]), bytes(row[1]))

    def setup(self, epoch: int) -> bytes | None:
        """How far an epoch's beginning has come, or None before it began."""
        row = self._one("SELECT setup FROM epochs WHERE epoch = ?", epoch)
        return None if row is None else row[0]

    def begin_epoch(
        self,
        epoch: int,
        *,
        roster: bytes,
        setup: bytes,
        memory: bytes,
        facts: dict[str, Fact],
        forgotten: Sequence[str] = (),
    ) -> None:
        """Begin an epoch, once; every earlier epoch's keys, uploads and half-finished setup are erased with it.

        ``forgotten``: charters of which a folder from a backup does not know what it opened; from now on it is no
        longer ``restored``.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM about WHERE name = 'restored'")
            db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(charter,) for charter in forgotten])
            for table in ("memory", "epochs", "uploads"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO memory VALUES (?, ?)", (epoch, memory))
            db.execute("INSERT INTO epochs VALUES (?, ?, ?)", (epoch, roster, setup))
            ledger_table.append(db, "joined", facts)
        self._forget_replaced()
        self._sweep()

    @property
    def restored(self) -> bool:
        """Does this folder come from a backup, and has it not joined an epoch since?"""
        return self._one("SELECT 1 FROM about WHERE name = 'restored'") is not None

    def is_forgotten(self, charter: str) -> bool:
        """May this department have opened backbones of a charter that it does not remember?"""
        return self._one("SELECT 1 FROM forgotten WHERE charter = ?", charter) is not None

    def commit_passed_over(self, *, epoch: int, memory: bytes, charter: str, facts: dict[str, Fact]) -> None:
        """The backbone that was shown is closed for good; what comes after it is remembered as always."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (epoch, memory))
            db.execute("DELETE FROM forgotten WHERE charter = ?", (charter,))
            ledger_table.append(db, "passed-over", facts)
        self._forget_replaced()

    def commit_introduction(self, *, epoch: int, setup: bytes, memory: bytes, facts: dict[str, Fact]) -> None:
        """Departments were met: the secrets they were met with and the chains that came of it, in one transaction."""
        with self._transaction() as db:
            db.execute("UPDATE epochs SET setup = ? WHERE epoch = ?", (setup, epoch))
            db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (epoch, memory))
            ledger_table.append(db, "introduced", facts)
        self._forget_replaced()

    def commit_upload(
        self,
        *,
        epoch: int,
        round: int,
        memory: bytes,
        head: bytes,
        body: bytes | bytearray | memoryview,
        charter: str,
        version: int,
        local: Mapping[str, NDArray[np.generic]],
        facts: dict[str, Fact],
        request: bytes = b"",
        private: dict[str, Fact] | None = None,
    ) -> None:
        """Write-ahead of one upload: protocol memory, the upload itself, the head it came with, the ledger entry.

        All of it or nothing, durable before this returns; only then may the upload be sent.  ``request`` is the head
        of the round-open that was accepted, kept to be shown beside one that contradicts it; ``private`` as of
        ``record``.
        """
        upload_blob = f"upload-{epoch}-{round}.bin"
        head_blob = f"head-{charter[:16]}-{version}-{round}.safetensors" if local else NOTHING_PRIVATE
        try:
            self._blobs.write(upload_blob, body)
            if local:
                self._blobs.write(head_blob, save(_contiguous(local)))
            with self._transaction() as db:
                self._require_consent(db, charter)
                db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (epoch, memory))
                db.execute("DELETE FROM uploads")  # only the newest round can be asked for again
                db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?)", (epoch, round, head, upload_blob))
                db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (charter, version, head_blob))
                db.execute(
                    "DELETE FROM heads WHERE charter = ?1 AND version NOT IN "
                    "(SELECT version FROM heads WHERE charter = ?1 ORDER BY version DESC LIMIT ?2)",
                    (charter, HEADS_KEPT),
                )
                statements.keep(db, parcel.ROUND_OPEN, request, round=round)
                ledger_table.append(db, "sent", facts, private)
            self._forget_replaced()
        except Exception:
            self._sweep()  # a full disk must not fill up further with blobs that nothing names
            raise
        self._sweep()

    def commit_ready(self, *, round: int, request: bytes, facts: dict[str, Fact]) -> None:
        """Before an answer to a request to train leaves: the ledger's entry, and the head of the request."""
        with self._transaction() as db:
            ledger_table.append(db, "sent", facts)
            statements.keep(db, parcel.TRAIN, request, round=round)

    def upload(self, epoch: int, round: int) -> StoredUpload | None:
        """The upload already made for a round."""
        row = self._one("SELECT head, blob FROM uploads WHERE epoch = ? AND round = ?", epoch, round)
        if row is None:
            return None
        return StoredUpload(row[0], self._blobs.read(row[1], what="the stored upload"))

    def commit_answer(
        self,
        *,
        epoch: int,
        round: int,
        memory: bytes,
        facts: dict[str, Fact],
        kind: str = parcel.OPEN,
        request: bytes = b"",
        backbone: str | None = None,
    ) -> None:
        """Write-ahead of a survivor set: which one was confirmed or opened, durable before the reply leaves.

        ``request`` is the head of the request that was accepted, ``kind`` its kind and ``backbone`` what it settled
        beside the round: kept to be shown beside one that contradicts it.
        """
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (epoch, memory))
            statements.keep(db, kind, request, round=round, backbone=backbone)
            ledger_table.append(db, "sent", facts)
        self._forget_replaced()

    # -- heads -----------------------------------------------------------------------------------------------------

    def head_before(self, charter: str, version: int) -> Tensors | None:
        """The head (and optimizer state) as it stood before training on ``version``; None before the first."""
        row = self._one(
            "SELECT blob FROM heads WHERE charter = ? AND version < ? ORDER BY version DESC LIMIT 1", charter, version
        )
        if row is None:
            return None
        if row[0] == NOTHING_PRIVATE:
            return {}
        return dict(load(self._blobs.read(row[0], what="the stored head")))

    def head_versions(self, charter: str) -> list[int]:
        """Backbone versions for which this department holds a head, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT version FROM heads WHERE charter = ? ORDER BY version", (charter,))
            return [int(row[0]) for row in rows]

    # -- the end of a run ------------------------------------------------------------------------------------------

    def closed(self, charter: str, version: int) -> str | None:
        """The predictor folder's name made from a final backbone, or None."""
        row = self._one("SELECT predictor FROM closed WHERE charter = ? AND version = ?", charter, version)
        return None if row is None else str(row[0])

    def chosen(self) -> list[str]:
        """Folders of every model that was ever chosen, the newest last."""
        with self._lock:
            rows = self._db.execute("SELECT predictor FROM closed WHERE predictor != '' ORDER BY at").fetchall()
        return [str(row[0]) for row in rows]

    def latest_predictor(self) -> Path | None:
        """Where the newest chosen model lies."""
        row = self._one("SELECT predictor FROM closed WHERE predictor != '' ORDER BY at DESC LIMIT 1")
        return None if row is None else self.folder / "predictors" / str(row[0])

    def commit_closed(
        self,
        *,
        charter: str,
        version: int,
        predictor: str | None,
        facts: dict[str, Fact],
        private: dict[str, Fact] | None = None,
    ) -> None:
        """The final backbone was taken over and the chosen model stands in ``predictors/<predictor>``.

        ``predictor`` is empty where a run predicts nothing, and None where choosing failed and is tried again when the
        backbone comes again; the ledger's entry looks alike, but for what it commits to.
        """
        with self._transaction() as db:
            if predictor is not None:
                made = (charter, version, predictor, time.time())
                db.execute("INSERT OR REPLACE INTO closed VALUES (?, ?, ?, ?)", made)
            ledger_table.append(db, "closed", facts, private)

    # -- the ledger ------------------------------------------------------------------------------------------------

    def record(
        self,
        kind: str,
        facts: dict[str, Fact],
        *,
        private: dict[str, Fact] | None = None,
        statement: Statement | None = None,
    ) -> None:
        """Append one event.

        private    facts that stay in this store: the entry holds a commitment to them
        statement  what the coordinator signed that brought it about, kept in the same commit
        """
        with self._transaction() as db:
            ledger_table.append(db, kind, facts, private)
            if statement is not None:
                s = statement
                statements.keep(db, s.kind, s.head, round=round_of(s.kind, s.head), body=s.body, accepted=s.accepted)

    def ledger(self, *, after: int = -1) -> list[Entry]:
        """Every event after a sequence number, oldest first; ``common.ledger.verify`` checks the whole chain."""
        with self._lock:
            return ledger_table.entries(self._db, after=after)

    def checkpoint(self, owner: str, identity: Identity) -> Head:
        """Sign the ledger as it stands; the account of the link goes in first.  Returns the new newest head.

        The head lies beside the database as well, so that a database put back to an older state does not go unseen.
        """
        with self._transaction() as db:
            sent = statements.traffic(db)
            if sent:
                totals = {kind: size for kind, (_, size) in sent.items()}
                ledger_table.append(db, "link", {**totals, "requests": sum(count for count, _ in sent.values())})
            head = Head.sign(owner, ledger_table.last(db), identity)
            ledger_table.append(db, ledger.CHECKPOINT, head.facts())
        atomic_write(self.folder / "ledger.head", json.dumps(head.facts()).encode(), mode=0o600)
        return head

    def newest_head(self, owner: str) -> Head | None:
        """The head that lies beside the database; None before the first.  Malformed where it is none."""
        path = self.folder / "ledger.head"
        if not path.is_file():
            return None
        try:
            facts = json.loads(path.read_bytes())
        except ValueError as error:
            raise Malformed(f"{path} is not a signed head") from error
        return Head.of(Entry(0, 0.0, ledger.CHECKPOINT, facts if isinstance(facts, dict) else {}, b""), owner)

    def statements(self) -> list[Statement]:
        """What the coordinator signed and sent here, as far as it is kept, oldest first."""
        with self._lock:
            return statements.kept(self._db)

    def sealed(self) -> dict[int, tuple[bytes, dict[str, Any]]]:
        """Salt and private facts, by the sequence of the entry that commits to them."""
        with self._lock:
            return statements.sealed(self._db)

    def count_traffic(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Add to the account of what left over the link: kind → (requests, bytes)."""
        with self._transaction() as db:
            statements.count_traffic(db, counts)

    def traffic(self) -> dict[str, tuple[int, int]]:
        """What left over the link, ever: kind → (requests, bytes)."""
        with self._lock:
            return statements.traffic(self._db)

    # -- consent ---------------------------------------------------------------------------------------------------

    def standing(self) -> str:
        """``active``, ``paused``, ``leaving`` or ``left``."""
        row = self._one("SELECT value FROM about WHERE name = 'standing'")
        return ACTIVE if row is None else str(row[0])

    def set_standing(self, standing: str, facts: dict[str, Fact] | None = None) -> None:
        """Move on to another standing, durably, with its ledger entry; the same again changes nothing.

        ``left`` erases every key of the epoch and what was masked with it, in the same commit.  Raises HasLeft for a
        step back from leaving.
        """
        with self._transaction() as db:
            row = db.execute("SELECT value FROM about WHERE name = 'standing'").fetchone()
            before = ACTIVE if row is None else str(row[0])
            if standing == before:
                return
            if standing not in _STANDINGS[before]:
                raise HasLeft(f"this department is {before}; it cannot become {standing}")
            if standing == LEFT:
                for table in ("memory", "epochs", "uploads"):
                    db.execute(f"DELETE FROM {table}")
            db.execute("INSERT OR REPLACE INTO about VALUES ('standing', ?)", (standing,))
            ledger_table.append(db, "resumed" if standing == ACTIVE else standing, facts or {})
        if standing == LEFT:
            self._forget_replaced()
            self._sweep()

    def consents(self) -> dict[str, Consent]:
        """The newest decision on each charter that was offered or decided on, oldest first."""
        with self._lock:
            return statements.consents(self._db)

    def is_revoked(self, charter: str) -> bool:
        """Was this charter refused or withdrawn, and not approved since?"""
        return statements.is_revoked(self._db, charter)

    def decide(self, charter: str, state: str, *, reason: str, facts: dict[str, Fact]) -> None:
        """A decision on a charter, with its ledger entry, in one commit."""
        with self._transaction() as db:
            statements.set_consent(db, charter, state, at=time.time(), reason=reason)
            ledger_table.append(db, state, {"charter": charter, **facts})

    # -- evidence --------------------------------------------------------------------------------------------------

    def accepted(self, kind: str, *, round: int | None = None, backbone: str | None = None) -> bytes | None:
        """Head of the request of that kind that was accepted last about a round or a backbone."""
        with self._lock:
            return statements.accepted(self._db, kind, round=round, backbone=backbone)

    def was_accepted(self, kind: str, head: bytes) -> bool:
        """Is this the very head of a request that was accepted?  Then it is a repeat and proves nothing."""
        with self._lock:
            return statements.was_accepted(self._db, kind, head)

    def keep_exhibit(self, exhibit: Exhibit) -> bool:
        """Keep a refused message; False where it is kept already, is too large, or enough of its code are kept."""
        with self._transaction() as db:
            return exhibits.keep(db, exhibit)

    def evidence(self) -> list[Exhibit]:
        """Every exhibit, oldest first."""
        with self._lock:
            return exhibits.kept(self._db)

    # -- inside ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _require_consent(db: sqlite3.Connection, charter: str) -> None:
        """Nothing is contributed by who was paused or took the charter back while it trained: in the same commit.

        Raises  Paused, HasLeft, NotApproved
        """
        row = db.execute("SELECT value FROM about WHERE name = 'standing'").fetchone()
        if row is not None and row[0] in (LEAVING, LEFT):
            raise HasLeft("this department began to leave while it trained")
        if row is not None and row[0] == PAUSED:
            raise Paused("this department was paused while it trained")
        if statements.is_revoked(db, charter):
            raise NotApproved(f"charter {charter[:16]}… was withdrawn while this department trained")

    def _forget_replaced(self) -> None:
        """Empty the write-ahead log, where replaced keys would lie about until SQLite happens to write over them.

        A command that reads at this moment can hold it up, and so can a full disk; then the next commit empties it.
        """
        if not is_forced():
            return
        with self._lock, suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._storage_errors():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """SQLite's refusals as the project's own errors."""
        path = self.folder / "state.db"
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise StorageFull(f"no room to write {path}") from error
            if "locked" in str(error):
                raise ConfigError(f"{path} is locked", hint="another program holds it open: close it") from error
            if "readonly" in str(error) or "unable to open" in str(error):
                hint = "check who owns the folder, and how it is mounted"
                raise ConfigError(f"{path} cannot be written", hint=hint) from error
            raise
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            hint = "restore the newest backup: `commonroot department restore`"
            raise ForeignState(f"{path} is damaged or no database: {error}", hint=hint) from error

    def _claim(self, facts: dict[str, str]) -> None:
        with self._transaction() as db:
            about = dict(db.execute("SELECT name, value FROM about").fetchall())
            if not set(about) - {"layout"}:
                db.executemany("INSERT INTO about VALUES (?, ?)", facts.items())
                return
        for name, value in facts.items():
            if about.get(name) != value:
                raise ForeignState(f"{self.folder} is of {name} {about.get(name)!r}, not {value!r}")

    def _sweep(self) -> None:
        """Remove blobs that no committed transaction names: litter of a crash, or superseded."""
        with self._lock:
            named = {r[0] for r in self._db.execute("SELECT blob FROM uploads UNION SELECT blob FROM heads")}
            self._blobs.sweep(named)


def _contiguous(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
