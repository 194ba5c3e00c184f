"""Hash-chained, append-only events: what left, when, under which charter.

Each entry's hash covers the one before, so that none can be changed, dropped or inserted later without every following
hash changing.  Entries hold kinds, sizes and digests; never a tensor, a row or a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from commonroot.common import canonical
from commonroot.common.errors import Malformed
from commonroot.common.secure_sum.primitives import tagged_hash

Fact = str | int | float | bool | list[int] | None
GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event.

    sequence  from 0, without gaps
    at        seconds since 1970, UTC, by the writer's clock
    kind      what happened, e.g. ``sent``, ``refused``, ``opened``; kinds never change meaning
    facts     flat and small
    hash      of all of the above and of the entry before
    """

    sequence: int
    at: float
    kind: str
    facts: dict[str, Fact]
    hash: bytes


def append(last: Entry | None, *, at: float, kind: str, facts: dict[str, Fact]) -> Entry:
    """The next entry after ``last`` (None for the first)."""
    sequence = 0 if last is None else last.sequence + 1
    previous = GENESIS if last is None else last.hash
    return Entry(sequence, at, kind, facts, _hash(previous, sequence, at, kind, facts))


def verify(entries: Iterable[Entry]) -> int:
    """The number of entries, once the whole chain holds; Malformed names the first entry that does not fit."""
    previous, count = GENESIS, 0
    for entry in entries:
        expected = _hash(previous, count, entry.at, entry.kind, entry.facts)
        if entry.sequence != count or entry.hash != expected:
            raise Malformed(f"ledger entry {count} was changed, dropped or inserted")
        previous, count = entry.hash, count + 1
    return count


def _hash(previous: bytes, sequence: int, at: float, kind: str, facts: dict[str, Fact]) -> bytes:
    return tagged_hash("ledger", previous, canonical.dumps([sequence, at, kind, facts]))
