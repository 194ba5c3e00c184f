"""One round: open, gather masked uploads, fix the survivors, open their sum, combine.

The order of the numbered steps is what makes a crash harmless; each is either not begun or in the journal:

1. journal ``open`` with the signed RoundOpen         (a restart sends the same request again: same transcript, and
                                                        departments repeat the upload they made)
2. collect uploads into one accumulator
3. journal ``fixed`` with survivor set and accumulator (a restart asks for exactly this set again, and no other)
4. where somebody of the cohort was lost: collect confirmations of this set until the quorum
5. collect opening shares until the quorum
6. store the new backbone, then journal ``closed`` with it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from commonroot.common import parcel
from commonroot.common.charter import Charter
from commonroot.common.errors import (
    BadShare,
    CommonrootError,
    HasLeft,
    NotApproved,
    NotEnoughShares,
    NotEnoughUploads,
    OutsidePolicy,
    Paused,
    PeerError,
    Refused,
)
from commonroot.common.messages import Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import Opened, SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound, Sums
from commonroot.common.secure_sum.lanes import Words, Words64
from commonroot.common.secure_sum.masks import useful_threads
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal

#: How long members are listened to only to tell who lied, in seconds.
_NAMING = 5.0

#: (department, code, what) of something that went wrong with one department.
OnFault = Callable[[str, str, str], None]
#: (department, code, parcel): the parcel that a department is blamed for, which may bear its signature.
OnExhibit = Callable[[str, str, Parcel], None]


@dataclass(slots=True)
class Account:
    """What arrived from departments, by kind: parcels and bytes."""

    parcels: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Parcel) -> None:
        """Count one parcel; what a department calls something else is no kind."""
        if reply.kind not in parcel.TO_COORDINATOR:
            return
        self.parcels[reply.kind] += 1
        self.size[reply.kind] += len(reply)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Kind → (parcels, bytes)."""
        return {kind: (self.parcels[kind], self.size[kind]) for kind in self.parcels}


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A closed round: the opened sum, who is in it, and what ties it to the members' answers."""

    opened: Opened
    survivors: tuple[int, ...]
    opened_digest: bytes
    aggregate_digest: bytes
    report: dict[str, Any]


class _Openings(Mapping[int, Parcel]):
    """What each committee member is asked, made when it is sent: with 1,000 departments it is 2 MB for each member."""

    def __init__(self, machine: CoordinatorRound, members: Sequence[int]) -> None:
        self._machine = machine
        self._members = members

    def __getitem__(self, who: int) -> Parcel:
        return Parcel(parcel.OPEN, self._machine.open_for(who))

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class RoundDriver:
    """Drives one round's machine over an exchange, writing ahead to the journal."""

    def __init__(
        self,
        *,
        roster: Roster,
        identity: Identity,
        charter: Charter,
        journal: Journal,
        exchange: Exchange,
        on_fault: OnFault,
        on_progress: Tell,
        on_exhibit: OnExhibit = lambda who, code, reply: None,
    ) -> None:
        self._roster = roster
        self._identity = identity
        self._charter = charter
        self._journal = journal
        self._exchange = exchange
        self._on_fault = on_fault
        self._on_progress = on_progress
        #: Who refused to upload never saw this round through, and cannot open it.
        self._refused: dict[int, str] = {}
        #: Who refused because its people do not want to take part now; its code, by number.
        self.unwilling: dict[int, str] = {}
        #: Who said good-bye instead of uploading; the parcel, by number.
        self.left: dict[int, Parcel] = {}
        self._on_exhibit = on_exhibit

    def drive(
        self, opening: RoundOpen, broadcast: bytes, snapshot: bytes | None, *, trained: Collection[int] = ()
    ) -> RoundResult:
        """From a journaled opening (and, after a crash, a journaled survivor set) to the opened sum.

        Parameters  trained: those of the cohort that have trained on the broadcast, and are not sent it again
        Raises RoundLost where the round comes to nothing.
        """
        codec = SumCodec.of_round(self._charter, self._roster, len(opening.cohort))
        account = Account()
        try:
            if snapshot is None:
                machine = CoordinatorRound(
                    self._roster,
                    self._identity,
                    opening,
                    codec.layout,
                    floor=self._charter.cohort.floor,
                )
                self._gather(machine, opening, broadcast, trained, account)
                self._fix(machine)
                self._journal.fix_round(
                    opening.round, machine.snapshot(), survivors=machine.survivors, opened=machine.opened_digest
                )
            else:
                machine = CoordinatorRound.restore(self._roster, self._identity, snapshot)
            deadline = self._exchange.now() + self._charter.timing.opening
            if not machine.confirmed:
                self._confirm(machine, account)
            self._on_progress("opening", {"round": opening.round, "survivors": list(machine.survivors)})
            bulk, exact = self._open(machine, account, seconds=deadline - self._exchange.now())
        finally:
            self._journal.count_received(account.counts())
        opened = codec.decode(bulk, exact, len(machine.survivors), np.asarray(opening.bounds, dtype=np.float32))
        uploads = account.parcels[parcel.MASKED]
        report = {
            "cohort": [self._name(who) for who in opening.cohort],
            "survivors": [self._name(who) for who in machine.survivors],
            "clipped_share": opened.clipped_share,
            "upload_bytes": account.size[parcel.MASKED] // uploads if uploads else 0,
            "share_bytes": account.size[parcel.SHARES] // max(1, account.parcels[parcel.SHARES]),
        }
        return RoundResult(opened, machine.survivors, machine.opened_digest, _digest(bulk, exact), report)

    # -- steps 2, 4 and 5 ---------------------------------------------------------------------------------------------

    def _gather(
        self,
        machine: CoordinatorRound,
        opening: RoundOpen,
        broadcast: bytes,
        trained: Collection[int],
        account: Account,
    ) -> None:
        request = Parcel(parcel.ROUND_OPEN, opening.encode(), broadcast)
        uploaded: set[int] = set()

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            try:
                expect(reply, parcel.MASKED)
                machine.upload(who, reply.head, reply.body, reply.pieces)
            except PeerError as error:
                self._blame(who, error, reply)
                if isinstance(error, Refused):
                    self._refused[who] = str(error)
                    if (said := code_of(reply)) in UNWILLING:
                        self.unwilling[who] = said
                if reply.kind == parcel.GOODBYE:
                    self.left[who] = reply
                return False
            uploaded.add(who)
            self._on_progress(
                "uploaded", {"round": opening.round, "uploads": len(uploaded), "department": self._name(who)}
            )
            return len(uploaded) == len(opening.cohort)

        requests = dict.fromkeys(opening.cohort, request)
        requests |= dict.fromkeys(trained, Parcel(parcel.ROUND_OPEN, request.head))
        self._exchange.ask(
            requests,
            seconds=self._charter.timing.upload,
            accept=accept,
            on_fault=self._link_fault,
        )

    def _fix(self, machine: CoordinatorRound) -> None:
        """Settle the survivor set, where it can be opened by those whom it holds.

        Who has not masked can neither confirm nor open, however often it is asked, and nothing else may ever be opened
        of a backbone whose set is fixed: with too few of its committee in it, such a set would end the run.  Without
        one the round is lost and the next is tried.

        Raises NotEnoughUploads, saying which departments refused and with what code.
        """
        try:
            opening, quorum = len({*machine.uploaded} & {*machine.members}), self._roster.parameters.opening_quorum
            if opening < quorum and len(machine.uploaded) >= machine.floor:
                raise NotEnoughUploads(f"{opening} of those who open sums uploaded; {quorum} are needed to open one")
            machine.fix()
        except NotEnoughUploads as error:
            told = "".join(f"; {self._name(who)!r} {self._refused[who]}" for who in sorted(self._refused))
            raise NotEnoughUploads(f"{error}{told}") from error

    def _confirm(self, machine: CoordinatorRound, account: Account) -> None:
        """Have the survivor set confirmed, in half of the time that there is for an opening."""
        request = Parcel(parcel.CONFIRM, machine.confirm_request)
        number = machine.opening.round
        self._on_progress("confirming", {"round": number, "survivors": list(machine.survivors)})

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            try:
                expect(reply, parcel.CONFIRMED)
                machine.confirmation(who, bytes(reply.head))
            except PeerError as error:
                self._blame(who, error, reply)
            return machine.confirmed

        self._exchange.ask(
            {who: request for who in machine.members if who not in self._refused},
            seconds=self._charter.timing.opening / 2,
            accept=accept,
            on_fault=self._link_fault,
        )
        if not machine.confirmed:
            quorum = self._roster.parameters.opening_quorum
            raise NotEnoughShares(f"the survivor set was not confirmed by {quorum} departments in time")

    def _open(self, machine: CoordinatorRound, account: Account, *, seconds: float) -> Sums:
        requests = _Openings(machine, [who for who in machine.members if who not in self._refused])
        result: list[Sums] = []
        answers: dict[int, Parcel] = {}

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            try:
                expect(reply, parcel.SHARES)
                machine.shares(who, reply.head)
            except PeerError as error:
                self._blame(who, error, reply)
                return False
            answers[who] = reply
            if not machine.ready:
                return False
            try:
                result.append(machine.finish(threads=useful_threads(machine.nbytes, len(machine.survivors))))
            except (PeerError, NotEnoughShares) as error:
                # Some member's shares are bad; with one more honest answer it may still open.
                self._on_fault("", error.code, str(error))
                return False
            return True

        self._exchange.ask(requests, seconds=seconds, accept=accept, on_fault=self._link_fault)
        if not result:
            quorum = self._roster.parameters.opening_quorum
            raise NotEnoughShares(f"the survivor set was not opened by {quorum} departments in time")
        if machine.doubtful:
            self._hear_more(machine, requests, answers, account)
        for liar in machine.liars:
            self._on_fault(self._name(liar), BadShare.code, "its shares contradict the commitments")
            self._on_exhibit(self._name(liar), BadShare.code, answers[liar])
        return result[0]

    def _hear_more(
        self, machine: CoordinatorRound, requests: Mapping[int, Parcel], answers: dict[int, Parcel], account: Account
    ) -> None:
        """The sum is there, but it takes more answers to tell who lied: ask the others again, for a short while."""
        more = {who: requests[who] for who in requests if who not in answers}

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            try:
                expect(reply, parcel.SHARES)
                machine.shares(who, reply.head)
            except PeerError as error:
                self._blame(who, error, reply)
            else:
                answers[who] = reply
            return False

        self._exchange.ask(more, seconds=min(_NAMING, self._charter.timing.opening), accept=accept)
        with suppress(PeerError, NotEnoughShares):  # more lies than can be told apart: nobody is named
            machine.name_liars()
        if machine.doubtful:
            self._on_fault("", BadShare.code, "some answers contradict others; whose fault it is cannot be told")

    # -- small things ----------------------------------------------------------------------------------------------

    def _name(self, who: int) -> str:
        return self._roster.departments[who].name

    def _blame(self, who: int, error: CommonrootError, reply: Parcel) -> None:
        self._on_fault(self._name(who), error.code, str(error))
        self._on_exhibit(self._name(who), error.code, reply)

    def _link_fault(self, who: int, reason: str) -> None:
        self._on_fault(self._name(who), "link", reason)


def expect(reply: Parcel, kind: str) -> None:
    """Raise Refused for a refusal, Malformed for any other kind than the one asked for."""
    if reply.kind == kind:
        return
    if reply.kind == parcel.REFUSAL and not reply.head:
        raise Refused("failed inside the department; its log says more")
    if reply.kind == parcel.REFUSAL:
        refusal = Refusal.decode(reply.head)
        raise Refused(f"refused with {refusal.code}")
    raise Refused(f"answered with {reply.kind[:32]!r} where {kind!r} was asked for")


#: Codes by which a department says that it does not take part at the moment, or not under this charter.
UNWILLING: Final = frozenset({NotApproved.code, OutsidePolicy.code, Paused.code, HasLeft.code})


def code_of(reply: Parcel) -> str:
    """The code of a refusal; empty for anything else, and for one that names none."""
    if reply.kind != parcel.REFUSAL or not reply.head:
        return ""
    try:
        return Refusal.decode(reply.head).code
    except PeerError:
        return ""


def _digest(bulk: Words, exact: Words64) -> bytes:
    return sha256(bulk.view(np.uint8).data, exact.view(np.uint8).data)
