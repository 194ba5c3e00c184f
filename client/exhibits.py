"""Requests that were accepted, and refused ones that contradict them: two tables of the department's store.

The functions take the store's open transaction or its connection, as those of ``statements`` do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from commonroot.common.evidence import LARGEST_HEAD, Exhibit

#: Exhibits kept per code of refusal, the first ones: later ones cannot push them out.
EXHIBITS_KEPT = 16
#: Bytes of accepted requests kept to be shown beside a refused one, newest first.
ACCEPTED_BYTES = 8 << 20


def accept(db: sqlite3.Connection, kind: str, subjects: Sequence[str], head: bytes) -> None:
    """Remember an accepted request under each of its subjects, and forget the oldest beyond ``ACCEPTED_BYTES``."""
    for subject in subjects:
        db.execute("INSERT INTO accepted (kind, subject, head) VALUES (?, ?, ?)", (kind, subject, head))
    (total,) = db.execute("SELECT COALESCE(SUM(LENGTH(head)), 0) FROM accepted").fetchone()
    if total > ACCEPTED_BYTES:
        db.execute(
            "DELETE FROM accepted WHERE id IN (SELECT id FROM (SELECT id, SUM(LENGTH(head)) OVER (ORDER BY id DESC) "
            "AS total FROM accepted) WHERE total > ?)",
            (ACCEPTED_BYTES,),
        )


def accepted(db: sqlite3.Connection, kind: str, subject: str) -> bytes | None:
    """Head of the request of that kind that was accepted last about a subject, such as ``round 7``."""
    query = "SELECT head FROM accepted WHERE kind = ? AND subject = ? ORDER BY id DESC"
    row = db.execute(query, (kind, subject)).fetchone()
    return None if row is None else bytes(row[0])


def was_accepted(db: sqlite3.Connection, kind: str, head: bytes) -> bool:
    """Is this the very head of a request that was accepted?"""
    row = db.execute("SELECT 1 FROM accepted WHERE kind = ? AND head = ? LIMIT 1", (kind, head)).fetchone()
    return row is not None


def keep(db: sqlite3.Connection, exhibit: Exhibit) -> bool:
    """Keep a refused message; False where it is kept already, is too large, or enough of its code are kept."""
    (count,) = db.execute("SELECT COUNT(*) FROM evidence WHERE code = ?", (exhibit.code,)).fetchone()
    if count >= EXHIBITS_KEPT or len(exhibit.head) > LARGEST_HEAD:
        return False
    e = exhibit
    contradicted = e.accepted if len(e.accepted) <= LARGEST_HEAD else b""
    changed = db.execute(
        "INSERT OR IGNORE INTO evidence (at, kind, code, signer, head, body, against, accepted) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (e.at, e.kind, e.code, e.signer, e.head, e.body, e.against, contradicted),
    )
    return changed.rowcount == 1


def kept(db: sqlite3.Connection) -> list[Exhibit]:
    """Every exhibit, oldest first."""
    query = "SELECT at, kind, code, signer, head, body, against, accepted FROM evidence ORDER BY id"
    return [Exhibit(*row) for row in db.execute(query)]
