"""A department's side of the conversation: one parcel in, one parcel out, whatever the link.

The daemon feeds it from a Flower node and a simulation feeds it directly; both run this same code.  Before any reply
leaves, what it commits the department to is on disk (write-ahead).  A repeated request gets the identical reply.  What
is refused is refused by code alone: error texts stay here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import (
    AnotherSurvivorSet,
    CommonrootError,
    ConfigError,
    DataError,
    Malformed,
    ManifestError,
    NotApproved,
    ResultMismatch,
    SecondSurvivorSet,
    StaleRound,
    StorageFull,
    UnknownRound,
)
from commonroot.common.evidence import TELLING, Exhibit, previous_of, round_of, signed_by
from commonroot.common.ledger import Fact
from commonroot.common.manifest import unflatten
from commonroot.common.messages import Confirm, Open, Refusal, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.precompute import Background, Prepared
from commonroot.common.secure_sum.primitives import Identity, Random, derive, sha256
from commonroot.files import read_backbone
from commonroot.strategies import build, check_roster, check_sealed, repeats_itself
from commonroot.strategies.warm_start import first_state

_log = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[np.float32]]
Local = Mapping[str, NDArray[np.generic]]
#: Called with a word for what happened and its facts; terminal views listen.  Never holds a row, a tensor or a key.
OnEvent = Callable[[str, dict[str, Any]], None]
#: Called with a version and this department's own losses on it, which are for its own eyes alone: no event holds them.
OnLosses = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What one round of local training gives: the terms to contribute and the private state to keep."""

    terms: Mapping[str, NDArray[np.floating]] = field(repr=False)
    local: Local = field(repr=False)


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
        on_losses: OnLosses = lambda version, losses: None,
    ) -> None:
        self._roster = roster
        self._identity = identity
        self._store = store
        self._machine = self._stored_machine()
        self._setup = self._stored_setup()
        self._secret = secret
        self._learner = learner
        self._approved = approved
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
            self._note_refusal(request, error)
            return Parcel(parcel.REFUSAL, Refusal(round=0, code=error.code).encode())

    # -- the beginning of an epoch ---------------------------------------------------------------------------------

    def _greet(self, request: Parcel) -> Parcel:
        head, body = self._setup.greet(self._roster, bytes(request.head))
        self._note_sent(parcel.GREETING, head, body)
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
        self._note_sent(parcel.INTRODUCED, told)
        self._on_event("introduced", {"met": len(setup.met), "begun": setup.begun(self._roster)})
        return Parcel(parcel.INTRODUCED, told)

    def _note_sent(self, kind: str, head: bytes, body: bytes = b"") -> None:
        """A reply of an epoch's beginning, in the ledger before it leaves."""
        facts: dict[str, Fact] = {"what": kind, "bytes": len(head) + len(body), "digest": sha256(head, body).hex()}
        self._store.record("sent", facts | {"epoch": self._roster.epoch})

    # -- a run's five requests -------------------------------------------------------------------------------------

    def _charter(self, request: Parcel) -> Parcel:
        signed = SignedCharter.from_json(bytes(request.head))
        offered = signed.check(bytes.fromhex(self._roster.coordinator))
        charter = self._require_approved(offered.digest)
        check_sealed(charter)
        self._version_0(charter)
        self._learner.check(charter)
        self._on_event("ready", {"charter": charter.digest.hex()})
        return Parcel(parcel.READY)

    def _train_ahead(self, request: Parcel) -> Parcel:
        """Train before the round opens.  What was trained is kept in memory alone: a restart trains it again, alike."""
        head = bytes(request.head)
        charter = self._require_approved(Train.decode(head).charter)
        self._setup.require_begun(self._roster)
        asked = self._machine.review_train(head, request.body, charter=charter)
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
            self._on_event("repeated", {"round": opening.round})
            return Parcel(parcel.MASKED, done.head, done.body)
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
        head, body, memory = self._mask(charter, opening, trained.terms, prepared)
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
                },
            )
        self._on_event("uploaded", {"round": opening.round, "bytes": len(head) + len(body)})
        return Parcel(parcel.MASKED, head, body, self._machine.pieces)

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
                memory=memory.to_bytes(),
                kind=request.kind,
                request=bytes(request.head),
                about=[f"round {asked.round}", *self._backbone_of(asked.round)],
                facts={
                    "what": reply,
                    "bytes": len(head),
                    "round": asked.round,
                    "survivors": list(asked.survivors),
                    "opened": asked.opened.hex(),
                    "digest": sha256(head).hex(),
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
        self._on_event("finished", {"version": closing.version})
        return Parcel(parcel.CLOSED)

    # -- what depends on data must not show in a reply -------------------------------------------------------------

    def _received(self, charter: Charter, body: bytes | bytearray | memoryview, version: int) -> Tensors:
        """The broadcast as tensors, once it is one that rounds under this charter can have led to.

        A backbone made to measure could be a question about rows; the nearer it must be to honest ones, the less it
        can ask.  Version 0 is what the charter's seed gives, and every later one a bounded number of steps away.
        """
        strategy = build(charter)
        received = unflatten(body, charter.broadcast)
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
        """Train; where that fails, whatever the reason, add zeros to the sum and keep the head.

        A refusal here would answer a question about this department's rows, one that costs the asker no round.  Methods
        that sum the same rows in every round are the exception: what zeros leave out of one sum is the difference to
        the next, and whether such sums can be made does not depend on what is received.

        Raises DataError for those, whatever failed.
        """
        local = self._store.head_before(charter.digest.hex(), version)
        try:
            trained = self._learner.train(charter, received, version, local)
        except Exception as error:
            self._tell_failure("abstained", error)
            if repeats_itself(charter):
                raise DataError("the rows cannot be summed now, and sums without them would show them") from error
            return Trained(_zeros(charter), {} if local is None else local)
        if own := _losses(trained.terms):
            self._on_losses(version, own)
        return trained

    def _finish(self, charter: Charter, received: Tensors, closing: RunClose) -> None:
        """Choose and store; a failure is this department's own affair, except that a full disk is tried again."""
        name = charter.digest.hex()
        try:
            local = self._store.head_before(name, closing.version)
            predictor = self._learner.finish(charter, received, closing.version, local)
        except StorageFull:
            raise
        except Exception as error:
            self._tell_failure("not-chosen", error)
            return
        self._store.commit_closed(
            charter=name,
            version=closing.version,
            predictor=predictor,
            facts={"charter": name, "version": closing.version, "backbone": closing.broadcast.hex()},
        )

    def _tell_failure(self, kind: str, error: Exception) -> None:
        code = error.code if isinstance(error, CommonrootError) else type(error).__name__
        _log.error("%s: local training failed (%s)", kind, code)
        self._on_event(kind, {"code": code})
        self._store.record(kind, {"code": code})

    # -- inside ----------------------------------------------------------------------------------------------------

    def _mask(
        self, charter: Charter, opening: RoundOpen, terms: Mapping[str, NDArray[np.floating]], prepared: Prepared
    ) -> tuple[bytes, bytes | bytearray | memoryview, DepartmentMemory]:
        """Encode and mask.  Rounding is a function of the version, so a retried round resends the same values."""
        codec = SumCodec.of_round(charter, self._roster, len(opening.cohort))
        rounding = derive(self._secret, "rounding", charter.digest + opening.version.to_bytes(4, "big"))
        bounds = np.asarray(opening.bounds, dtype=np.float32)
        try:
            bulk, exact = codec.encode(terms, bounds, rounding)
        except ManifestError as error:  # as telling as a failure to train, and answered alike
            self._tell_failure("abstained", error)
            bulk, exact = codec.encode(_zeros(charter), bounds, rounding)
        return self._machine.mask(opening, bulk, exact, prepared)

    def _stored_machine(self) -> DepartmentMachine:
        memory = self._store.memory(self._roster.epoch)
        if memory is None:
            raise ConfigError(
                f"epoch {self._roster.epoch} was never set up in this folder", hint="`commonroot department join`"
            )
        return DepartmentMachine(self._roster, self._identity, DepartmentMemory.from_bytes(memory))

    def _stored_setup(self) -> EpochSetup:
        setup = self._store.setup(self._roster.epoch)
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

    def _require_approved(self, digest: bytes) -> Charter:
        charter = self._approved(digest)
        if charter is None:
            raise NotApproved(f"charter {digest.hex()[:16]}… was not approved by department {self._me!r}")
        check_roster(charter, self._roster)  # it may have been approved under another roster
        return charter

    def _note_refusal(self, request: Parcel, error: CommonrootError) -> None:
        """Evidence: what was refused, by hash, with the code; and a lie that the coordinator signed, as it came."""
        try:
            self._store.record(
                "refused",
                {
                    "what": request.kind[:32],
                    "code": error.code,
                    "digest": sha256(request.head).hex(),
                    "kept": error.code in TELLING and self._keep_lie(request, error.code),
                },
            )
        except CommonrootError:
            _log.exception("the refusal could not be recorded")

    def _keep_lie(self, request: Parcel, code: str) -> bool:
        """Keep a refused request if the coordinator signed it and it is no mere repeat of one that was accepted."""
        head, kind = bytes(request.head), request.kind
        public = bytes.fromhex(self._roster.coordinator)
        if not signed_by(public, kind, head) or self._store.was_accepted(kind, head):
            return False
        subjects = [f"round {number}" for number in [round_of(kind, head)] if number is not None]
        kinds = [kind]
        if code == AnotherSurvivorSet.code:
            subjects = self._backbone_of(round_of(kind, head))
        elif code == ResultMismatch.code:  # the result contradicts an opening
            subjects = [f"round {previous_of(kind, head)}"]
        if code in (SecondSurvivorSet.code, AnotherSurvivorSet.code, ResultMismatch.code):  # asked for either way
            kinds = [parcel.OPEN, parcel.CONFIRM]
        found = [(k, one) for k in kinds for s in subjects if (one := self._store.accepted(k, s)) is not None]
        against, accepted = found[0] if found else (kind, b"")
        body = sha256(request.body)
        return self._store.keep_exhibit(Exhibit(time.time(), kind, code, public.hex(), head, body, against, accepted))

    def _backbone_of(self, number: int | None) -> list[str]:
        """The backbone that this department last masked for, as a subject of evidence, if that was in this round."""
        last = self._machine.memory.upload
        if last is None or last.round != number:
            return []
        return [f"charter {last.charter.hex()} version {last.version}"]


def _losses(terms: Mapping[str, NDArray[np.floating]]) -> dict[str, float]:
    """This department's own losses in multiples of the chance loss, where the method has any; else empty."""
    weight = float(terms["weight"]) if "weight" in terms and "loss" in terms else 0.0
    return {name: float(terms[name]) / weight for name in ("loss", "held_out") if weight > 0 and name in terms}


def _zeros(charter: Charter) -> dict[str, NDArray[np.floating]]:
    """A contribution that changes no sum."""
    return {term.name: np.zeros(term.shape) for term in charter.manifest.terms}
