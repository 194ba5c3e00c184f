"""A department's side of the conversation: one parcel in, one parcel out, whatever the link.

The daemon feeds it from a Flower node and a simulation feeds it directly; both run this same code.  Before any reply
leaves, what it commits the department to is on disk (write-ahead).  A repeated request gets the identical reply.  What
is refused is refused by code alone: error texts stay here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client import contribution, refusals
from commonroot.client.contribution import Local as Local
from commonroot.client.contribution import Tensors as Tensors
from commonroot.client.contribution import Trained as Trained
from commonroot.client.statements import Statement
from commonroot.client.store import LEAVING, LEFT, PAUSED, DepartmentStore
from commonroot.common import parcel
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import (
    AnotherSurvivorSet,
    CommonrootError,
    ConfigError,
    HasLeft,
    Malformed,
    NotApproved,
    Paused,
    RestoredFolder,
    StaleRound,
    StorageFull,
    UnknownRound,
    WrongFederation,
)
from commonroot.common.ledger import Fact, owner_of_ledger
from commonroot.common.manifest import unflatten
from commonroot.common.messages import Confirm, Goodbye, Offer, Open, Refusal, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.precompute import Background, Prepared
from commonroot.common.secure_sum.primitives import Identity, Random, sha256
from commonroot.files import read_backbone
from commonroot.strategies import build, check_roster, check_sealed
from commonroot.strategies.averaging import losses_of
from commonroot.strategies.warm_start import first_state

_log = logging.getLogger(__name__)

#: Called with a word for what happened and its facts; terminal views listen.  Never holds a row, a tensor or a key.
OnEvent = Callable[[str, dict[str, Any]], None]
#: Called with a version and this department's own losses on it, which are for its own eyes alone: no event holds them.
OnLosses = Callable[[int, dict[str, float]], None]


#: Requests that a paused department does not answer.
_CONTRIBUTIONS = frozenset({parcel.CHARTER, parcel.TRAIN, parcel.ROUND_OPEN})


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What was trained before its round opened: a function of these three, so it serves whichever round asks for it."""

    charter: bytes
    version: int
    broadcast: bytes
    body: bytes = field(repr=False)
    trained: Trained = field(repr=False)

    def serves(self, request: RoundOpen | Train) -> bool:
        return (self.charter, self.version, self.broadcast) == (request.charter, request.version, request.broadcast)


class Learner(Protocol):
    """The learning half of a department: its data, its head, its models.  See ``learner.DepartmentLearner``."""

    def check(self, charter: Charter) -> None:
        """Raise DataError or ConfigError, naming every problem, where the data does not fit the charter."""

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Carry out the strategy's plan on the department's data."""

    def finish(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> str:
        """Fine-tune, compare with training alone, choose, store; the name of the predictor's folder."""


class Session:
    """Holds one department's protocol machine, store and learner together."""

    def __init__(
        self,
        *,
        roster: Roster,
        identity: Identity,
        secret: bytes,
        store: DepartmentStore,
        learner: Learner,
        approved: Callable[[bytes], Charter | None],
        random: Random,
        on_event: OnEvent = lambda kind, facts: None,
        consider: Callable[[SignedCharter], Charter] | None = None,
        closed_now: Callable[[], bool] = lambda: False,
        on_losses: OnLosses = lambda version, losses: None,
    ) -> None:
        """``approved``: the charter of a hash, if it was; ``consider``: the same for one that was not, by a policy, or
        why not (``consent.Desk``); ``closed_now``: whether a policy's hours keep it from contributing."""
        self._roster = roster
        self._identity = identity
        self._store = store
        self._machine = self._stored_machine()
        self._setup = self._stored_setup()
        self._secret = secret
        self._learner = learner
        self._approved = approved
        self._consider = consider
        self._closed_now = closed_now
        self._random = random
        self._on_event = on_event
        self._on_losses = on_losses
        #: The last broadcast that passed: charter, version, tensors.  In memory only.
        self._seen: tuple[bytes, int, Tensors] | None = None
        #: Version 0 of the charter that was asked for last, which its rounds are held against.
        self._first: tuple[bytes, Tensors] | None = None
        self._ahead: _Ahead | None = None
        self._me = roster.departments[roster.index_of(identity.public)].name

    def handle(self, request: Parcel) -> Parcel:
        """One reply to one request.  Never raises for anything the coordinator sends."""
        try:
            if (goodbye := self._require_standing(request.kind)) is not None:
                return goodbye
            if request.kind == parcel.CHARTER:
                return self._charter(request)
            if request.kind == parcel.TRAIN:
                return self._train_ahead(request)
            if request.kind == parcel.ROUND_OPEN:
                return self._round_open(request)
            if request.kind == parcel.CONFIRM:
                return self._confirm(request)
            if request.kind == parcel.OPEN:
                return self._open(request)
            if request.kind == parcel.RUN_CLOSE:
                return self._run_close(request)
            if request.kind == parcel.GREET:
                return self._greet(request)
            if request.kind == parcel.INTRODUCE:
                return self._introduce(request)
            raise Malformed(f"a request of unknown kind {request.kind[:32]!r}")
        except CommonrootError as error:
            _log.warning("refused %s: %s (%s)", request.kind, error, error.code)
            self._on_event("refused", {"request": request.kind} | error.describe())
            refusal = Parcel(parcel.REFUSAL, Refusal(round=0, code=error.code).encode())
            refusals.note(self._store, self._machine.memory, self._roster, request, error, len(refusal))
            return refusal

    # -- the beginning of an epoch ---------------------------------------------------------------------------------

    def _greet(self, request: Parcel) -> Parcel:
        head, body = self._setup.greet(self._roster, bytes(request.head))
        self._note_sent(request, parcel.GREETING, head, body)
        self._on_event("greeted", {"epoch": self._roster.epoch})
        return Parcel(parcel.GREETING, head, body)

    def _introduce(self, request: Parcel) -> Parcel:
        head = bytes(request.head)
        setup, memory = self._setup.introduce(self._roster, head, request.body, self._machine.memory)
        if setup != self._setup:
            self._store.commit_introduction(
                epoch=self._roster.epoch,
                setup=setup.to_bytes(),
                memory=memory.to_bytes(),
                facts={
                    "epoch": self._roster.epoch,
                    "met": sorted(setup.met),
                    "countersigned": len(setup.seen),
                    "digest": sha256(head, request.body).hex(),
                },
            )
            self._setup = setup
            self._machine.adopt(memory)
        told = setup.introduced(self._identity)
        self._note_sent(request, parcel.INTRODUCED, told)
        self._on_event("introduced", {"met": len(setup.met), "begun": setup.begun(self._roster)})
        return Parcel(parcel.INTRODUCED, told)

    def _note_sent(
        self,
        request: Parcel,
        kind: str,
        head: bytes = b"",
        body: bytes = b"",
        *,
        facts: dict[str, Fact] | None = None,
        signed_body: bytes = b"",
    ) -> None:
        """A reply that commits to nothing else, in the ledger before it leaves, with what it is a reply to."""
        asked = bytes(request.head)
        told: dict[str, Fact] = {"what": kind, "bytes": len(head) + len(body), "digest": sha256(head, body).hex()}
        told |= {"epoch": self._roster.epoch, "asked": sha256(asked).hex(), **(facts or {})}
        self._store.record("sent", told, statement=Statement(request.kind, asked, signed_body, True))

    # -- a run's five requests -------------------------------------------------------------------------------------

    def _charter(self, request: Parcel) -> Parcel:
        coordinator = bytes.fromhex(self._roster.coordinator)
        offer = Offer.decode(bytes(request.head))
        offer.check(coordinator, who="the coordinator")
        signed = SignedCharter.from_json(bytes(request.body))
        if signed.check(coordinator).digest != offer.charter:
            raise WrongFederation("the offer names another charter than the one that came with it")
        if self._consider is not None and self._approved(offer.charter) is None:
            self._consider(signed)
        charter = self._require_approved(offer.charter)
        check_sealed(charter)
        self._version_0(charter)
        self._learner.check(charter)
        facts: dict[str, Fact] = {"charter": charter.digest.hex(), "run": offer.run}
        self._note_sent(request, parcel.READY, facts=facts, signed_body=bytes(request.body))
        self._on_event("ready", {"charter": charter.digest.hex()})
        return Parcel(parcel.READY)

    def _train_ahead(self, request: Parcel) -> Parcel:
        """Train before the round opens.  What was trained is kept in memory alone: a restart trains it again, alike."""
        head = bytes(request.head)
        charter = self._require_approved(Train.decode(head).charter)
        self._setup.require_begun(self._roster)
        asked = self._machine.review_train(head, request.body, charter=charter)
        self._pass_over_what_was_forgotten(asked, charter)
        if self._ahead is None or not self._ahead.serves(asked):
            received = self._received(charter, request.body, asked.version)
            self._on_event("training", {"round": asked.round, "version": asked.version})
            self._ahead = None
            trained = self._train(charter, received, asked.version)
            self._ahead = _Ahead(asked.charter, asked.version, asked.broadcast, bytes(request.body), trained)
        reply = self._machine.ready(asked)
        self._store.commit_ready(
            round=asked.round,
            request=head,
            facts={
                "what": parcel.TRAINED,
                "bytes": len(reply),
                "round": asked.round,
                "charter": charter.digest.hex(),
                "digest": sha256(reply).hex(),
                "asked": sha256(head).hex(),
            },
        )
        self._on_event("trained", {"round": asked.round, "version": asked.version})
        return Parcel(parcel.TRAINED, reply)

    def _round_open(self, request: Parcel) -> Parcel:
        opening = RoundOpen.decode(bytes(request.head))
        charter = self._require_approved(opening.charter)
        self._setup.require_begun(self._roster)
        trained_ahead = self._ahead if self._ahead is not None and self._ahead.serves(opening) else None
        broadcast = request.body
        left_out = charter.trains_first(self._roster) and not memoryview(broadcast).nbytes
        if left_out and self._machine.repeat(opening) is None:
            if trained_ahead is None:  # it was trained, before a restart
                raise UnknownRound(f"round {opening.round} came without a broadcast, and none was trained on before")
            broadcast = trained_ahead.body
        opening = self._machine.review(bytes(request.head), broadcast, charter=charter)
        if self._machine.repeat(opening) is not None:
            done = self._store.upload(self._roster.epoch, opening.round)
            if done is None:
                raise StaleRound(f"round {opening.round} was answered, but its upload is gone")
            again: dict[str, Fact] = {
                "what": parcel.MASKED,
                "bytes": len(done.head) + len(done.body),
                "round": opening.round,
                "charter": charter.digest.hex(),
                "digest": sha256(done.head).hex(),
                "asked": sha256(request.head).hex(),
                "again": True,
            }
            self._store.record("sent", again)
            self._on_event("repeated", {"round": opening.round})
            return Parcel(parcel.MASKED, done.head, done.body)
        self._pass_over_what_was_forgotten(opening, charter)
        name = charter.digest.hex()
        if trained_ahead is not None:
            trained, prepared = trained_ahead.trained, self._machine.prepare(opening, self._random)
        else:
            received = self._received(charter, broadcast, opening.version)
            self._on_event("training", {"round": opening.round, "version": opening.version})
            # Masks and shares do not depend on the data: they are made while training runs.
            ahead = Background(partial(self._machine.prepare, opening, self._random), "commonroot-prepare")
            try:
                trained = self._train(charter, received, opening.version)
            finally:
                ahead.wait()
            prepared = ahead.result()
        head, body, memory, abstained = self._mask(charter, opening, trained, prepared)
        with self._write_ahead():
            self._store.commit_upload(
                epoch=self._roster.epoch,
                round=opening.round,
                memory=memory.to_bytes(),
                head=head,
                body=body,
                charter=name,
                version=opening.version,
                local=trained.local,
                request=bytes(request.head),
                facts={
                    "what": parcel.MASKED,
                    "bytes": len(head) + len(body),
                    "round": opening.round,
                    "charter": name,
                    "transcript": opening.transcript.hex(),
                    "digest": sha256(head).hex(),  # the head holds the body's hash
                    "asked": sha256(request.head).hex(),
                },
                private={"abstained": abstained},
            )
        self._on_event("uploaded", {"round": opening.round, "bytes": len(head) + len(body)})
        return Parcel(parcel.MASKED, head, body, self._machine.pieces)

    def _pass_over_what_was_forgotten(self, asked: RoundOpen | Train, charter: Charter) -> None:
        """After a restore: the first backbone shown of a charter may have been opened before; it is closed for good.

        Raises AnotherSurvivorSet, once for each charter; from then on the memory does.
        """
        name = charter.digest.hex()
        if not self._store.is_forgotten(name):
            return
        with self._write_ahead():
            self._store.commit_passed_over(
                epoch=self._roster.epoch,
                memory=self._machine.pass_over(asked).to_bytes(),
                charter=name,
                facts={"charter": name, "version": asked.version},
            )
        self._on_event("passed-over", {"version": asked.version})
        raise AnotherSurvivorSet(f"version {asked.version} may have been opened before this folder was restored")

    def _confirm(self, request: Parcel) -> Parcel:
        asked = Confirm.decode(bytes(request.head))
        head, memory = self._machine.confirm(bytes(request.head))
        self._commit(request, asked, head, memory, reply=parcel.CONFIRMED)
        self._on_event("confirmed", {"round": asked.round, "survivors": len(asked.survivors)})
        return Parcel(parcel.CONFIRMED, head)

    def _open(self, request: Parcel) -> Parcel:
        asked = Open.decode(bytes(request.head))
        head, memory = self._machine.answer(bytes(request.head))
        self._commit(request, asked, head, memory, reply=parcel.SHARES)
        self._on_event("opened", {"round": asked.round, "survivors": len(asked.survivors)})
        return Parcel(parcel.SHARES, head)

    def _commit(
        self, request: Parcel, asked: Confirm | Open, head: bytes, memory: DepartmentMemory, *, reply: str
    ) -> None:
        """Bind this department to one survivor set, with its reply, before the reply leaves."""
        with self._write_ahead():
            self._store.commit_answer(
                epoch=self._roster.epoch,
                round=asked.round,
                memory=memory.to_bytes(),
                kind=request.kind,
                request=bytes(request.head),
                backbone=refusals.backbone_of(memory, asked.round),
                facts={
                    "what": reply,
                    "bytes": len(head),
                    "round": asked.round,
                    "survivors": list(asked.survivors),
                    "opened": asked.opened.hex(),
                    "digest": sha256(head).hex(),
                    "asked": sha256(request.head).hex(),
                },
            )

    def _run_close(self, request: Parcel) -> Parcel:
        closing = RunClose.decode(bytes(request.head))
        charter = self._require_approved(closing.charter)
        self._machine.review_close(bytes(request.head), request.body, charter=charter)
        self._ahead = None
        name = charter.digest.hex()
        if self._store.closed(name, closing.version) is None:
            if closing.version != charter.rounds:
                raise UnknownRound(f"the charter ends with version {charter.rounds}, not {closing.version}")
            self._on_event("finishing", {"version": closing.version})
            received = self._received(charter, request.body, closing.version)
            self._finish(charter, received, closing)
        self._note_sent(request, parcel.CLOSED, facts={"charter": name, "version": closing.version})
        self._store.checkpoint(owner_of_ledger(self._roster.federation, self._me), self._identity)
        self._on_event("finished", {"version": closing.version})
        return Parcel(parcel.CLOSED)

    # -- what depends on data must not show in a reply -------------------------------------------------------------

    def _received(self, charter: Charter, body: bytes | bytearray | memoryview, version: int) -> Tensors:
        """The broadcast as tensors, once it is one that rounds under this charter can have led to.

        A backbone made to measure could be a question about rows; the nearer it must be to honest ones, the less it
        can ask.  Version 0 is what the charter's seed gives, and every later one a bounded number of steps away.
        """
        strategy = build(charter)
        # What came over the link came into a buffer of its own; a large backbone is not kept twice.
        received = unflatten(body, charter.broadcast, own=isinstance(body, bytearray))
        strategy.check_received(charter, received, version, self._version_0(charter), 0)
        if self._seen is not None and self._seen[0] == charter.digest and self._seen[1] <= version:
            strategy.check_received(charter, received, version, self._seen[2], self._seen[1])
        self._seen = (charter.digest, version, received)
        return received

    def _version_0(self, charter: Charter) -> Tensors:
        """What the charter's rounds begin with; BackboneMissing where that is a file which is not here."""
        if self._first is None or self._first[0] != charter.digest:
            read = partial(read_backbone, self._store.folder)
            self._first = (charter.digest, first_state(build(charter), charter, read))
        return self._first[1]

    def _train(self, charter: Charter, received: Tensors, version: int) -> Trained:
        local = self._store.head_before(charter.digest.hex(), version)
        trained = contribution.train(self._learner, charter, received, version, local, self._abstained)
        if trained.abstained is None and (own := _losses(charter, version, trained.terms)):
            self._on_losses(version, own)
        return trained

    def _abstained(self, error: Exception) -> str:
        return self._tell_failure("abstained", error)

    def _finish(self, charter: Charter, received: Tensors, closing: RunClose) -> None:
        """Choose and store; a failure is this department's own affair, except that a full disk is tried again."""
        name = charter.digest.hex()
        predictor: str | None = None
        failed: str | None = None
        try:
            local = self._store.head_before(name, closing.version)
            predictor = self._learner.finish(charter, received, closing.version, local)
        except StorageFull:
            raise
        except Exception as error:
            failed = self._tell_failure("not-chosen", error)
        self._store.commit_closed(
            charter=name,
            version=closing.version,
            predictor=predictor,
            facts={"charter": name, "version": closing.version, "backbone": closing.broadcast.hex()},
            private={"not_chosen": failed},
        )

    def _tell_failure(self, kind: str, error: Exception) -> str:
        """Say it here, and return its code: it goes into the ledger sealed, for an exported one is read by others."""
        code = error.code if isinstance(error, CommonrootError) else type(error).__name__
        _log.error("%s: local training failed (%s)", kind, code)
        self._on_event(kind, {"code": code})
        return code

    # -- inside ----------------------------------------------------------------------------------------------------

    def _mask(
        self, charter: Charter, opening: RoundOpen, trained: Trained, prepared: Prepared
    ) -> tuple[bytes, bytes | bytearray | memoryview, DepartmentMemory, str | None]:
        """Encode and mask; the code of what was answered with zeros, if anything was."""
        codec = SumCodec.of_round(charter, self._roster, len(opening.cohort))
        bounds = np.asarray(opening.bounds, dtype=np.float32)
        bulk, exact, failed = contribution.encode(
            codec, charter, opening.version, trained.terms, bounds, secret=self._secret, on_failure=self._abstained
        )
        return *self._machine.mask(opening, bulk, exact, prepared), failed or trained.abstained

    def _stored_machine(self) -> DepartmentMachine:
        memory = self._store.memory(self._roster.epoch)
        if memory is None:
            raise ConfigError(
                f"epoch {self._roster.epoch} was never set up in this folder", hint="`commonroot department join`"
            )
        return DepartmentMachine(self._roster, self._identity, DepartmentMemory.from_bytes(memory))

    def _stored_setup(self) -> EpochSetup:
        setup = self._store.setup(self._roster.epoch)
        if self._store.restored or setup == b"":
            raise RestoredFolder(f"this folder comes from a backup and has no keys of epoch {self._roster.epoch}")
        if setup is None:
            raise ConfigError(
                f"epoch {self._roster.epoch} was never set up in this folder", hint="`commonroot department join`"
            )
        return EpochSetup.from_bytes(setup)

    @contextmanager
    def _write_ahead(self) -> Iterator[None]:
        """Around a durable write: where it fails, the machine goes back to what is on disk and nothing is sent."""
        try:
            yield
        except BaseException:
            self._machine = self._stored_machine()
            raise

    def _require_standing(self, kind: str) -> Parcel | None:
        """The good-bye of a department that leaves, in the place of any answer.

        Raises HasLeft once it has left, and Paused where something would be contributed by one that is paused.  What a
        sum already holds may still be opened: without this department's help the others could do it too.
        """
        standing = self._store.standing()
        if standing == LEAVING:
            head = Goodbye.signed(
                self._identity,
                roster=self._roster.digest,
                epoch=self._roster.epoch,
                sender=self._roster.index_of(self._identity.public),
            ).encode()
            facts: dict[str, Fact] = {"what": parcel.GOODBYE, "bytes": len(head), "digest": sha256(head).hex()}
            self._store.record("sent", facts | {"epoch": self._roster.epoch})
            self._on_event("goodbye", {"epoch": self._roster.epoch})
            return Parcel(parcel.GOODBYE, head)
        if standing == LEFT:
            raise HasLeft("this department has left the federation")
        if kind in _CONTRIBUTIONS and (standing == PAUSED or self._closed_now()):
            raise Paused("this department contributes nothing at the moment")
        return None

    def _require_approved(self, digest: bytes) -> Charter:
        charter = None if self._store.is_revoked(digest.hex()) else self._approved(digest)
        if charter is None:
            raise NotApproved(f"charter {digest.hex()[:16]}… was not approved by department {self._me!r}")
        check_roster(charter, self._roster)  # it may have been approved under another roster
        return charter


def _losses(charter: Charter, version: int, terms: Mapping[str, NDArray[np.floating]]) -> dict[str, float]:
    """This department's own losses in multiples of the chance loss, where the method has any; else empty."""
    weight = float(terms["weight"]) if "weight" in terms and "loss" in terms else 0.0
    names = losses_of(charter, version)
    return {name: float(terms[name]) / weight for name in names if weight > 0 and name in terms}
