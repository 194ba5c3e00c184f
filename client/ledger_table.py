"""The ledger's table in a department's store: ``common.ledger`` says what an entry is.

These functions take the store's open transaction, so that an entry is written in the very commit of what it is about.
"""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Final

from commonroot.client import statements
from commonroot.common import ledger
from commonroot.common.ledger import Entry, Fact

_ENTRY: Final = "SELECT sequence, at, kind, facts, hash FROM ledger"


def append(db: sqlite3.Connection, kind: str, facts: dict[str, Fact], private: dict[str, Fact] | None = None) -> None:
    """Append one event.  Facts that are ``private`` stay in this store: the entry holds a commitment to them."""
    before = last(db)
    if private is not None:
        facts = facts | {"sealed": statements.seal(db, 0 if before is None else before.sequence + 1, private)}
    entry = ledger.append(before, at=time.time(), kind=kind, facts=facts)
    row = (entry.sequence, entry.at, entry.kind, json.dumps(entry.facts), entry.hash)
    db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)


def last(db: sqlite3.Connection) -> Entry | None:
    """The newest event; None before the first."""
    row = db.execute(f"{_ENTRY} ORDER BY sequence DESC LIMIT 1").fetchone()
    return None if row is None else _entry(row)


def entries(db: sqlite3.Connection, *, after: int = -1) -> list[Entry]:
    """Every event after a sequence number, oldest first."""
    return [_entry(row) for row in db.execute(f"{_ENTRY} WHERE sequence > ? ORDER BY sequence", (after,))]


def _entry(row: tuple[int, float, str, str, bytes]) -> Entry:
    sequence, at, kind, facts, digest = row
    return Entry(sequence, at, kind, json.loads(facts), digest)
