"""The beginning of an epoch, at a department: countersign the roster, meet the others, hold a chain with each.

Rule 1  a department countersigns one roster per epoch, and makes one greeting under it
Rule 2  no chain is used before ⌊(n + t_c)/2⌋ + 1 departments have countersigned the very same roster: an authority
        and a coordinator that show different rosters to different departments need more than t_c accomplices
Rule 3  a pair's root is used once and dropped; the private keys are dropped as soon as nobody is left who may need them
Rule 4  the first greeting of a department stands, whatever comes later

Requests and stored state in, replies and new state out; no I/O.  The driver makes the new state durable before it
sends the reply, in one transaction with the chains, and drops the agreement key once the setup is durable.

What is held meanwhile.  The X25519 private key is gone when the greeting is made: one shared secret per department
stays in its place, and each is dropped when its pair's root is made.  The ML-KEM private key stays until every
lower-numbered department has greeted, or the epoch ends.  Whoever steals it meanwhile can have the roots of pairs that
have not met yet, but still needs the (dropped) X25519 secrets for those that have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from commonroot.common import canonical
from commonroot.common.errors import (
    BadGreeting,
    BroadcastMismatch,
    ForeignState,
    KeyFileError,
    Malformed,
    NotCountersigned,
    SplitRoster,
    WrongFederation,
)
from commonroot.common.greetings import (
    COUNTERSIGNATURE,
    Greet,
    Greeting,
    Introduce,
    Introduced,
    put_letters,
    take_letters,
)
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import (
    CIPHERTEXT_BYTES,
    AgreementKey,
    ciphertext_digest,
    decapsulate,
    encapsulate,
    pair_root,
)
from commonroot.common.secure_sum.committee import peers_of
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, agree, same, sha256
from commonroot.common.secure_sum.states import EPOCH, EpochState

Body = bytes | bytearray | memoryview


def countersigners(roster: Roster) -> int:
    """How many departments must have countersigned a roster before anything is masked under it: ⌊(n + t_c)/2⌋ + 1.

    Any two such sets of the same n departments share an honest one.  In a complete graph that is the opening quorum;
    where a committee opens it is more, because two rosters have two committees, which need not share anybody.
    """
    return (len(roster.departments) + roster.parameters.colluders) // 2 + 1


@dataclass(frozen=True, slots=True)
class EpochSetup:
    """How far a department has come in meeting the others.  Secret.

    roster       digest of the roster that was countersigned
    peers        departments that a chain is needed with
    seed         ML-KEM private key; empty once nobody may need it
    curve        X25519 secrets shared with departments whose greeting is still awaited, by number
    roots        roots of pairs that wait for the quorum, by number
    greeting     this department's own, as it is sent each time it is asked for
    ciphertexts  that belong to it, one after the other
    met          digest of each verified greeting, by department, the own one included
    seen         countersignatures of the roster's digest, by department: the proof of the quorum
    """

    roster: bytes
    epoch: int
    me: int
    peers: tuple[int, ...]
    seed: bytes = field(repr=False)
    curve: Mapping[int, bytes] = field(repr=False)
    roots: Mapping[int, bytes] = field(repr=False)
    greeting: bytes = field(repr=False)
    ciphertexts: bytes = field(repr=False)
    met: Mapping[int, bytes] = field(repr=False)
    seen: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def begin(
        cls, roster: Roster, identity: Identity, key: AgreementKey, peers: Collection[int] | None = None
    ) -> EpochSetup:
        """Countersign a roster and make its greeting.  Once the result is durable, ``key`` is to be erased.

        Parameters  roster: checked and pinned; key: the one whose public halves stand in it; peers: whom a chain is
                    needed with, ``peers_of`` by default
        Raises      KeyFileError unless the key is the roster's; WrongFederation for a stranger's identity
        """
        me = roster.index_of(identity.public)
        if key.public != _public_keys(roster, me):
            raise KeyFileError("the agreement keys are not the ones this epoch's roster lists for this department")
        chosen = tuple(sorted(peers_of(roster, me) if peers is None else peers))
        curve = {peer: agree(key.curve, _public_keys(roster, peer)[0]) for peer in chosen}
        roots: dict[int, bytes] = {}
        ciphertexts = []
        above = tuple(peer for peer in chosen if peer > me)
        for peer in above:
            secret, ciphertext = encapsulate(_public_keys(roster, peer)[1])
            roots[peer] = pair_root(curve.pop(peer), secret, ciphertext, roster=roster.digest, lo=me, hi=peer)
            ciphertexts.append(ciphertext)
        countersignature = identity.sign(COUNTERSIGNATURE, roster.digest)
        greeting = Greeting.signed(
            identity,
            roster=roster.digest,
            epoch=roster.epoch,
            sender=me,
            countersignature=countersignature,
            to=above,
            sealed=tuple(map(ciphertext_digest, ciphertexts)),
        ).encode()
        return cls(
            roster=roster.digest,
            epoch=roster.epoch,
            me=me,
            peers=chosen,
            seed=key.seed if curve else b"",
            curve=curve,
            roots=roots,
            greeting=greeting,
            ciphertexts=b"".join(ciphertexts),
            met={me: sha256(greeting)},
            seen={me: countersignature},
        )

    def begun(self, roster: Roster) -> bool:
        """Have enough departments countersigned the roster?"""
        return len(self.seen) >= countersigners(roster)

    def state(self, roster: Roster) -> EpochState:
        """Where this department stands in ``states.EPOCH``."""
        if not self.begun(roster):
            return EpochState.WAITING
        return EpochState.MET if set(self.peers) <= set(self.met) else EpochState.MEETING

    def require_begun(self, roster: Roster) -> None:
        """Raise NotCountersigned, with the numbers, before the quorum."""
        if not self.begun(roster):
            raise NotCountersigned(
                f"{len(self.seen)} departments countersigned this roster, {countersigners(roster)} are needed"
            )

    # -- Greet → Greeting ------------------------------------------------------------------------------------------

    def greet(self, roster: Roster, head: bytes) -> tuple[bytes, bytes]:
        """Head and body of this department's greeting, always the same.

        Raises Malformed, WrongVersion, BadSignature; SplitRoster: another roster of this epoch; WrongFederation
        """
        asked = Greet.decode(head)
        asked.check(bytes.fromhex(roster.coordinator), who="the coordinator")
        _require_same_epoch(roster, asked.roster, asked.epoch, who="the coordinator")
        return self.greeting, self.ciphertexts

    # -- Introduce → Introduced ------------------------------------------------------------------------------------

    def introduce(
        self, roster: Roster, head: bytes, body: Body, memory: DepartmentMemory
    ) -> tuple[EpochSetup, DepartmentMemory]:
        """Verify others' greetings, and from the quorum on hold a chain with each of them that is a peer.

        Returns     (setup, memory): both unchanged for a repeat, otherwise to be made durable together
        Raises      Malformed, WrongVersion, BadSignature: the coordinator's, or naming whose greeting it is;
                    SplitRoster, WrongFederation; BroadcastMismatch: the body is not what was signed; BadGreeting.
                    Nothing of an introduction counts if any part of it is refused.
        """
        told = Introduce.decode(head)
        told.check(bytes.fromhex(roster.coordinator), who="the coordinator")
        _require_same_epoch(roster, told.roster, told.epoch, who="the coordinator")
        if sha256(body) != told.body:
            raise BroadcastMismatch("the greetings received are not the ones the coordinator signed for")
        if told.who[-1] >= len(roster.departments):
            raise BadGreeting(f"department {told.who[-1]} was introduced, which is not in the roster")
        after = self
        for sender, (greeting, ciphertext) in zip(told.who, take_letters(body, len(told.who)), strict=True):
            after = after._meet(roster, sender, greeting, ciphertext)
        if after.begun(roster) and after.roots:
            memory = replace(memory, chains=memory.chains.meet(after.roots))
            after = replace(after, roots={})
        EPOCH.require(self.state(roster), after.state(roster))
        return after, memory

    def introduced(self, identity: Identity) -> bytes:
        """The answer to an introduction: everybody whose greeting was verified so far."""
        return Introduced.signed(
            identity, roster=self.roster, epoch=self.epoch, sender=self.me, met=tuple(sorted(self.met))
        ).encode()

    def _meet(self, roster: Roster, sender: int, greeting: Greeting, ciphertext: bytes) -> EpochSetup:
        who = _name(roster, sender)
        # Whom a greeting must address is known here only as far as this department is concerned.
        check_greeting(roster, sender, greeting)
        digest = sha256(greeting.encode())
        if sender in self.met:
            if not same(self.met[sender], digest):
                raise BadGreeting(f"{who} has greeted before, differently; its first greeting stands")
            return self
        after = replace(self, met={**self.met, sender: digest}, seen={**self.seen, sender: greeting.countersignature})
        expected = sender in self.peers and sender < self.me
        if expected != (self.me in greeting.to):
            raise BadGreeting(f"the greeting of {who} is {'not ' * expected}addressed to this department")
        if not expected:
            if ciphertext:
                raise BadGreeting(f"the greeting of {who} came with a ciphertext that nobody asked for")
            return after
        if not same(ciphertext_digest(ciphertext), greeting.sealed[greeting.to.index(self.me)]):
            raise BadGreeting(f"the ciphertext that came with the greeting of {who} is not the one it signed")
        secret = decapsulate(self.seed, ciphertext)
        curve = dict(self.curve)
        root = pair_root(curve.pop(sender), secret, ciphertext, roster=self.roster, lo=sender, hi=self.me)
        return replace(after, roots={**self.roots, sender: root}, curve=curve, seed=self.seed if curve else b"")

    # -- bytes -----------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Canonical JSON with hexadecimal keys.  Secret."""
        return canonical.dumps(
            {
                "layout": 1,
                "roster": self.roster.hex(),
                "epoch": self.epoch,
                "me": self.me,
                "peers": list(self.peers),
                "seed": self.seed.hex(),
                "curve": _put(self.curve),
                "roots": _put(self.roots),
                "greeting": self.greeting.hex(),
                "ciphertexts": self.ciphertexts.hex(),
                "met": _put(self.met),
                "seen": _put(self.seen),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> EpochSetup:
        """The inverse of ``to_bytes``; ForeignState for anything else."""
        try:
            value: Mapping[str, Any] = canonical.loads(data, what="the epoch's setup")
            if value["layout"] != 1:
                raise ForeignState(f"the epoch's setup has layout {value['layout']}, expected 1")
            return cls(
                bytes.fromhex(value["roster"]),
                value["epoch"],
                value["me"],
                tuple(value["peers"]),
                bytes.fromhex(value["seed"]),
                _take(value["curve"]),
                _take(value["roots"]),
                bytes.fromhex(value["greeting"]),
                bytes.fromhex(value["ciphertexts"]),
                _take(value["met"]),
                _take(value["seen"]),
            )
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise ForeignState("the epoch's setup is damaged or of another program") from error


# -- what both sides check -----------------------------------------------------------------------------------------


def check_greeting(roster: Roster, sender: int, greeting: Greeting) -> None:
    """Raise unless this is the greeting of department ``sender`` under this very roster.

    Raises BadSignature: naming the department; SplitRoster: it countersigned another roster of this epoch;
    WrongFederation: of another epoch; BadGreeting: another's
    """
    who = _name(roster, sender)
    public = bytes.fromhex(roster.departments[sender].identity)
    greeting.check(public, who=who)
    if greeting.sender != sender:
        raise BadGreeting(f"{who} greets as department {greeting.sender}")
    _require_same_epoch(roster, greeting.roster, greeting.epoch, who=who)
    greeting.check_countersignature(public, who=who)
    if greeting.to and greeting.to[-1] >= len(roster.departments):
        raise BadGreeting(f"{who} greets department {greeting.to[-1]}, which is not in the roster")


def check_letter(roster: Roster, sender: int, head: bytes, body: Body, peers: Iterable[int]) -> Greeting:
    """What the coordinator checks before it passes a greeting on: all that its receivers will, but the secrets.

    Parameters  head, body: of the greeting's parcel; peers: whom ``sender`` needs a chain with
    Raises      as ``check_greeting``, and BadGreeting where ciphertexts are missing, changed or misaddressed
    """
    greeting = Greeting.decode(head)
    check_greeting(roster, sender, greeting)
    who = _name(roster, sender)
    if greeting.to != tuple(sorted(peer for peer in peers if peer > sender)):
        raise BadGreeting(f"{who} does not greet the departments that it should")
    if memoryview(body).nbytes != CIPHERTEXT_BYTES * len(greeting.to):
        raise BadGreeting(f"{who} sent {memoryview(body).nbytes} bytes of ciphertexts for {len(greeting.to)}")
    for at, digest in enumerate(greeting.sealed):
        if not same(ciphertext_digest(_cut(body, at)), digest):
            raise BadGreeting(f"the ciphertexts of {who} are not the ones it signed")
    return greeting


def introduction(
    identity: Identity, roster: Roster, to: int, greetings: Mapping[int, tuple[bytes, bytes]]
) -> tuple[bytes, bytes]:
    """Head and body that introduce departments to ``to``.

    Parameters  greetings: head and body of each department's greeting parcel, checked, by number
    """
    letters = []
    for sender in sorted(greetings):
        head, ciphertexts = greetings[sender]
        addressed = _addressed(head)
        letters.append((head, _cut(ciphertexts, addressed.index(to)) if to in addressed else b""))
    body = put_letters(letters)
    head = Introduce.signed(
        identity, roster=roster.digest, epoch=roster.epoch, who=tuple(sorted(greetings)), body=sha256(body)
    ).encode()
    return head, body


@lru_cache(maxsize=1024)
def _addressed(head: bytes) -> tuple[int, ...]:
    """Whom a greeting addresses; each is asked about once for every department it is passed on to."""
    return Greeting.decode(head).to


def acquainted(
    present: Iterable[int], met: Mapping[int, Collection[int]], peers: Mapping[int, Collection[int]]
) -> tuple[int, ...]:
    """Those of ``present`` who have all met one another, as far as they are peers; who lacks most is left out first.

    Parameters  met: whom each has verified; peers: whom each needs a chain with
    """
    left = set(present)
    lacks = {at: (left & set(peers[at])) - set(met.get(at, ())) for at in left}
    lacking = {at: len(lacks[at]) for at in left}
    # A department that others have not met is as useless in a cohort as one that has not met others.
    lacked_by: dict[int, set[int]] = {at: set() for at in left}
    for at, strangers in lacks.items():
        for stranger in strangers:
            lacked_by[stranger].add(at)
            lacking[stranger] += 1
    while left:
        worst = max(sorted(left), key=lambda at: lacking[at])
        if lacking[worst] == 0:
            break
        left.discard(worst)
        for other in (*(lacks[worst] & left), *(lacked_by[worst] & left)):
            lacking[other] -= 1
    return tuple(sorted(left))


def _cut(ciphertexts: Body, at: int) -> bytes:
    return bytes(memoryview(ciphertexts)[at * CIPHERTEXT_BYTES : (at + 1) * CIPHERTEXT_BYTES])


def _require_same_epoch(roster: Roster, digest: bytes, epoch: int, *, who: str) -> None:
    if digest == roster.digest and epoch == roster.epoch:
        return
    if epoch == roster.epoch:
        raise SplitRoster(f"{who} has another roster of epoch {epoch} than this department")
    raise WrongFederation(f"{who} is in epoch {epoch} of some federation, this side in {roster.epoch}")


def _public_keys(roster: Roster, department: int) -> tuple[bytes, bytes]:
    member = roster.departments[department]
    return bytes.fromhex(member.agreement), bytes.fromhex(member.kem)


def _name(roster: Roster, department: int) -> str:
    return f"department {roster.departments[department].name!r}"


def _put(values: Mapping[int, bytes]) -> list[list[int | str]]:
    return [[at, value.hex()] for at, value in sorted(values.items())]


def _take(pairs: Iterable[tuple[int, str]]) -> dict[int, bytes]:
    return {at: bytes.fromhex(value) for at, value in pairs}
