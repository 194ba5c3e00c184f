"""Who is enrolled, with which keys, under whose signature.

The enrolment authority (an offline Ed25519 key) signs the roster; departments pin the authority's public key when they
are set up and the roster's hash when they join.  Nothing a coordinator says at run time can change who is in a sum or
how many must survive it: those parameters stand here.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property, lru_cache
from math import isqrt
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from commonroot.common import canonical
from commonroot.common.errors import ConfigError, Malformed, TooFewDepartments, WrongFederation
from commonroot.common.secure_sum.agreement import KEM_PUBLIC_BYTES, check_public
from commonroot.common.secure_sum.primitives import Identity, tagged_hash, verify

FEWEST_DEPARTMENTS = 3
#: Up to this size everyone masks with everyone and everyone opens; beyond it, see docs/adr/0008.
MOST_COMPLETE = 32
MOST_DEPARTMENTS = 1000
#: Shares are taken at the points 1..255 of a field of 256 elements.
MOST_MEMBERS = 255
#: Shares in one answer are counted in 16 bits.
_MOST_SHARES = 0xFFFF

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
HexKem = Annotated[str, Field(pattern=r"^[0-9a-f]+$", min_length=2 * KEM_PUBLIC_BYTES, max_length=2 * KEM_PUBLIC_BYTES)]
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Frozen):
    """One department, as it asked to be enrolled: its own signature stands under its agreement and node keys.

    name       unique in the federation
    identity   Ed25519 public key, 32 bytes hex
    agreement  X25519 public key for this epoch, 32 bytes hex
    kem        ML-KEM-768 public key for this epoch, 1184 bytes hex
    node_key   the Flower node's NIST EC public key, one OpenSSH line without comment
    signature  by ``identity`` over all of the above
    """

    name: Name
    identity: Hex32
    agreement: Hex32
    kem: HexKem
    node_key: Annotated[str, Field(max_length=1024)]
    signature: Hex64

    @classmethod
    def signed(cls, name: str, identity: Identity, keys: tuple[bytes, bytes], node_key: str) -> Member:
        """A department's enrolment request; ``keys`` are ``AgreementKey.public``."""
        agreement, kem = (key.hex() for key in keys)
        facts = {
            "name": name,
            "identity": identity.public.hex(),
            "agreement": agreement,
            "kem": kem,
            "node_key": node_key,
        }
        signature = identity.sign("enrolment", canonical.dumps(facts))
        return cls(**facts, signature=signature.hex())

    def check(self) -> None:
        """Raise BadSignature unless the department itself signed this entry; Malformed for keys that are none."""
        facts = self.model_dump(exclude={"signature"})
        verify(
            bytes.fromhex(self.identity),
            "enrolment",
            canonical.dumps(facts),
            bytes.fromhex(self.signature),
            who=f"department {self.name!r}",
        )
        check_public(bytes.fromhex(self.agreement), bytes.fromhex(self.kem), who=f"department {self.name!r}")


class Parameters(_Frozen):
    """The numbers the argument of the secure sum rests on.  Signed, never chosen by the coordinator at run time.

    colluders       t_c, departments that may collude with the coordinator
    opening_quorum  tau = ⌊(m + t_c)/2⌋ + 1 committee members must answer
    survivors_min   u_min ≥ max(3, t_c + 2) contributions in any opened sum; beyond 32 departments at least half of them
    rounds_max      a round number beyond this is refused
    committee       m, how many departments hold shares and open; None, up to 32 departments: all of them
    degree          k, even: with how many departments each one masks; None, up to 32 departments: with all others
    """

    colluders: Annotated[int, Field(ge=0)]
    opening_quorum: Annotated[int, Field(ge=2)]
    survivors_min: Annotated[int, Field(ge=3)]
    rounds_max: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    committee: Annotated[int, Field(ge=3, le=MOST_MEMBERS)] | None = None
    degree: Annotated[int, Field(ge=4, multiple_of=2)] | None = None

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A roster of a complete graph has neither field, so its bytes are what they were before there were any."""
        return {name: value for name, value in handler(self).items() if value is not None}

    @classmethod
    def for_size(
        cls, departments: int, colluders: int | None = None, *, survivors_min: int | None = None
    ) -> Parameters:
        """The parameters of ``docs/adr`` for a federation of ``departments``.

        Up to 32 departments   the mask graph is complete and everyone is on the committee.  Without ``colluders``, one
        is tolerated from four departments on.  Three departments cannot both hide one from a colluding peer and lose
        one at opening, so there the default is none.

        Beyond, up to 1,000    t_c = ⌊4·√n / 5⌋ unless said otherwise (8 of 100, 25 of 1,000), u_min = ⌈n/2⌉, and

            k = max(24, 4·(t_c + 1))     (36 of 100, 104 of 1,000)
            m = 3·t_c + 16, rounded up to a multiple of 8, at most n     (40 of 100, 96 of 1,000)

        Neither number is a matter of secrecy: members refuse whatever leaves honest survivors unconnected
        (``secure_sum.graph``), and two quorums share an honest member for every m.  They say how much may be missing.
        A window of k/2 ≥ 2·(t_c + 1) departments may lose about three quarters of itself before members refuse.  Where
        n does not cut it short, m - tau ≥ t_c + 7 members may be absent, more than a third of the committee: all
        colluders, and some beside.
        """
        if departments < FEWEST_DEPARTMENTS:
            raise TooFewDepartments(f"a federation of {departments} was asked for: one would see the other's update")
        if departments > MOST_DEPARTMENTS:
            raise ConfigError(f"{departments} departments: this version sums over at most {MOST_DEPARTMENTS}")
        if departments > MOST_COMPLETE:
            return cls._sparse(departments, colluders, survivors_min)
        if colluders is None:
            colluders = 1 if departments >= 4 else 0
        if not 0 <= colluders <= departments - 2:
            raise ConfigError(f"{colluders} colluders among {departments} departments leave nothing to hide")
        floor = max(FEWEST_DEPARTMENTS, colluders + 2)
        least = floor if survivors_min is None else survivors_min
        if not floor <= least <= departments:
            raise ConfigError(f"survivors_min must lie in [{floor}, {departments}], not {least}")
        return cls(colluders=colluders, opening_quorum=(departments + colluders) // 2 + 1, survivors_min=least)

    @classmethod
    def _sparse(cls, departments: int, colluders: int | None, survivors_min: int | None) -> Parameters:
        t_c = isqrt(16 * departments // 25) if colluders is None else colluders
        m = min(departments, -(-(3 * t_c + 16) // 8) * 8)
        k = max(24, 4 * (t_c + 1))
        wrong = "fewer than none" if t_c < 0 else _wrong_graph(departments, t_c, m, k)
        if wrong:
            raise ConfigError(f"{t_c} colluders among {departments} departments are not provided for: {wrong}")
        floor = max(t_c + 2, -(-departments // 2))
        least = floor if survivors_min is None else survivors_min
        if not floor <= least <= departments:
            raise ConfigError(f"survivors_min must lie in [{floor}, {departments}], not {least}")
        return cls(colluders=t_c, opening_quorum=(m + t_c) // 2 + 1, survivors_min=least, committee=m, degree=k)


def _wrong_graph(departments: int, colluders: int, committee: int, degree: int) -> str | None:
    """Why the argument of docs/adr/0008 does not cover a sparse graph; None where it does."""
    if committee > min(departments, MOST_MEMBERS):
        return f"a committee of {committee}; at most {min(departments, MOST_MEMBERS)} can be"
    if degree > departments - 2:
        return f"degree {degree} leaves no department out; {departments - 2} at most"
    if degree < 2 * (colluders + 1):
        return f"degree {degree} is below 2·(t_c + 1): a window could be filled with colluders"
    if departments + departments * degree // 2 > _MOST_SHARES:
        return f"degree {degree} for {departments} departments: an answer could hold more than {_MOST_SHARES} shares"
    return None


class Roster(_Frozen):
    """The signed content.  Departments are numbered by their position, from 0, in every message of this epoch.

    previous  digest of the roster before, from the second epoch on: rosters form one chain, and who has joined one
              takes as the next only the one that was made from it
    """

    federation: Name
    epoch: Annotated[int, Field(ge=1, le=2**31)]
    coordinator: Hex32
    parameters: Parameters
    departments: tuple[Member, ...]
    expires: Annotated[int, Field(ge=0, description="seconds since 1970, UTC")]
    previous: Hex32 | None = None

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A first roster has the bytes it had before there were chains."""
        return {name: value for name, value in handler(self).items() if (name, value) != ("previous", None)}

    @field_validator("departments")
    @classmethod
    def _sizes(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        if len(members) > MOST_DEPARTMENTS:
            raise ValueError(f"at most {MOST_DEPARTMENTS} departments")
        for field in ("name", "identity", "agreement", "kem", "node_key"):
            twice = [value for value, n in Counter(getattr(m, field) for m in members).items() if n > 1]
            if twice:
                raise ValueError(f"two departments share one {field.replace('_', ' ')}: {twice[0]}")
        return members

    @model_validator(mode="after")
    def _parameters_fit(self) -> Roster:
        n, p = len(self.departments), self.parameters
        if self.epoch == 1 and self.previous is not None:
            raise ValueError("the first roster has none before it")
        if n < FEWEST_DEPARTMENTS:
            raise TooFewDepartments(f"the roster lists {n} departments: one would see the other's update")
        if n > MOST_COMPLETE:
            if p.committee is None or p.degree is None:
                raise ValueError(f"{n} departments need a committee and a degree")
            if wrong := _wrong_graph(n, p.colluders, p.committee, p.degree):
                raise ValueError(wrong)
        elif p.committee is not None or p.degree is not None:
            raise ValueError(f"up to {MOST_COMPLETE} departments everyone masks with everyone and everyone opens")
        m = n if p.committee is None else p.committee
        if p.opening_quorum != (m + p.colluders) // 2 + 1 or p.opening_quorum > m:
            raise ValueError(f"opening_quorum must be ⌊(m + t_c)/2⌋ + 1 for {m} committee members")
        if not max(FEWEST_DEPARTMENTS, p.colluders + 2) <= p.survivors_min <= n:
            raise ValueError("survivors_min must be at least max(3, t_c + 2) and at most the number of departments")
        if n > MOST_COMPLETE and 2 * p.survivors_min < n:
            raise ValueError(f"survivors_min must be at least half of {n} departments")
        return self

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this roster in every transcript."""
        return tagged_hash("roster", canonical.dumps(self.model_dump(mode="json")))

    def index_of(self, identity: bytes) -> int:
        """The position of a department by its identity key.  Raises WrongFederation where it is not listed."""
        for at, member in enumerate(self.departments):
            if member.identity == identity.hex():
                return at
        raise WrongFederation(f"this department's identity is not in epoch {self.epoch} of {self.federation!r}")


class SignedRoster(_Frozen):
    """The roster with the enrolment authority's signature; what is exchanged as a file."""

    roster: Roster
    signature: Hex64

    @classmethod
    def sign(cls, roster: Roster, authority: Identity) -> SignedRoster:
        """Sign a roster, after checking that every department signed its own entry."""
        for member in roster.departments:
            member.check()
        return cls(roster=roster, signature=authority.sign("roster", roster.digest).hex())

    def check(self, authority: bytes) -> Roster:
        """The roster, once the authority's and every department's signatures hold; BadSignature otherwise."""
        verify(authority, "roster", self.roster.digest, bytes.fromhex(self.signature), who="the enrolment authority")
        for member in self.roster.departments:
            member.check()
        return self.roster

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> SignedRoster:
        """Parse canonical JSON; Malformed for anything else."""
        return parse(cls, data, what="the roster")


@lru_cache(maxsize=4)
def checked_roster(data: bytes, authority: bytes) -> Roster:
    """``SignedRoster.from_json(data).check(authority)``, done once for the same bytes and key.

    Checking 1,000 departments takes most of a second, and a simulation holds one roster for each of them.
    """
    return SignedRoster.from_json(data).check(authority)


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], data: bytes, *, what: str) -> M:
    """A model from canonical JSON; Malformed, naming the fields that are wrong, for anything else."""
    value: Any = canonical.loads(data, what=what)
    try:
        model = kind.model_validate(value)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or what}: {e['msg']}" for e in error.errors())
        raise Malformed(f"{what} is not valid: {fields}") from error
    if canonical.dumps(model.model_dump(mode="json")) != data:
        raise Malformed(f"{what} leaves fields out or writes them in another type")
    return model
