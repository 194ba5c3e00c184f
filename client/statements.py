"""What the coordinator has signed and sent here, kept as it came; what a department said of charters; what it sent.

These are tables of the department's store.  The functions take its open transaction, so that a statement is kept in
the very commit that obeys or refuses it.  Only signed bytes are kept: nobody can make them up afterwards, the
department included, so they prove to others what was said here (``common.compare``).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from commonroot.common import canonical, parcel
from commonroot.common.evidence import LARGEST_HEAD, decoded
from commonroot.common.ledger import Fact
from commonroot.common.messages import Open
from commonroot.common.secure_sum.primitives import sha256, tagged_hash

#: Bytes of accepted statements kept of each kind, the newest ones; what is dropped stays in the ledger as a digest.
#: Openings are long because of their boxes, and what they say is said again by the result that follows.
MOST_BYTES: Final[Mapping[str, int]] = {parcel.ROUND_OPEN: 64 << 20, parcel.OPEN: 16 << 20}
MOST_BYTES_OF_OTHERS: Final = 8 << 20
#: Room is looked after with every statement of more than a 64th of it, and once in so many others.
_LOOK_EVERY: Final = 16
#: Refused statements kept of each kind, the first ones: later ones cannot push them out.
MOST_REFUSED: Final = 32
#: A body is kept where the statement signs it and it is itself a proof; a longer one is kept by its hash alone.
LARGEST_BODY: Final = 1 << 20
#: Charters that were offered and not yet decided on; more are refused unread.
MOST_OFFERED: Final = 64


@dataclass(frozen=True, slots=True)
class Statement:
    """Something the coordinator signed, as it arrived.

    kind      of its parcel
    head      the signed message
    body      what came with it, where that is signed too and worth keeping (a charter, forged letters); else empty
    accepted  whether this department acted on it
    """

    kind: str
    head: bytes
    body: bytes
    accepted: bool


def keep(
    db: sqlite3.Connection,
    kind: str,
    head: bytes,
    *,
    round: int | None,
    backbone: str | None = None,
    body: bytes = b"",
    accepted: bool = True,
) -> None:
    """Keep a statement whose signature was checked, once, within the bounds above.

    round     that it is about, where it says so (``evidence.round_of``)
    backbone  whose survivors it settles (``refusals.backbone_of``)
    """
    if not head or len(head) > LARGEST_HEAD:
        return
    if not accepted:
        (count,) = db.execute("SELECT COUNT(*) FROM statements WHERE kind = ? AND accepted = 0", (kind,)).fetchone()
        if count >= MOST_REFUSED:
            return
    digest = sha256(head)
    if kind == parcel.OPEN and accepted and _says_nothing_new(db, head, round, backbone):
        head = b""  # the same set asked for again, with boxes of other members' or none: it says nothing new
    before = db.execute("SELECT id FROM statements WHERE kind = ? ORDER BY id DESC LIMIT 1", (kind,)).fetchone()
    number = db.execute(
        "INSERT INTO statements (kind, digest, round, backbone, accepted, head, body) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (kind, digest) DO UPDATE SET accepted = MAX(accepted, excluded.accepted), "
        "backbone = COALESCE(excluded.backbone, backbone), "
        # what was refused may have come with something else than what was obeyed
        "body = CASE WHEN excluded.accepted > accepted THEN excluded.body ELSE body END",
        (kind, digest, round, backbone, accepted, head, body if len(body) <= LARGEST_BODY else b""),
    ).lastrowid
    most = MOST_BYTES.get(kind, MOST_BYTES_OF_OTHERS)
    due = before is None or number is None or number // _LOOK_EVERY != before[0] // _LOOK_EVERY
    if accepted and (due or 64 * (len(head) + len(body)) > most):
        _forget_beyond(db, kind, most)


def _forget_beyond(db: sqlite3.Connection, kind: str, most: int) -> None:
    """Drop the oldest accepted statements of a kind that are too many bytes; adding up alone is the quicker look."""
    query = "SELECT COALESCE(SUM(LENGTH(head) + LENGTH(body)), 0) FROM statements WHERE kind = ? AND accepted = 1"
    (total,) = db.execute(query, (kind,)).fetchone()
    if total > most:
        db.execute(
            "DELETE FROM statements WHERE id IN (SELECT id FROM (SELECT id, SUM(LENGTH(head) + LENGTH(body)) OVER "
            "(ORDER BY id DESC) AS total FROM statements WHERE kind = ?1 AND accepted = 1) WHERE total > ?2)",
            (kind, most),
        )


def _says_nothing_new(db: sqlite3.Connection, head: bytes, round: int | None, backbone: str | None) -> bool:
    """Was this very set of this very roster opened before?"""
    query = (
        "SELECT head FROM statements WHERE kind = ? AND round = ? AND backbone IS ? AND accepted = 1 "
        "AND LENGTH(head) > 0 ORDER BY id DESC"
    )
    before = [decoded(parcel.OPEN, bytes(row[0])) for row in db.execute(query, (parcel.OPEN, round, backbone))]
    asked = decoded(parcel.OPEN, head) if before else None
    return isinstance(asked, Open) and any(isinstance(one, Open) and one.opened == asked.opened for one in before)


def accepted(
    db: sqlite3.Connection, kind: str, *, round: int | None = None, backbone: str | None = None
) -> bytes | None:
    """Head of the request of that kind that was accepted last about a round or a backbone; None where none is kept."""
    query = (
        "SELECT head FROM statements WHERE kind = ? AND accepted = 1 AND LENGTH(head) > 0 "
        "AND (round = ? OR backbone = ?) ORDER BY id DESC"
    )
    row = db.execute(query, (kind, round, backbone)).fetchone()
    return None if row is None else bytes(row[0])


def was_accepted(db: sqlite3.Connection, kind: str, head: bytes) -> bool:
    """Is this the very head of a request that was accepted?"""
    query = "SELECT 1 FROM statements WHERE kind = ? AND digest = ? AND accepted = 1"
    return db.execute(query, (kind, sha256(head))).fetchone() is not None


def kept(db: sqlite3.Connection) -> list[Statement]:
    """Every statement that is still kept, oldest first; of those that said nothing new there is a digest alone."""
    rows = db.execute("SELECT kind, head, body, accepted FROM statements WHERE LENGTH(head) > 0 ORDER BY id")
    return [Statement(kind, head, body or b"", bool(accepted)) for kind, head, body, accepted in rows]


# -- charters ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Consent:
    """What was decided on a charter.

    state   ``offered``, ``approved``, ``refused`` or ``withdrawn``
    reason  ``person``, or ``policy`` and the policy's hash; of a refusal the rules, by name
    """

    charter: str
    state: str
    at: float
    reason: str


def set_consent(db: sqlite3.Connection, charter: str, state: str, *, at: float, reason: str) -> None:
    """Remember the newest decision on a charter."""
    db.execute("INSERT OR REPLACE INTO consents VALUES (?, ?, ?, ?)", (charter, state, at, reason))


def consents(db: sqlite3.Connection) -> dict[str, Consent]:
    """The newest decision on each charter, oldest first."""
    return {row[0]: Consent(*row) for row in db.execute("SELECT * FROM consents ORDER BY at")}


def is_revoked(db: sqlite3.Connection, charter: str) -> bool:
    """Does the newest decision on a charter say no?"""
    row = db.execute("SELECT state FROM consents WHERE charter = ?", (charter,)).fetchone()
    return row is not None and row[0] in ("refused", "withdrawn")


# -- what stays here ---------------------------------------------------------------------------------------------------


def seal(db: sqlite3.Connection, sequence: int, facts: dict[str, Fact]) -> str:
    """A commitment to facts that belong to an entry and are nobody else's business; what it is of stays in this table.

    An exported ledger shows the commitment alone, and one stands in every entry of that kind, so it tells nothing.
    """
    salt = os.urandom(32)
    db.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", (sequence, salt, json.dumps(facts)))
    return sealed_as(salt, facts).hex()


def sealed_as(salt: bytes, facts: dict[str, Fact]) -> bytes:
    """32 bytes that commit to facts under a salt."""
    return tagged_hash("sealed", salt, canonical.dumps(facts))


def sealed(db: sqlite3.Connection) -> dict[int, tuple[bytes, dict[str, Any]]]:
    """Salt and facts by the sequence of the entry that they belong to."""
    return {row[0]: (row[1], json.loads(row[2])) for row in db.execute("SELECT sequence, salt, facts FROM sealed")}


# -- what the link sent ------------------------------------------------------------------------------------------------


def count_traffic(db: sqlite3.Connection, counts: Mapping[str, tuple[int, int]]) -> None:
    """Add to the account of what left over the link: kind → (requests, bytes)."""
    for kind, (requests, size) in sorted(counts.items()):
        db.execute(
            "INSERT INTO traffic VALUES (?1, ?2, ?3) ON CONFLICT (kind) DO UPDATE SET requests = requests + ?2, "
            "bytes = bytes + ?3",
            (kind, requests, size),
        )


def traffic(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Requests and bytes that left over the link, by kind, ever."""
    return {row[0]: (row[1], row[2]) for row in db.execute("SELECT kind, requests, bytes FROM traffic ORDER BY kind")}
