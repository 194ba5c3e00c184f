"""How a department becomes a member, stays one, and changes its keys: what both sides say about it.

A *token* is one line that central IT hands to one department.  It says where the coordinator is and by what it is
known, and holds a secret from which a signing key is derived; the coordinator keeps only that key's public half, so
nobody who reads its books can apply in a department's place.  An *application* is a department's entry for the next
roster (``roster.Member``, under its own signature) and a proof: the token's signature where it is new, the signature of
the identity under which it stands in the roster where it is known.  The proof covers every key, so a copied application
cannot be given others.  What is asked and answered here travels over the coordinator's public port (see docs/adr/0016);
the *draft* of a roster travels to the enrolment authority and back as a file.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from commonroot.common import canonical
from commonroot.common.errors import BadToken, Malformed, NotTheNextRoster, WrongVersion
from commonroot.common.roster import Hex32, Hex64, Member, Name, Roster, SignedRoster, parse
from commonroot.common.secure_sum.primitives import KEY_BYTES, Identity, Random, derive, sha256, tagged_hash, verify
from commonroot.common.secure_sum.wire import PROTOCOL, Reader

#: Where the coordinator's public port takes a ``Question``, and how long one may be in bytes.
ROUTE: Final = "/v1/commonroot/enrolment"
MAX_QUESTION: Final = 8 * 1024
#: A question about the roster is signed; it is answered if its time is no further than this from the coordinator's, in
#: seconds.
SKEW: Final = 300

_PREFIX: Final = "commonroot1_"
_CHECK_BYTES: Final = 4
_NUMBER_BYTES: Final = 8
_SECRET_BYTES: Final = 16
_NAME: Final = TypeAdapter(Name)
_ADDRESS: Final = re.compile(r"[^\s/]{1,200}:\d{1,5}")

Hex8 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What ``coordinator enrol`` prints: one line for one department, good for one application.

    Wire    "commonroot1_" and in base64url: version: u8 | three texts, each u8 length and UTF-8: federation, host:port,
            name | number: 8 B | secret: 16 B | expires: u64, seconds since 1970 | ca: 32 B | authority: 32 B |
            check: 4 B, of the SHA-256 of all before it
    Raises  BadToken: anything else, or the check does not fit

    number     by which the coordinator finds it again
    ca         SHA-256 of the federation's CA certificate in DER
    authority  the enrolment authority's Ed25519 public key
    """

    federation: str
    address: str
    name: str
    number: bytes
    secret: bytes = field(repr=False)
    expires: int
    ca: bytes
    authority: bytes

    @classmethod
    def generate(
        cls, *, federation: str, address: str, name: str, expires: int, ca: bytes, authority: bytes, random: Random
    ) -> Token:
        """A fresh one."""
        return cls(
            federation=federation,
            address=address,
            name=name,
            number=random(_NUMBER_BYTES),
            secret=random(_SECRET_BYTES),
            expires=expires,
            ca=ca,
            authority=authority,
        )

    @cached_property
    def key(self) -> Identity:
        """The signing key in it.  All the rest of the token goes into it, so that a token that was changed has another
        key, which the coordinator does not know."""
        return Identity(derive(self.secret, "enrolment-token", self._content(bytes(_SECRET_BYTES)), length=KEY_BYTES))

    def _content(self, secret: bytes) -> bytes:
        texts = b"".join(
            len(text.encode()).to_bytes(1, "big") + text.encode() for text in (self.federation, self.address, self.name)
        )
        return (
            PROTOCOL.to_bytes(1, "big")
            + texts
            + self.number
            + secret
            + self.expires.to_bytes(8, "big")
            + self.ca
            + self.authority
        )

    def encode(self) -> str:
        """One line."""
        content = self._content(self.secret)
        checked = content + sha256(content)[:_CHECK_BYTES]
        return _PREFIX + base64.urlsafe_b64encode(checked).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, line: str) -> Token:
        """The inverse of ``encode``; blanks around it and line breaks inside it do not count."""
        text = "".join(line.split())
        if not text.startswith(_PREFIX):
            raise BadToken(f"this is no enrolment token: one begins with {_PREFIX}")
        encoded = text.removeprefix(_PREFIX)
        try:
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadToken("the token holds characters that no token has") from error
        content, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if sha256(content)[:_CHECK_BYTES] != check:
            raise BadToken("the token is damaged or cut short: its check does not fit")
        try:
            r = Reader(content, "a token")
            federation, address, name = (r.raw(r.u8()).decode() for _ in range(3))
            number, secret = r.raw(_NUMBER_BYTES), r.raw(_SECRET_BYTES)
            expires = int.from_bytes(r.raw(8), "big")
            ca, authority = r.raw(32), r.raw(32)
            r.end()
            _NAME.validate_python(federation)
            _NAME.validate_python(name)
        except WrongVersion as error:
            raise BadToken(str(error), hint="use the version of this program that central IT uses") from error
        except (Malformed, ValidationError, UnicodeDecodeError) as error:
            raise BadToken("the token does not say what a token says") from error
        if not _ADDRESS.fullmatch(address):
            raise BadToken("the token names no host:port")
        made = cls(
            federation=federation,
            address=address,
            name=name,
            number=number,
            secret=secret,
            expires=expires,
            ca=ca,
            authority=authority,
        )
        if made.encode() != text:
            raise BadToken("the token is not written as tokens are")
        return made


class Application(_Frozen):
    """A department asks for its place in the next roster.

    federation  which one
    token       number of the token that vouches for it, 8 bytes hex; or
    roster      digest of the roster in which it stands, whose identity vouches for it
    made        seconds since 1970 at the department; of two applications the later one counts
    member      the entry it asks for, with fresh agreement keys
    proof       signature by the token's key or the standing identity over all of the above
    """

    federation: Name
    token: Hex8 | None = None
    roster: Hex32 | None = None
    made: Annotated[int, Field(ge=0, le=2**53)]
    member: Member
    proof: Hex64

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _one_voucher(self) -> Self:
        if (self.token is None) == (self.roster is None):
            raise ValueError("either a token or a roster vouches for an application")
        return self

    @classmethod
    def by_token(cls, token: Token, member: Member, *, made: int) -> Application:
        """A new department's."""
        facts = {"federation": token.federation, "token": token.number.hex(), "made": made}
        return cls._signed(facts, member, token.key)

    @classmethod
    def by_identity(cls, roster: Roster, member: Member, identity: Identity, *, made: int) -> Application:
        """A member's, for the epoch after ``roster``; ``identity`` is the one under which it stands there."""
        facts = {"federation": roster.federation, "roster": roster.digest.hex(), "made": made}
        return cls._signed(facts, member, identity)

    @classmethod
    def _signed(cls, facts: dict[str, Any], member: Member, key: Identity) -> Application:
        content = canonical.dumps(facts | {"member": member.model_dump(mode="json")})
        return cls(**facts, member=member, proof=key.sign("application", content).hex())

    def check_proof(self, public: bytes) -> None:
        """Raise BadSignature unless the key of this public half made the proof."""
        content = canonical.dumps(self.model_dump(mode="json", exclude={"proof"}))
        who = f"whoever applies as {self.member.name!r}"
        verify(public, "application", content, bytes.fromhex(self.proof), who=who)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this very application."""
        return tagged_hash("application", self.to_json())

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> Application:
        """Parse canonical JSON; Malformed for anything else."""
        return parse(cls, data, what="the enrolment request")


class Question(_Frozen):
    """What a department asks the coordinator about its membership; at most ``MAX_QUESTION`` bytes of canonical JSON.

    ask          ``ca``: the CA's certificate, to be held against a token's pin; ``enrol``: take this application;
                 ``roster``: is there a newer one
    application  of ``enrol``
    identity     of ``roster``: who asks, Ed25519, under whose signature the following stand
    epoch        the one that was joined; 0 before the first
    at           seconds since 1970
    """

    ask: Literal["ca", "enrol", "roster"]
    application: Application | None = None
    identity: Hex32 | None = None
    federation: Name | None = None
    epoch: Annotated[int, Field(ge=0, le=2**31)] | None = None
    at: Annotated[int, Field(ge=0, le=2**53)] | None = None
    signature: Hex64 | None = None

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        about_roster = (self.identity, self.federation, self.epoch, self.at, self.signature)
        if (self.application is not None) != (self.ask == "enrol"):
            raise ValueError("an application belongs to the question `enrol`")
        wanted = self.ask == "roster"
        if any((value is not None) != wanted for value in about_roster):
            raise ValueError("identity, federation, epoch, at and signature belong to the question `roster`")
        return self

    @classmethod
    def about_roster(cls, federation: str, identity: Identity, *, epoch: int, at: int) -> Question:
        """Is there a roster of a later epoch?"""
        asked = canonical.dumps({"federation": federation, "epoch": epoch, "at": at})
        return cls(
            ask="roster",
            identity=identity.public.hex(),
            federation=federation,
            epoch=epoch,
            at=at,
            signature=identity.sign("roster-question", asked).hex(),
        )

    def check(self) -> None:
        """Raise BadSignature unless ``identity`` itself asks."""
        asked = canonical.dumps({"federation": self.federation, "epoch": self.epoch, "at": self.at})
        who = "whoever asks for the roster"
        verify(
            bytes.fromhex(self.identity or ""),
            "roster-question",
            asked,
            bytes.fromhex(self.signature or ""),
            who=who,
        )

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> Question:
        """Parse canonical JSON; Malformed for anything else, or more of it than there may be."""
        if len(data) > MAX_QUESTION:
            raise Malformed(f"a question of {len(data)} bytes; {MAX_QUESTION} at most")
        return parse(cls, data, what="the question")


class Answer(_Frozen):
    """What the coordinator says.  Nothing in it is believed for its own sake: the CA is held against a pin, a roster
    against the authority's key.

    ca      of ``ca``: the certificate, PEM
    state   ``waiting``: the application is here; ``member``: the asker is in the roster; ``out``: no longer
    renew   fresh keys are wanted for the next epoch
    roster  the newest one, where it is later than the one that was joined
    refused code of the error where the answer is no
    """

    ca: Annotated[str, Field(max_length=16_384)] | None = None
    state: Literal["waiting", "member", "out"] | None = None
    renew: bool | None = None
    roster: SignedRoster | None = None
    refused: Annotated[str, Field(pattern=r"^CR[0-9]{2,3}$")] | None = None

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> Answer:
        """Parse canonical JSON; Malformed for anything else."""
        return parse(cls, data, what="the coordinator's answer")


class RosterDraft(_Frozen):
    """A roster on its way to the enrolment authority: what is to be signed, and the one before, to compare with."""

    before: SignedRoster | None = None
    roster: Roster

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def check(self, authority: bytes) -> None:
        """Raise BadSignature where the one before is not the authority's, or a department's entry not its own;
        NotTheNextRoster where this one does not follow it."""
        before = None if self.before is None else self.before.check(authority)
        for member in self.roster.departments:
            member.check()
        check_next(self.roster, before)

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> RosterDraft:
        """Parse canonical JSON; Malformed for anything else."""
        return parse(cls, data, what="the draft of a roster")


def check_next(roster: Roster, before: Roster | None) -> None:
    """Raise NotTheNextRoster unless ``roster`` is of the epoch after ``before`` (or the first), made from it, of the
    same federation and coordinator, and with keys that were not used in it."""
    epoch = 1 if before is None else before.epoch + 1
    if roster.epoch != epoch:
        raise NotTheNextRoster(f"a roster of epoch {roster.epoch} was given, and epoch {epoch} comes next")
    if before is None:
        return
    if roster.previous != before.digest.hex():
        raise NotTheNextRoster(f"the roster of epoch {epoch} was not made from the roster of epoch {before.epoch}")
    if (roster.federation, roster.coordinator) != (before.federation, before.coordinator):
        raise NotTheNextRoster("the roster is of another federation or another coordinator's key")
    used = {key for m in before.departments for key in (m.agreement, m.kem)}
    spent = [m.name for m in roster.departments if m.agreement in used or m.kem in used]
    if spent:
        raise NotTheNextRoster(f"agreement keys of the epoch before, which are erased: {', '.join(spent)}")


@dataclass(frozen=True)
class Change:
    """What becomes of one department from one roster to the next."""

    name: str
    what: Literal["added", "removed", "new identity", "new node key", "stays"]
    identity: str


def changes(before: Roster | None, after: Roster) -> list[Change]:
    """Every department of either roster, in the order of the new one and then those that leave."""
    old = {m.name: m for m in before.departments} if before else {}
    found = []
    for m in after.departments:
        known = old.get(m.name)
        what: Literal["added", "removed", "new identity", "new node key", "stays"] = "stays"
        if known is None:
            what = "added"
        elif known.identity != m.identity:
            what = "new identity"
        elif known.node_key != m.node_key:
            what = "new node key"
        found.append(Change(m.name, what, m.identity))
    stay = {m.name for m in after.departments}
    return found + [Change(m.name, "removed", m.identity) for m in old.values() if m.name not in stay]


def fingerprint(identity: bytes | str) -> str:
    """An identity as people compare it over the telephone: the first 16 bytes of its hash, in groups of four."""
    text = tagged_hash("fingerprint", identity if isinstance(identity, bytes) else bytes.fromhex(identity)).hex()[:32]
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))
