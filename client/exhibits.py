"""Refused requests that are somebody's lie, beside what they contradict: a table of the department's store.

The functions take the store's open transaction or its connection, as those of ``statements`` do.
"""

from __future__ import annotations

import sqlite3

from commonroot.common.evidence import LARGEST_HEAD, Exhibit

#: Exhibits kept per code of refusal, the first ones: later ones cannot push them out.
EXHIBITS_KEPT = 16


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
