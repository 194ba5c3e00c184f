"""The department's end of the secure sum: requests in, replies and a new memory out; no I/O.

Rule 1  a round number is used once, for one transcript
Rule 2  nothing is masked that was not reviewed against the charter and the roster
Rule 3  at most one survivor set is confirmed or opened per round, and the memory of it is durable before anything
        leaves; of fewer than the whole cohort, none is opened that an opening quorum has not confirmed, since a share
        does not show for which set it was given
Rule 4  at most one survivor set is confirmed or opened per backbone, however many rounds are tried on it: its
        contribution is a function of the backbone, and two sums of the same values can be subtracted
Rule 5  for every department a share of its own secret or shares of its pairwise ones is given, never both kinds
Rule 6  no survivor set is confirmed or opened that colluders could split: the window rule of ``graph``

``mask``, ``confirm`` and ``answer`` return a new memory with each message.  The driver writes it (and, after ``mask``,
the body) and fsyncs *before* it sends the message; if the write fails, it drops the machine and starts from what is on
disk.

What rolls back: a department restored from an old backup may mask a second time for one transcript.  The pairwise
masks repeat, but b_i is fresh, boxes are sealed under fresh keys, and members answer once per round, so a quorum opens
at most one of the two.  A *member* whose memory was rolled back can be made to confirm and answer twice: it counts
among the t_c colluders the parameters allow for.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from commonroot.common.charter import Charter
from commonroot.common.errors import (
    AnotherSurvivorSet,
    BadBox,
    BadCohort,
    BroadcastMismatch,
    ForeignState,
    NotIntroduced,
    OutsideCharter,
    ResultMismatch,
    SecondSurvivorSet,
    StaleRound,
    TooFewSurvivors,
    UnknownRound,
    UsageError,
    WrongFederation,
    WrongSize,
)
from commonroot.common.messages import (
    BOX_SALT_BYTES,
    Confirm,
    Confirmed,
    Masked,
    Open,
    Previous,
    Ready,
    RoundOpen,
    RunClose,
    Shares,
    Train,
)
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.committee import Committee
from commonroot.common.secure_sum.confirmations import require_confirmed
from commonroot.common.secure_sum.edges import (
    RoundEdges,
    cohort_fault,
    commit_pair,
    commit_self,
    open_box,
    pair_secret,
    seal_box,
)
from commonroot.common.secure_sum.graph import MaskGraph
from commonroot.common.secure_sum.lanes import Layout, Words, Words64
from commonroot.common.secure_sum.masks import Signed, add_streams, fill_streams, join_body, sign
from commonroot.common.secure_sum.memory import Commitment, DepartmentMemory, Upload
from commonroot.common.secure_sum.pieces import body_digest, digests
from commonroot.common.secure_sum.precompute import Dealt, Prepared
from commonroot.common.secure_sum.primitives import KEY_BYTES, Identity, Random, sha256
from commonroot.common.secure_sum.shares import SECRET_BYTES, split
from commonroot.common.secure_sum.states import KeyState

Body = bytes | bytearray | memoryview


class DepartmentMachine:
    """One department in one epoch.

    Parameters  roster: the pinned roster; identity: this department's; memory: ``DepartmentMemory.begin`` or what was
                stored last
    Raises      WrongFederation where the identity is not in the roster; ForeignState for another epoch's memory
    """

    def __init__(self, roster: Roster, identity: Identity, memory: DepartmentMemory) -> None:
        self.roster = roster
        self.me = roster.index_of(identity.public)
        if (memory.roster, memory.epoch, memory.me) != (roster.digest, roster.epoch, self.me):
            raise ForeignState("the department's memory is of another roster, epoch or department")
        if len(memory.chains.rounds) != len(roster.departments):
            raise ForeignState("the department's memory does not fit the roster")
        self._identity = identity
        self._memory = memory
        self._opens = self.me in Committee.of(roster).members
        self._reviewed: tuple[bytes, int] | None = None
        self._layout: Layout | None = None
        self._pieces: tuple[bytes, ...] = ()

    @property
    def memory(self) -> DepartmentMemory:
        """What to store."""
        return self._memory

    def adopt(self, memory: DepartmentMemory) -> None:
        """Go on with a memory that holds more chains (``epoch.EpochSetup.introduce``), once it is durable.

        Raises UsageError where anything but chains would change.
        """
        if replace(memory, chains=self._memory.chains) != self._memory or memory.chains.at != self._memory.chains.at:
            raise UsageError("an introduction adds chains and changes nothing else")
        self._memory = memory

    def pass_over(self, asked: RoundOpen | Train) -> DepartmentMemory:
        """Close the backbone of a reviewed request, and all before it, to this department for good; store the memory.

        For a department that was restored from a backup and does not know what it opened after that was made.
        """
        self._memory = self._memory.passed_over(asked)
        return self._memory

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Digests of the pieces of the body that ``mask`` made last, for the link."""
        return self._pieces

    # -- M1 --------------------------------------------------------------------------------------------------------

    def review(self, head: bytes, body: Body, *, charter: Charter) -> RoundOpen:
        """Check a request to contribute; nothing changes yet.

        Parameters  head, body: of the round-open parcel; charter: the approved one this request should belong to
        Raises      Malformed, WrongVersion, BadSignature; WrongFederation: roster, epoch or charter; StaleRound: the
                    round was used with other contents or lies beyond the roster's last; BadCohort; NotIntroduced;
                    AnotherSurvivorSet: a backbone that is closed for good; OutsideCharter: manifest, bounds or
                    deadline; WrongSize, BroadcastMismatch: the body; ResultMismatch: M5
        An exact repeat of the round last masked for passes, with its broadcast or without; see ``repeat``.
        """
        opened = RoundOpen.decode(head)
        self._check_origin(opened, charter)
        last = self._memory.upload
        same = last is not None and last.transcript == opened.transcript
        if opened.round <= self._memory.round and not same:
            raise StaleRound(f"round {opened.round} was used already, with other contents or as an earlier round")
        self._check_step(opened, charter)
        newest, asked = self._memory.newest_version(opened.charter)
        if opened.version == newest and asked is not None and asked != opened.asked:
            raise StaleRound(f"version {newest} of the backbone again, with another broadcast or other bounds")
        floor = self._check_cohort(opened.cohort, charter)
        if opened.manifest != charter.manifest.digest:
            raise OutsideCharter("the manifest is not the charter's")
        codec = SumCodec.of_round(charter, self.roster, len(opened.cohort))
        codec.check_bounds(opened.bounds)
        _check_seconds(opened.upload_seconds, charter)
        if not (same and memoryview(body).nbytes == 0):
            _check_broadcast(opened.broadcast, body, charter)
        self._check_previous(opened.previous)
        self._reviewed, self._layout = (opened.transcript, floor), codec.layout
        return opened

    def review_train(self, head: bytes, body: Body, *, charter: Charter) -> Train:
        """Check a request to train before the round opens; raises as ``review`` does.

        Nothing is masked for it and nothing remembered: what it asks for is a function of charter and version.
        OutsideCharter where the charter has no ready stage.
        """
        asked = Train.decode(head)
        self._check_origin(asked, charter)
        if not charter.trains_first(self.roster):
            raise OutsideCharter("a request to train ahead; under this charter and roster rounds have no ready stage")
        if asked.round <= self._memory.round:
            raise StaleRound(f"training for round {asked.round} after round {self._memory.round}")
        self._check_step(asked, charter)
        last = self._memory.upload
        same_version = last is not None and (last.charter, last.version) == (asked.charter, asked.version)
        if last is not None and same_version and last.broadcast != asked.broadcast:
            raise StaleRound(f"version {asked.version} of the backbone again, with another broadcast")
        _check_seconds(asked.seconds, charter)
        _check_broadcast(asked.broadcast, body, charter)
        return asked

    def ready(self, asked: Train) -> bytes:
        """The head that says: trained, and waiting for the round to open."""
        return Ready.signed(self._identity, asked=asked.digest, sender=self.me).encode()

    def repeat(self, opened: RoundOpen) -> Upload | None:
        """The upload already made for this very request, which the driver sends again as it is; None for a new round.

        A driver that no longer has it sits the round out.
        """
        last = self._memory.upload
        return last if last is not None and last.transcript == opened.transcript else None

    def review_close(self, head: bytes, body: Body, *, charter: Charter) -> RunClose:
        """Check the end of a run and its final broadcast; raises as ``review`` does."""
        close = RunClose.decode(head)
        self._check_origin(close, charter)
        if close.round < self._memory.round:
            raise StaleRound(f"the run ends at round {close.round}, but this department was in {self._memory.round}")
        _check_broadcast(close.broadcast, body, charter)
        self._check_previous(close.previous)
        return close

    # -- M2 --------------------------------------------------------------------------------------------------------

    def prepare(self, opened: RoundOpen, random: Random, *, threads: int = 1) -> Prepared:
        """Everything of an upload that does not depend on data; nothing changes yet, and no other thread may review.

        Parameters  opened: what ``review`` returned; random: a cryptographic source; threads: for the keystreams
        Raises      UsageError where ``opened`` is not what was reviewed last, or was masked for already
        """
        _, layout = self._under_review(opened)
        dealt, streams = self._deal(opened, random)
        bulk, exact = layout.empty()
        fill_streams(bulk, exact, streams, threads=threads)
        return Prepared(dealt, bulk, exact)

    def _deal(self, opened: RoundOpen, random: Random) -> tuple[Dealt, list[Signed]]:
        """Fresh secrets for one upload: what others need of them, and the streams that they stand for."""
        transcript, edges = opened.transcript, RoundEdges.of(self.roster, opened.cohort)
        chains = self._memory.chains.forward(opened.round)
        peers = edges.neighbours(self.me)
        own = random(KEY_BYTES)
        pairs = [pair_secret(chains.rounds[peer], transcript) for peer in peers]
        secrets = np.frombuffer(b"".join((own, *pairs)), dtype=np.uint8).reshape(1 + len(pairs), SECRET_BYTES)
        shares = split(secrets, edges.points, self.roster.parameters.opening_quorum, random)
        salt = random(BOX_SALT_BYTES)
        boxes = tuple(
            seal_box(chains.rounds[member], transcript, self.me, member, salt, each.tobytes())
            for member, each in zip(edges.members, shares, strict=True)
        )
        commitments = (commit_self(transcript, self.me, own), *(commit_pair(transcript, s) for s in pairs))
        streams = [(1, own), *((sign(self.me, p), s) for p, s in zip(peers, pairs, strict=True))]
        return Dealt(transcript, chains, boxes, commitments), streams

    def mask(
        self, opened: RoundOpen, bulk: Words, exact: Words64, using: Prepared | Random
    ) -> tuple[bytes, memoryview, DepartmentMemory]:
        """Mask this department's words, in place, for a reviewed round.

        Parameters  opened: what ``review`` returned; bulk, exact: of ``SumCodec.encode``, overwritten;
                    using: what ``prepare`` made for this round, good for one call, or a source of randomness to
                    prepare from now
        Returns     (head, body, memory): store memory and body durably, then send head and body
        Raises      UsageError where ``opened`` is not what was reviewed last, or was masked for already, or where
                    ``using`` was prepared for something else or used before; WrongSize for words of another layout
        """
        transcript = opened.transcript
        floor, layout = self._under_review(opened)
        if not layout.fits(bulk, exact):
            raise WrongSize(f"expected {layout.bulk} + {layout.exact} words, found {bulk.size} + {exact.size}")
        if isinstance(using, Prepared):
            using.add_to(transcript, bulk, exact)
            dealt = using.dealt
        else:
            dealt, streams = self._deal(opened, using)
            add_streams(bulk, exact, streams)
        body = join_body(bulk, exact)
        self._pieces = digests(body)
        head = Masked.signed(
            self._identity,
            transcript=transcript,
            sender=self.me,
            body=body_digest(self._pieces),
            boxes=dealt.boxes,
            commitments=dealt.commitments,
        )
        upload = Upload(
            round=opened.round,
            transcript=transcript,
            cohort=opened.cohort,
            floor=floor,
            charter=opened.charter,
            version=opened.version,
            asked=opened.asked,
            broadcast=opened.broadcast,
            body=head.body,
        )
        # Whoever does not open has no further use for this round's keys.
        chains = dealt.chains if self._opens else dealt.chains.forward(opened.round + 1)
        self._memory = self._memory.with_upload(upload, chains)
        return head.encode(), body, self._memory

    def _under_review(self, opened: RoundOpen) -> tuple[int, Layout]:
        """The floor and layout of the round that was reviewed last, which must be this one and not masked for yet."""
        if self._reviewed is None or self._layout is None or self._reviewed[0] != opened.transcript:
            raise UsageError("a round must be reviewed before anything is masked for it")
        if opened.round <= self._memory.round:
            raise UsageError(f"round {opened.round} was masked for already; send that upload again")
        return self._reviewed[1], self._layout

    # -- M3 → M4 ---------------------------------------------------------------------------------------------------

    def confirm(self, head: bytes) -> tuple[bytes, DepartmentMemory]:
        """Commit to one survivor set for the round last masked for, before anybody gives a share for it.

        Returns     (head of the confirmation, memory): store the memory durably, then send
        Raises      Malformed, WrongVersion, BadSignature; UnknownRound: never masked for, or over; SecondSurvivorSet;
                    TooFewSurvivors; AnotherSurvivorSet
        The set that this department is committed to, by an answer too, is confirmed with the same bytes each time.
        """
        asked = Confirm.decode(head)
        last, given = self._asked_about(asked)
        if last is None:
            raise UnknownRound(f"round {asked.round} is not the last one masked for")
        if given is None:
            self._check_survivors(asked, last)
            self._memory = self._memory.with_confirmation(Commitment(asked.round, asked.opened), last, asked.survivors)
        return Confirmed.signed(self._identity, opened=asked.opened, member=self.me).encode(), self._memory

    def answer(self, head: bytes) -> tuple[bytes, DepartmentMemory]:
        """Open one survivor set for the round last masked for.

        Returns     (head of the answer, memory): store the memory durably, then send
        Raises      Malformed, WrongVersion, BadSignature; SecondSurvivorSet; UnknownRound: never masked for, or too
                    old; TooFewSurvivors; AnotherSurvivorSet; NotConfirmed; BadBox
        The same survivor set asked for again gets the same bytes, whatever boxes come with it.
        """
        asked = Open.decode(head)
        last, given = self._asked_about(asked)
        if given is not None and given.answer:
            return given.answer, self._memory
        if last is None or self._memory.state is KeyState.ERASED:
            raise UnknownRound(f"round {asked.round} is over, and its answer is not kept")
        if given is None:
            self._check_survivors(asked, last)
        if asked.survivors != last.cohort:
            require_confirmed(self.roster, asked, RoundEdges.of(self.roster, last.cohort).members)
        reply = Shares.signed(
            self._identity,
            transcript=asked.transcript,
            member=self.me,
            opened=asked.opened,
            shares=self._shares(asked, last),
        ).encode()
        commitment = Commitment(asked.round, asked.opened, reply)
        self._memory = self._memory.with_answer(commitment, last, asked.survivors)
        return reply, self._memory

    def _asked_about(self, asked: Open | Confirm) -> tuple[Upload | None, Commitment | None]:
        """The upload of the round in question, if it is the last, and this department's commitment in that round.

        Raises  BadSignature; SecondSurvivorSet; UnknownRound: not a member, or it neither masked nor committed there
        """
        asked.check(bytes.fromhex(self.roster.coordinator), who="the coordinator")
        if not self._opens:
            raise UnknownRound("this department is not on the opening committee")
        given = self._memory.committed(asked.round)
        if given is not None and given.opened != asked.opened:
            raise SecondSurvivorSet(f"round {asked.round} has another survivor set or transcript")
        last = self._memory.upload
        if last is not None and (last.round, last.transcript) == (asked.round, asked.transcript):
            return last, given
        if given is None:
            raise UnknownRound(f"this department did not mask under that transcript in round {asked.round}")
        return None, given

    def _shares(self, asked: Open, last: Upload) -> tuple[bytes, ...]:
        """Open every box and pick the shares that the survivor set calls for."""
        edges = RoundEdges.of(self.roster, last.cohort)
        texts: dict[int, bytes] = {}
        for sender, box in zip(asked.survivors, asked.boxes, strict=True):
            if len(box) != edges.box_bytes(sender):
                raise BadBox(f"the box of department {sender} has the wrong size")
            chain = self._memory.chains.rounds[sender]
            texts[sender] = open_box(chain, asked.transcript, sender, self.me, box)
        picked = []
        for dealer, of in edges.wanted(asked.survivors):
            at = edges.row(dealer, of) * SECRET_BYTES
            picked.append(texts[dealer][at : at + SECRET_BYTES])
        return tuple(picked)

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check_origin(self, request: RoundOpen | RunClose | Train, charter: Charter) -> None:
        request.check(bytes.fromhex(self.roster.coordinator), who="the coordinator")
        if request.roster != self.roster.digest or request.epoch != self.roster.epoch:
            raise WrongFederation("the request is of another roster or epoch")
        if request.charter != charter.digest:
            raise WrongFederation("the request is of another charter than the one approved")

    def _check_step(self, request: RoundOpen | Train, charter: Charter) -> None:
        if request.round > self.roster.parameters.rounds_max:
            raise StaleRound(
                f"round {request.round} lies beyond the roster's last, {self.roster.parameters.rounds_max}"
            )
        newest, _ = self._memory.newest_version(request.charter)
        if request.version < newest:
            raise StaleRound(
                f"version {request.version} of the backbone after version {newest}: versions never go back"
            )
        if any(not before.survivors and before.same_backbone(request) for before in self._memory.openings):
            raise AnotherSurvivorSet(f"version {request.version} was begun in an earlier epoch and is closed for good")
        if request.version >= charter.rounds:
            raise OutsideCharter(
                f"version {request.version} was to be improved; the charter ends with {charter.rounds}"
            )

    def _check_cohort(self, cohort: tuple[int, ...], charter: Charter) -> int:
        parameters = self.roster.parameters
        if cohort[-1] >= len(self.roster.departments):
            raise BadCohort(f"the cohort names department {cohort[-1]}, which is not in the roster")
        if self.me not in cohort:
            raise BadCohort("the cohort leaves out the department that was asked")
        if fault := cohort_fault(self.roster, cohort, charter.cohort.floor):
            raise BadCohort(fault)
        for peer in RoundEdges.of(self.roster, cohort).partners(self.me):
            if not self._memory.chains.holds(peer):
                name = self.roster.departments[peer].name
                raise NotIntroduced(f"the cohort names department {name!r}, which was never introduced to this one")
        return max(parameters.survivors_min, charter.cohort.floor)

    def _check_previous(self, previous: Previous) -> None:
        given = self._memory.committed(previous.round)
        if given is not None and given.opened != previous.opened:
            raise ResultMismatch(
                f"the result of round {previous.round} is not of the survivor set confirmed or opened here"
            )

    def _check_survivors(self, asked: Open | Confirm, last: Upload) -> None:
        survivors = asked.survivors
        if not set(survivors) <= set(last.cohort):
            raise TooFewSurvivors("the survivor set is not inside the cohort")
        if len(survivors) < last.floor:
            raise TooFewSurvivors(f"{len(survivors)} survivors, at least {last.floor} are needed")
        if thin := MaskGraph.of(self.roster).thin(survivors, self.roster.parameters.colluders):
            raise TooFewSurvivors(thin)
        for before in self._memory.openings:
            if before.same_backbone(last) and before.survivors != survivors:
                raise AnotherSurvivorSet(f"version {last.version} was confirmed or opened for another survivor set")


def _check_seconds(seconds: int, charter: Charter) -> None:
    if seconds > math.ceil(charter.timing.upload):
        raise OutsideCharter(f"{seconds} s for an upload; the charter has {charter.timing.upload:g} s")


def _check_broadcast(digest: bytes, body: Body, charter: Charter) -> None:
    expected = 4 * sum(math.prod(shape) for _, shape in charter.broadcast)
    size = memoryview(body).nbytes
    if size != expected:
        raise WrongSize(f"the broadcast has {size} bytes, the charter's tensors {expected}")
    if sha256(body) != digest:
        raise BroadcastMismatch("the broadcast is not the one whose hash the coordinator signed")
