"""The coordinator's end of the secure sum, for one round: uploads and answers in, one sum out; no I/O.

    uploading ──fix()──▶ opening ──finish()──▶ done
            └──▶ confirming ──▲

Uploads are checked, added to one accumulator and not kept.  ``fix`` settles the survivor set U; the driver stores
``snapshot()`` durably *before* it sends the first message about it, and after a crash goes on from it with the same U,
for members commit to only one.  Where U is not the whole cohort, members first confirm it, a quorum of them, and every
opening carries their signatures; after a crash they are collected again and are the same.  Nothing here ever holds a
single department's contribution in the clear.

Errors about one department (PeerError) leave the round as it was: the caller treats that department as dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from commonroot.common.errors import (
    BadCohort,
    BadShare,
    BroadcastMismatch,
    CommitmentMismatch,
    ForeignState,
    NotEnoughShares,
    NotEnoughUploads,
    StaleRound,
    UnknownRound,
    UsageError,
    WrongSize,
)
from commonroot.common.messages import (
    Confirm,
    Confirmed,
    Masked,
    Open,
    Previous,
    RoundOpen,
    RunClose,
    Shares,
    opened_digest,
)
from commonroot.common.roster import Roster
from commonroot.common.secure_sum import snapshots
from commonroot.common.secure_sum.edges import RoundEdges, cohort_fault, commit_pair, commit_self
from commonroot.common.secure_sum.graph import MaskGraph
from commonroot.common.secure_sum.lanes import Layout, Words, Words64
from commonroot.common.secure_sum.masks import Signed, add_streams, sign
from commonroot.common.secure_sum.pieces import body_digest, digests
from commonroot.common.secure_sum.primitives import Identity, same, sha256
from commonroot.common.secure_sum.recovery import recover
from commonroot.common.secure_sum.shares import SECRET_BYTES, Bytes2
from commonroot.common.secure_sum.states import SUM, SumEvent, SumState

Body = bytes | bytearray | memoryview
Sums = tuple[Words, Words64]
#: Masks taken off in one walk over the sum; each holds a cipher's state meanwhile.
_STREAMS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class _Kept:
    """What stays of an upload: its head's hash, boxes by member, commitments by neighbour (own b at its own number)."""

    head: bytes
    boxes: dict[int, bytes] = field(repr=False)
    commitments: dict[int, bytes] = field(repr=False)


class CoordinatorRound:
    """One round, from its RoundOpen to its sum.

    Parameters  roster; identity: the coordinator's; opening: the signed round-open; layout: of an upload
                (``SumCodec.layout``); floor: the charter's ``cohort.floor``, at least the roster's applies
    Raises      ForeignState: another roster's or coordinator's round; BadCohort: the cohort does not fit the roster or
                is smaller than what every department will insist on
    """

    def __init__(
        self, roster: Roster, identity: Identity, opening: RoundOpen, layout: Layout, *, floor: int = 0
    ) -> None:
        if opening.roster != roster.digest or opening.epoch != roster.epoch:
            raise ForeignState("the round is of another roster or epoch")
        if identity.public.hex() != roster.coordinator:
            raise ForeignState("the identity is not the coordinator's in this roster")
        opening.check(identity.public, who="the coordinator")
        if opening.cohort[-1] >= len(roster.departments):
            raise BadCohort(f"the cohort names department {opening.cohort[-1]}, which is not in the roster")
        if fault := cohort_fault(roster, opening.cohort, floor):
            raise BadCohort(fault)
        self.roster = roster
        self.opening = opening
        self.transcript = opening.transcript
        self.floor = max(roster.parameters.survivors_min, floor)
        self._identity = identity
        self._edges = RoundEdges.of(roster, opening.cohort)
        self._layout = layout
        self._sum: Sums = (np.zeros(layout.bulk, dtype=layout.word), np.zeros(layout.exact, dtype="<u8"))
        self._kept: dict[int, _Kept] = {}
        self._survivors: tuple[int, ...] | None = None
        self._confirmations: dict[int, bytes] = {}
        self._answers: dict[int, Bytes2] = {}
        self._liars: frozenset[int] = frozenset()
        self._doubtful = False
        self._done = False

    @property
    def state(self) -> SumState:
        """Where this round stands in ``states.SUM``."""
        if self._survivors is None:
            return SumState.UPLOADING
        if self._done:
            return SumState.DONE
        return SumState.OPENING if self._whole or self._enough else SumState.CONFIRMING

    @property
    def _whole(self) -> bool:
        """Did the whole cohort survive?  Then no pairwise secret is asked for, and nothing needs confirming."""
        return self.survivors == self.opening.cohort

    @property
    def _enough(self) -> bool:
        return len(self._confirmations) >= self.roster.parameters.opening_quorum

    # -- uploading -------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Length of an upload's body, and of the one accumulator that is kept."""
        return self._layout.nbytes

    @property
    def uploaded(self) -> tuple[int, ...]:
        """Departments whose uploads were added, in order."""
        return tuple(sorted(self._kept))

    def upload(self, sender: int, head: bytes, body: Body, pieces: tuple[bytes, ...] = ()) -> bool:
        """Check one upload and add it; False where it changes nothing (an exact repeat, or too late).

        Parameters  sender: the department the link belongs to; head, body: of its masked parcel; pieces: digests that
                    the link has checked the body against, or empty to have it hashed here
        Raises      Malformed, WrongVersion, BadSignature, UnknownRound: not of this round, cohort or sender; WrongSize;
                    BroadcastMismatch: the body is not what was signed; StaleRound: a second, different upload (the
                    first stands); CommitmentMismatch: naming both ends of an edge
        """
        masked = self._check_head(sender, head)
        if sender in self._kept:
            if not same(self._kept[sender].head, sha256(head)):
                raise StaleRound(f"{self._name(sender)} uploaded twice, differently; its first upload stands")
            return False
        if not SUM.allows(self.state, SumEvent.ADD):
            return False
        expected = self._layout.nbytes
        if memoryview(body).nbytes != expected:
            raise WrongSize(f"the upload of {self._name(sender)} has {memoryview(body).nbytes} bytes, not {expected}")
        if not same(body_digest(pieces or digests(body)), masked.body):
            raise BroadcastMismatch(f"the upload of {self._name(sender)} is not the one it signed")
        kept = _Kept(
            sha256(head),
            dict(zip(self._edges.members, masked.boxes, strict=True)),
            dict(zip(self._edges.dealt(sender), masked.commitments, strict=True)),
        )
        for peer in self._edges.neighbours(sender):
            theirs = self._kept.get(peer)
            if theirs is not None and not same(kept.commitments[peer], theirs.commitments[sender]):
                raise CommitmentMismatch(
                    f"{self._name(sender)} and {self._name(peer)} committed to different secrets; "
                    f"which of the two lied cannot be told, and the upload of {self._name(sender)} is left out"
                )
        for total, words in zip(self._sum, self._layout.split(body), strict=True):
            np.add(total, words, out=total)
        self._kept[sender] = kept
        return True

    def _check_head(self, sender: int, head: bytes) -> Masked:
        masked = Masked.decode(head)
        if sender not in self.opening.cohort or masked.sender != sender:
            raise UnknownRound(f"an upload of department {masked.sender} came from {sender}, or outside the cohort")
        masked.check(self._public(sender), who=self._name(sender))
        if masked.transcript != self.transcript:
            raise UnknownRound(f"the upload of {self._name(sender)} is not for this round")
        if len(masked.boxes) != len(self._edges.members):
            raise WrongSize(f"{self._name(sender)} sent {len(masked.boxes)} boxes to a cohort of another size")
        if len(masked.commitments) != len(self._edges.dealt(sender)):
            raise WrongSize(f"{self._name(sender)} made {len(masked.commitments)} commitments, not one per secret")
        return masked

    def fix(self) -> tuple[int, ...]:
        """Settle the survivor set: all whose uploads were added.  It never changes again.

        Raises NotEnoughUploads below the floor or against the window rule; more uploads may still be added then.
        """
        if self._survivors is None:
            if len(self._kept) < self.floor:
                raise NotEnoughUploads(f"{len(self._kept)} uploads, at least {self.floor} are needed")
            if thin := MaskGraph.of(self.roster).thin(self._kept, self.roster.parameters.colluders):
                raise NotEnoughUploads(f"of {len(self._kept)} uploads, {thin}")
            self._survivors = self.uploaded
        return self._survivors

    # -- opening ---------------------------------------------------------------------------------------------------

    @property
    def survivors(self) -> tuple[int, ...]:
        """U.  UsageError before ``fix``."""
        if self._survivors is None:
            raise UsageError("the survivor set was not fixed yet")
        return self._survivors

    @property
    def opened_digest(self) -> bytes:
        """H(T, U), for M5 and the journal."""
        return opened_digest(self.transcript, self.survivors)

    @property
    def members(self) -> tuple[int, ...]:
        """Committee members in the cohort, in order: those that are asked to open."""
        return self._edges.members

    @property
    def confirm_request(self) -> bytes:
        """The head that asks members to confirm U, the same bytes for each.  UsageError where there is no need to."""
        SUM.after(self.state, SumEvent.ASK_CONFIRM)
        return Confirm.signed(
            self._identity, transcript=self.transcript, round=self.opening.round, survivors=self.survivors
        ).encode()

    def confirmation(self, member: int, head: bytes) -> bool:
        """Take one member's confirmation; False where it changes nothing (a repeat, or more than are needed).

        Raises Malformed, WrongVersion, BadSignature; UnknownRound: another round, survivor set or sender; UsageError
        before ``fix``
        """
        SUM.after(self.state, SumEvent.CONFIRM)
        confirmed = Confirmed.decode(head)
        if member not in self.members or confirmed.member != member:
            raise UnknownRound(f"a confirmation of department {confirmed.member} came from {member}, or from no member")
        confirmed.check(self._public(member), who=self._name(member))
        if confirmed.opened != self.opened_digest:
            raise UnknownRound(f"the confirmation of {self._name(member)} is not of this round and survivor set")
        if self._enough:
            return False
        new = member not in self._confirmations
        self._confirmations[member] = confirmed.signature
        return new

    @property
    def confirmed(self) -> bool:
        """May members be asked to open: is U the whole cohort, or confirmed by a quorum?"""
        return self._whole or self._enough

    def open_for(self, member: int) -> bytes:
        """The head of M3 for one of ``members``, the same bytes each time.  UsageError before U is ``confirmed``."""
        SUM.after(self.state, SumEvent.ASK)
        if member not in self.members:
            raise UsageError(f"department {member} does not open this round")
        confirmations = sorted(self._confirmations.items())
        return Open.signed(
            self._identity,
            transcript=self.transcript,
            round=self.opening.round,
            survivors=self.survivors,
            boxes=tuple(self._kept[sender].boxes[member] for sender in self.survivors),
            confirmed_by=tuple(who for who, _ in confirmations),
            confirmations=tuple(signature for _, signature in confirmations),
        ).encode()

    def shares(self, member: int, head: bytes) -> bool:
        """Take one member's answer; False for a repeat.

        Raises Malformed, WrongVersion, BadSignature; UnknownRound: another round, survivor set or sender; BadShare: the
        wrong number of shares, or a second, different answer (the first stands); UsageError before U is ``confirmed``
        """
        SUM.after(self.state, SumEvent.TAKE)
        shares = Shares.decode(head)
        if member not in self.members or shares.member != member:
            raise UnknownRound(f"an answer of department {shares.member} came from {member}, or from no member")
        shares.check(self._public(member), who=self._name(member))
        if shares.transcript != self.transcript or shares.opened != self.opened_digest:
            raise UnknownRound(f"the answer of {self._name(member)} is not for this round and survivor set")
        if len(shares.shares) != len(self._wanted):
            raise BadShare(f"{self._name(member)} answered with {len(shares.shares)} shares")
        flat = np.frombuffer(b"".join(shares.shares), dtype=np.uint8).reshape(-1, SECRET_BYTES)
        if member in self._answers:
            if not np.array_equal(self._answers[member], flat):
                raise BadShare(f"{self._name(member)} answered twice, differently")
            return False
        self._answers[member] = flat
        return True

    @property
    def answered(self) -> tuple[int, ...]:
        """Members whose answers were taken, in order."""
        return tuple(sorted(self._answers))

    @property
    def ready(self) -> bool:
        """Did an opening quorum answer?  ``finish`` may still need more where somebody lied."""
        return len(self._answers) >= self.roster.parameters.opening_quorum

    @property
    def liars(self) -> tuple[int, ...]:
        """After ``finish``: members whose shares are not the ones dealt, in order, as far as ``recovery`` can tell."""
        return tuple(sorted(self._liars))

    @property
    def doubtful(self) -> bool:
        """After ``finish``: do answers contradict each other beyond what ``liars`` explains?  See ``name_liars``."""
        return self._doubtful

    def name_liars(self) -> tuple[int, ...]:
        """``liars`` once more, from all answers that were taken by now, ``finish`` or not."""
        self._recover()
        return self.liars

    def finish(self, *, threads: int = 1) -> Sums:
        """Unmask: the ring sums over the survivors' words, for ``SumCodec.decode``.

        Parameters  threads: how many share the keystreams
        Raises  NotEnoughShares: fewer than the quorum, or none of the secrets can be told from lies; more answers may
                help, then ``finish`` may be called again
                BadShare: everyone answered and yet some department's secrets do not come back, so its shares, or too
                many answers about them, are wrong: the round is lost
                UsageError before U is ``confirmed``
        """
        SUM.after(self.state, SumEvent.UNMASK)
        if not self._done:
            secrets = self._recover()
            streams: list[Signed] = []
            for (dealer, of), secret in secrets.items():
                streams.append((-1 if of == dealer else -sign(dealer, of), secret))
            for at in range(0, len(streams), _STREAMS_AT_ONCE):
                add_streams(*self._sum, streams[at : at + _STREAMS_AT_ONCE], threads=threads)
            self._done = True
        return self._sum

    @cached_property
    def _wanted(self) -> list[tuple[int, int]]:
        return self._edges.wanted(self.survivors)

    def _recover(self) -> dict[tuple[int, int], bytes]:
        quorum = self.roster.parameters.opening_quorum
        if not self.ready:
            raise NotEnoughShares(f"{len(self._answers)} members answered, {quorum} are needed")
        keys = self._wanted
        members = self.answered
        points = dict(zip(self.members, self._edges.points, strict=True))
        found = recover(
            [points[member] for member in members],
            np.stack([self._answers[member] for member in members]),
            [dealer for dealer, _ in keys],
            quorum,
            lambda s, v: self._holds(keys[s], v),
            colluders=self.roster.parameters.colluders,
        )
        self._liars = frozenset(members[row] for row in found.liars)
        self._doubtful = found.doubtful
        if found.failed:
            names = ", ".join(self._name(dealer) for dealer in found.failed)
            if len(members) < len(self.members):
                raise NotEnoughShares(f"among {len(members)} answers some lie: the secrets of {names} do not come back")
            raise BadShare(f"the shares dealt by {names} do not come back from all {len(members)} answers")
        return {key: secret.tobytes() for key, secret in zip(keys, found.secrets, strict=True)}

    def _holds(self, key: tuple[int, int], secret: bytes) -> bool:
        dealer, of = key
        made = commit_self(self.transcript, dealer, secret) if of == dealer else commit_pair(self.transcript, secret)
        return same(made, self._kept[dealer].commitments[of])

    # -- crash and resumption --------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Everything needed to go on after a crash: the round, U, the masked sum, boxes and commitments.

        Raises UsageError before ``fix`` and after ``finish``.
        """
        SUM.after(self.state, SumEvent.STORE)
        kept = self._kept
        return snapshots.encode(
            snapshots.Snapshot(
                opening=self.opening.encode(),
                floor=self.floor,
                survivors=self.survivors,
                heads=tuple(kept[i].head for i in self.survivors),
                boxes=tuple(tuple(kept[i].boxes.values()) for i in self.survivors),
                commitments=tuple(tuple(kept[i].commitments.values()) for i in self.survivors),
                bulk=self._sum[0],
                exact=self._sum[1],
            )
        )

    @classmethod
    def restore(cls, roster: Roster, identity: Identity, data: bytes) -> CoordinatorRound:
        """A round that goes on where ``snapshot`` left it; answers are asked for again.

        Raises ForeignState for a damaged snapshot or another federation's
        """
        s = snapshots.decode(data)
        opening = RoundOpen.decode(s.opening)
        machine = cls(roster, identity, opening, s.layout, floor=s.floor)
        machine._sum = (s.bulk, s.exact)
        for i, head, boxes, commitments in zip(s.survivors, s.heads, s.boxes, s.commitments, strict=True):
            machine._kept[i] = _Kept(
                head,
                dict(zip(machine._edges.members, boxes, strict=True)),
                dict(zip(machine._edges.dealt(i), commitments, strict=True)),
            )
        machine._survivors = s.survivors
        return machine

    # -- names -----------------------------------------------------------------------------------------------------

    def _public(self, department: int) -> bytes:
        return bytes.fromhex(self.roster.departments[department].identity)

    def _name(self, department: int) -> str:
        return f"department {self.roster.departments[department].name!r}"


def close_run(
    identity: Identity, roster: Roster, *, charter: bytes, round: int, version: int, body: Body, previous: Previous
) -> RunClose:
    """The signed end of a run: ``body`` is the final broadcast, ``round`` the last round number used."""
    return RunClose.signed(
        identity,
        charter=charter,
        roster=roster.digest,
        epoch=roster.epoch,
        round=round,
        version=version,
        broadcast=sha256(body),
        previous=previous,
    )
