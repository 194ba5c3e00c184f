"""Hash-chained, append-only events: what left, when, under which charter; and the heads that their keeper signs.

Each entry's hash covers the one before, so that none can be changed, dropped or inserted later without every following
hash changing.  A *head* is a signature under how many entries there are and the last one's hash: it stands in the chain
itself, as an entry of kind ``checkpoint``, and whoever has seen one can tell later whether the chain was cut short or
written anew.  Entries hold kinds, sizes and digests; never a tensor, a row or a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from commonroot.common import canonical
from commonroot.common.errors import Malformed
from commonroot.common.secure_sum.primitives import Identity, tagged_hash
from commonroot.common.secure_sum.primitives import verify as verify_signature

Fact = str | int | float | bool | list[int] | None
GENESIS = bytes(32)
#: Kind of the entries that hold a signed head.
CHECKPOINT: Final = "checkpoint"
_LABEL: Final = "ledger-head"


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


@dataclass(frozen=True, slots=True)
class Head:
    """How long a chain was and how it ended, under its keeper's signature.

    owner      whose chain it is: ``owner_of_ledger`` or ``owner_of_audit``
    entries    how many there were
    hash       of the last of them; zeros where there were none
    identity   public key of the keeper
    """

    owner: str
    entries: int
    hash: bytes
    identity: bytes
    signature: bytes

    @classmethod
    def sign(cls, owner: str, last: Entry | None, identity: Identity) -> Head:
        """The head of a chain that ends with ``last`` (None: an empty one)."""
        entries, digest = (0, GENESIS) if last is None else (last.sequence + 1, last.hash)
        signature = identity.sign(_LABEL, _signed_text(owner, entries, digest))
        return cls(owner, entries, digest, identity.public, signature)

    def check(self) -> None:
        """Raise BadSignature unless the signature is the identity's."""
        text = _signed_text(self.owner, self.entries, self.hash)
        verify_signature(self.identity, _LABEL, text, self.signature, who=self.owner)

    def facts(self) -> dict[str, Fact]:
        """As an entry of kind ``checkpoint`` has it; the owner is that of the chain."""
        return {
            "entries": self.entries,
            "head": self.hash.hex(),
            "identity": self.identity.hex(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def of(cls, entry: Entry, owner: str) -> Head:
        """The head that a ``checkpoint`` entry holds.  Malformed where it holds none."""
        facts = entry.facts
        try:
            head, identity, signature = (bytes.fromhex(str(facts[name])) for name in ("head", "identity", "signature"))
            return cls(owner, int(facts["entries"]), head, identity, signature)  # type: ignore[arg-type]
        except (KeyError, ValueError, TypeError) as error:
            raise Malformed(f"ledger entry {entry.sequence} holds no signed head") from error


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that holds.

    entries     how many
    signed      how many of them the last signed head covers
    since       how many came after that head; for these only the keeper's disk vouches
    identities  public keys that signed heads in it, hex
    """

    entries: int
    signed: int
    since: int
    identities: frozenset[str]


def owner_of_ledger(federation: str, department: str) -> str:
    """The name that a department signs its heads with."""
    return f"department {department} of {federation}"


def owner_of_audit(federation: str) -> str:
    """The name that a coordinator signs its heads with."""
    return f"coordinator of {federation}"


def append(last: Entry | None, *, at: float, kind: str, facts: dict[str, Fact]) -> Entry:
    """The next entry after ``last`` (None for the first)."""
    sequence = 0 if last is None else last.sequence + 1
    previous = GENESIS if last is None else last.hash
    return Entry(sequence, at, kind, facts, _hash(previous, sequence, at, kind, facts))


def named(entries: Iterable[Entry]) -> set[str]:
    """Digests, hex, of the signed messages that these entries are about."""
    return {str(e.facts[name]) for e in entries for name in ("asked", "digest") if name in e.facts}


def verify(entries: Iterable[Entry]) -> int:
    """The number of entries, once the whole chain holds; Malformed names the first entry that does not fit."""
    previous, count = GENESIS, 0
    for entry in entries:
        expected = _hash(previous, count, entry.at, entry.kind, entry.facts)
        if entry.sequence != count or entry.hash != expected:
            raise Malformed(f"ledger entry {count} was changed, dropped or inserted")
        previous, count = entry.hash, count + 1
    return count


def verify_signed(entries: Iterable[Entry], owner: str) -> Verified:
    """The chain and every signed head in it.

    Raises  Malformed: the first entry that does not fit, or a head that is not of the entries before it; BadSignature:
            a head that its identity has not signed for this owner
    """
    listed = list(entries)
    verify(listed)
    signed, since, identities, previous = 0, 0, set(), GENESIS
    for entry in listed:
        since += 1
        if entry.kind == CHECKPOINT:
            head = Head.of(entry, owner)
            if (head.entries, head.hash) != (entry.sequence, previous):
                raise Malformed(f"ledger entry {entry.sequence} is the head of other entries than those before it")
            head.check()
            signed, since = entry.sequence, 0
            identities.add(head.identity.hex())
        previous = entry.hash
    return Verified(len(listed), signed, since, frozenset(identities))


def require_continues(entries: list[Entry], head: Head) -> None:
    """Raise Malformed unless these entries begin with those that ``head`` was signed over; BadSignature."""
    head.check()
    if len(entries) < head.entries:
        raise Malformed(f"the ledger was cut short: {len(entries)} entries, but a head over {head.entries} was signed")
    if head.entries and entries[head.entries - 1].hash != head.hash:
        raise Malformed(f"the ledger was written anew: entry {head.entries - 1} is not the one that was signed")


def checkpoint(last: Entry | None, *, at: float, owner: str, identity: Identity) -> Entry:
    """The next entry, which holds the signed head of all before it."""
    return append(last, at=at, kind=CHECKPOINT, facts=Head.sign(owner, last, identity).facts())


def _signed_text(owner: str, entries: int, digest: bytes) -> bytes:
    return canonical.dumps([owner, entries, digest.hex()])


def _hash(previous: bytes, sequence: int, at: float, kind: str, facts: dict[str, Fact]) -> bytes:
    return tagged_hash("ledger", previous, canonical.dumps([sequence, at, kind, facts]))
