"""A ledger or an audit log as one file that anybody can verify: the chain, its signed head, and what was signed in it.

The file holds everything that its verification needs but one thing: whose key the enrolment authority's is.  That a
reader compares with the one it knows.  It holds kinds, sizes, digests and signed messages of the protocol; nothing that
a department learns from its rows, and none of what its ledger holds sealed.

Wire    canonical JSON: format 1, what (``ledger`` or ``audit``), federation, name, identity, authority, rosters
        (signed, as they came), entries [sequence, at, kind, facts, hash], statements [kind, head, body, accepted],
        signature by ``identity`` over all of the rest, label "record"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from commonroot.common import canonical, ledger
from commonroot.common.errors import BadSignature, Malformed
from commonroot.common.evidence import is_signed
from commonroot.common.ledger import Entry, Fact, Verified
from commonroot.common.roster import Hex32, Hex64, Name, Roster, SignedRoster, parse
from commonroot.common.secure_sum.primitives import Identity, sha256, verify

_LABEL: Final = "record"
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
What = Literal["ledger", "audit"]


@dataclass(frozen=True, slots=True)
class Stated:
    """A message under the coordinator's signature, as a department got it.

    body      what the signature covers besides, where it was kept: a charter, letters of an introduction
    accepted  whether the department acted on it
    """

    kind: str
    head: bytes
    body: bytes
    accepted: bool


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    what: What
    federation: Name
    name: str
    identity: Hex32
    authority: Hex32
    rosters: tuple[SignedRoster, ...]
    entries: tuple[tuple[int, float, str, dict[str, Fact], Hex32], ...]
    statements: tuple[tuple[str, Hex, Hex, bool], ...]
    signature: Hex64


@dataclass(frozen=True)
class Record:
    """A verified export.

    what        ``ledger`` of a department or ``audit`` of the coordinator
    name        of the department; ``coordinator``
    identity    public key it is signed with, hex; the rosters say whose it is
    authority   public key of the enrolment authority, hex: compare it with the one that you pinned
    verified    of the chain
    """

    what: What
    federation: str
    name: str
    identity: str
    authority: str
    rosters: tuple[Roster, ...]
    entries: tuple[Entry, ...]
    statements: tuple[Stated, ...]
    verified: Verified

    @property
    def owner(self) -> str:
        """Whose chain it is, as its heads say."""
        return owner_of(self.what, self.federation, self.name)

    @cached_property
    def coordinators(self) -> frozenset[str]:
        """Public keys of the coordinator in its rosters, hex."""
        return frozenset(roster.coordinator for roster in self.rosters)


def owner_of(what: What, federation: str, name: str) -> str:
    """Whose chain it is, as its heads say."""
    return ledger.owner_of_ledger(federation, name) if what == "ledger" else ledger.owner_of_audit(federation)


def write(
    identity: Identity,
    *,
    what: What,
    federation: str,
    name: str,
    authority: bytes,
    rosters: Sequence[SignedRoster],
    entries: Sequence[Entry],
    statements: Sequence[Stated] = (),
) -> bytes:
    """The bytes of an export; ``read`` must be able to verify them, so the chain ends with a signed head."""
    value = {
        "format": 1,
        "what": what,
        "federation": federation,
        "name": name,
        "identity": identity.public.hex(),
        "authority": authority.hex(),
        "rosters": [signed.model_dump(mode="json") for signed in rosters],
        "entries": [[e.sequence, e.at, e.kind, e.facts, e.hash.hex()] for e in entries],
        "statements": [[s.kind, s.head.hex(), s.body.hex(), s.accepted] for s in statements],
    }
    signature = identity.sign(_LABEL, sha256(canonical.dumps(value)))
    return canonical.dumps(value | {"signature": signature.hex()})


def read(data: bytes) -> Record:
    """An export, once everything in it holds.

    Raises  Malformed: it is none, an entry or head does not fit, the newest head does not cover it, a statement is not
            in the ledger or is not the coordinator's; BadSignature: its own, an authority's, a head's; WrongFederation
    """
    file: _File = parse(_File, data.strip(), what="the export")
    unsigned = file.model_dump(mode="json", exclude={"signature"})
    public = bytes.fromhex(file.identity)
    verify(public, _LABEL, sha256(canonical.dumps(unsigned)), bytes.fromhex(file.signature), who=file.name)
    rosters = tuple(signed.check(bytes.fromhex(file.authority)) for signed in file.rosters)
    _check_whose(file, rosters)
    entries = tuple(Entry(s, at, kind, facts, bytes.fromhex(h)) for s, at, kind, facts, h in file.entries)
    verified = ledger.verify_signed(entries, owner_of(file.what, file.federation, file.name))
    if not entries or verified.since:
        raise Malformed(f"the export's last {verified.since} entries stand under no signed head")
    strange = verified.identities - _keys_of(file, rosters) - {file.identity}
    if strange:
        raise BadSignature(
            f"a head is signed by {sorted(strange)[0][:16]}…, which is no key of {file.name} in a roster"
        )
    statements = tuple(Stated(k, bytes.fromhex(h), bytes.fromhex(b), a) for k, h, b, a in file.statements)
    _check_statements(statements, entries, rosters)
    return Record(
        what=file.what,
        federation=file.federation,
        name=file.name,
        identity=file.identity,
        authority=file.authority,
        rosters=rosters,
        entries=entries,
        statements=statements,
        verified=verified,
    )


def _keys_of(file: _File, rosters: Sequence[Roster]) -> set[str]:
    if file.what == "audit":
        return {roster.coordinator for roster in rosters}
    return {member.identity for roster in rosters for member in roster.departments if member.name == file.name}


def _check_whose(file: _File, rosters: Sequence[Roster]) -> None:
    if any(roster.federation != file.federation for roster in rosters):
        raise Malformed("the export holds a roster of another federation")
    if file.identity not in _keys_of(file, rosters):
        raise BadSignature(f"no roster in the export says that its key is {file.name}'s")


def _check_statements(statements: Sequence[Stated], entries: Sequence[Entry], rosters: Sequence[Roster]) -> None:
    """Every statement is one that the ledger names, and signed by a coordinator that a roster names."""
    named = ledger.named(entries)
    keys = [bytes.fromhex(key) for key in sorted({roster.coordinator for roster in rosters})]
    for at, one in enumerate(statements):
        if sha256(one.head).hex() not in named:
            raise Malformed(f"statement {at} ({one.kind[:32]}) is not in the ledger beside it")
        if not any(is_signed(key, one.kind, one.head) for key in keys):
            raise Malformed(f"statement {at} ({one.kind[:32]}) is not signed by a coordinator of these rosters")
