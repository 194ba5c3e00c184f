"""The coordinator's end of the secure sum, for one round: uploads and answers in, one sum out; no I/O.

    uploading ──fix()──▶ opening ──finish()──▶ done

Uploads are checked, added to one accumulator and not kept.  ``fix`` settles the survivor set U; the driver stores
``snapshot()`` durably *before* it sends the first opening, and after a crash goes on from it with the same U, for
members answer only one.  Nothing here ever holds a single department's contribution in the clear.

Errors about one department (PeerError) leave the round as it was: the caller treats that department as dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
from commonroot.common.messages import Masked, Open, Previous, RoundOpen, RunClose, Shares, opened_digest
from commonroot.common.roster import Roster
from commonroot.common.secure_sum import snapshots
from commonroot.common.secure_sum.edges import commit_pair, commit_self, others, smallest_cohort, wanted
from commonroot.common.secure_sum.lanes import Layout, Words, Words64
from commonroot.common.secure_sum.masks import Signed, add_streams, sign
from commonroot.common.secure_sum.pieces import body_digest, digests
from commonroot.common.secure_sum.primitives import Identity, same, sha256
from commonroot.common.secure_sum.recovery import recover
from commonroot.common.secure_sum.shares import SECRET_BYTES, point

Body = bytes | bytearray | memoryview
Sums = tuple[Words, Words64]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What stays of an upload: its head's hash, and by department the boxes and the commitments (own b at its own)."""

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
        least = smallest_cohort(roster.parameters, floor)
        if len(opening.cohort) < least or opening.cohort[-1] >= len(roster.departments):
            raise BadCohort(f"a cohort of {len(opening.cohort)}: at least {least} are needed, all from the roster")
        self.roster = roster
        self.opening = opening
        self.transcript = opening.transcript
        self.floor = max(roster.parameters.survivors_min, floor)
        self._identity = identity
        self._layout = layout
        self._sum: Sums = (np.zeros(layout.bulk, dtype=layout.word), np.zeros(layout.exact, dtype="<u8"))
        self._kept: dict[int, _Kept] = {}
        self._survivors: tuple[int, ...] | None = None
        self._answers: dict[int, Shares] = {}
        self._liars: frozenset[int] = frozenset()
        self._done = False

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
        if self._survivors is not None:
            return False
        expected = self._layout.nbytes
        if memoryview(body).nbytes != expected:
            raise WrongSize(f"the upload of {self._name(sender)} has {memoryview(body).nbytes} bytes, not {expected}")
        if not same(body_digest(pieces or digests(body)), masked.body):
            raise BroadcastMismatch(f"the upload of {self._name(sender)} is not the one it signed")
        cohort = self.opening.cohort
        kept = _Kept(
            sha256(head),
            dict(zip(cohort, masked.boxes, strict=True)),
            dict(zip((sender, *others(cohort, sender)), masked.commitments, strict=True)),
        )
        for peer, theirs in self._kept.items():
            if not same(kept.commitments[peer], theirs.commitments[sender]):
                raise CommitmentMismatch(
                    f"{self._name(sender)} and {self._name(peer)} committed to different secrets; "
                    f"the upload of {self._name(sender)} is left out"
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
        if len(masked.boxes) != len(self.opening.cohort):
            raise WrongSize(f"{self._name(sender)} sent {len(masked.boxes)} boxes to a cohort of another size")
        return masked

    def fix(self) -> tuple[int, ...]:
        """Settle the survivor set: all whose uploads were added.  It never changes again.

        Raises NotEnoughUploads below the floor; more uploads may still be added then.
        """
        if self._survivors is None:
            if len(self._kept) < self.floor:
                raise NotEnoughUploads(f"{len(self._kept)} uploads, at least {self.floor} are needed")
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

    def open_for(self, member: int) -> bytes:
        """The head of M3 for one member of the cohort, the same bytes each time."""
        if member not in self.opening.cohort:
            raise UsageError(f"department {member} is not in this round's cohort")
        return Open.signed(
            self._identity,
            transcript=self.transcript,
            round=self.opening.round,
            survivors=self.survivors,
            boxes=tuple(self._kept[sender].boxes[member] for sender in self.survivors),
        ).encode()

    def shares(self, member: int, head: bytes) -> bool:
        """Take one member's answer; False for a repeat.

        Raises Malformed, WrongVersion, BadSignature; UnknownRound: another round, survivor set or sender; BadShare: the
        wrong number of shares, or a second, different answer (the first stands)
        """
        shares = Shares.decode(head)
        if member not in self.opening.cohort or shares.member != member:
            raise UnknownRound(f"an answer of department {shares.member} came from {member}, or outside the cohort")
        shares.check(self._public(member), who=self._name(member))
        if shares.transcript != self.transcript or shares.opened != self.opened_digest:
            raise UnknownRound(f"the answer of {self._name(member)} is not for this round and survivor set")
        if len(shares.shares) != len(wanted(self.opening.cohort, self.survivors)):
            raise BadShare(f"{self._name(member)} answered with {len(shares.shares)} shares")
        if member in self._answers:
            if self._answers[member].shares != shares.shares:
                raise BadShare(f"{self._name(member)} answered twice, differently")
            return False
        self._answers[member] = shares
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

    def finish(self, *, threads: int = 1) -> Sums:
        """Unmask: the ring sums over the survivors' words, for ``SumCodec.decode``.

        Parameters  threads: how many share the keystreams
        Raises  NotEnoughShares: fewer than the quorum, or none of the secrets can be told from lies; more answers may
                help, then ``finish`` may be called again
                BadShare: everyone answered and yet some department's secrets do not come back, so its shares, or too
                many answers about them, are wrong: the round is lost
        """
        if not self._done:
            secrets = self._recover()
            streams: list[Signed] = []
            for (dealer, of), secret in secrets.items():
                streams.append((-1 if of == dealer else -sign(dealer, of), secret))
            add_streams(*self._sum, streams, threads=threads)
            self._done = True
        return self._sum

    def _recover(self) -> dict[tuple[int, int], bytes]:
        quorum = self.roster.parameters.opening_quorum
        if not self.ready:
            raise NotEnoughShares(f"{len(self._answers)} members answered, {quorum} are needed")
        keys = wanted(self.opening.cohort, self.survivors)
        members = self.answered
        flat = b"".join(share for member in members for share in self._answers[member].shares)
        shares = np.frombuffer(flat, dtype=np.uint8).reshape(len(members), len(keys), SECRET_BYTES)
        found = recover(
            [point(m) for m in members],
            shares,
            [dealer for dealer, _ in keys],
            quorum,
            lambda s, v: self._holds(keys[s], v),
            colluders=self.roster.parameters.colluders,
        )
        self._liars = frozenset(members[row] for row in found.liars)
        if found.failed:
            names = ", ".join(self._name(dealer) for dealer in found.failed)
            if len(members) < len(self.opening.cohort):
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
        if self._done:
            raise UsageError("the round is over: its sum was unmasked")
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
                dict(zip(opening.cohort, boxes, strict=True)),
                dict(zip((i, *others(opening.cohort, i)), commitments, strict=True)),
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
