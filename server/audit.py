"""The coordinator's audit log: what central IT did and what its program signed, hash-chained, in the journal.

Each entry is written in the transaction of what it is about, so there is no round, survivor set or result that it
leaves out, and none that it invents.  Signed heads (``common.ledger``) stand in it at each run's end and wherever it is
exported.  It holds names, numbers, hashes and codes; no sum, loss or backbone.

Kinds    command (what, by), roster (epoch, roster), charter (charter), offered (charter, department, answer),
         goodbye (department), queued (run, charter), run (run, charter, state), version (run, version, backbone),
         greeted (department), round-open (round, run, charter, version, epoch, opening), survivors (round, survivors,
         opened), round-closed (round, opened, aggregate, version, backbone), round-lost (round), fault (department,
         code, round), taken-over (run, department), login (from, result, times, seconds), checkpoint,
         restored (``common.restores``)
"""

from __future__ import annotations

import getpass
import json
import time
from typing import Final

import sqlalchemy as sa

from commonroot.common import ledger, parcel, restores
from commonroot.common.evidence import decoded
from commonroot.common.ledger import Entry, Fact, Head
from commonroot.common.messages import RoundOpen
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.server import journal_tables as tables

#: Made once: every round asks several times.
_LAST: Final = sa.select(tables.audit).order_by(tables.audit.c.sequence.desc()).limit(1)
_INSERT: Final = tables.audit.insert()


def append(db: sa.Connection, kind: str, facts: dict[str, Fact]) -> None:
    """Append one event, in the caller's transaction, which has the journal's one lock for writers."""
    entry = ledger.append(_last(db), at=time.time(), kind=kind, facts=facts)
    _insert(db, entry)


def checkpoint(db: sa.Connection, owner: str, identity: Identity) -> Head:
    """Sign the log as it stands; the head is appended to it, in a transaction as above."""
    last = _last(db)
    head = Head.sign(owner, last, identity)
    _insert(db, ledger.append(last, at=time.time(), kind=ledger.CHECKPOINT, facts=head.facts()))
    return head


def restored(
    db: sa.Connection, *, made_at: float, rounds: tuple[int, int], runs: tuple[int, int], given_up: list[int]
) -> None:
    """Say where a backup's log ended and what its coordinator does not know; see ``restores.facts_of``."""
    facts = restores.facts_of(_last(db), made_at=made_at, rounds=rounds, runs=runs, given_up=given_up)
    append(db, restores.KIND, facts)


def newest(db: sa.Connection, kind: str) -> Entry | None:
    """The last event of a kind."""
    found = sa.select(tables.audit).where(tables.audit.c.kind == kind).order_by(tables.audit.c.sequence.desc())
    row = db.execute(found.limit(1)).first()
    return None if row is None else _entry(row)


def entries(db: sa.Connection) -> list[Entry]:
    """Every event, oldest first."""
    return [_entry(row) for row in db.execute(sa.select(tables.audit).order_by(tables.audit.c.sequence)).all()]


def of_opening(run: int, opening: bytes) -> dict[str, Fact]:
    """What the log says of a round that opens."""
    told = decoded(parcel.ROUND_OPEN, opening)
    facts: dict[str, Fact] = {"run": run, "opening": sha256(opening).hex()}
    if not isinstance(told, RoundOpen):
        return facts
    return facts | {
        "round": told.round,
        "charter": told.charter.hex(),
        "version": told.version,
        "epoch": told.epoch,
        "roster": told.roster.hex(),
    }


def who() -> str:
    """The login name of whoever gives a command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an id without a name, as in containers
        return "unknown"


def _last(db: sa.Connection) -> Entry | None:
    row = db.execute(_LAST).first()
    return None if row is None else _entry(row)


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    return Entry(row.sequence, row.at, row.kind, json.loads(row.facts), row.hash)


def _insert(db: sa.Connection, entry: Entry) -> None:
    row = {"sequence": entry.sequence, "at": entry.at, "kind": entry.kind, "facts": json.dumps(entry.facts)}
    db.execute(_INSERT, row | {"hash": entry.hash})
