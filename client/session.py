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
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import (
    CommonrootError,
    ConfigError,
    Malformed,
    NotApproved,
    StaleRound,
    UnknownRound,
)
from commonroot.common.manifest import unflatten
from commonroot.common.messages import Open, Refusal, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, Random, derive, sha256
from commonroot.strategies import build, check_sealed

_log = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[np.float32]]
Local = Mapping[str, NDArray[np.generic]]
#: Called with a word for what happened and its facts; terminal views listen.  Never holds a row, a tensor or a key.
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What one round of local training gives: the terms to contribute and the private state to keep."""

    terms: Mapping[str, NDArray[np.floating]]
    local: Local


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
    ) -> None:
        self._roster = roster
        self._identity = identity
        self._store = store
        self._machine = self._stored_machine()
        self._secret = secret
        self._learner = learner
        self._approved = approved
        self._random = random
        self._on_event = on_event
        self._ahead: _Ahead | None = None
        self._me = roster.departments[roster.index_of(identity.public)].name

    def handle(self, request: Parcel) -> Parcel:
        """One reply to one request.  Never raises for anything the coordinator sends."""
        try:
            if request.kind == parcel.CHARTER:
                return self._charter(request)
            if request.kind == parcel.TRAIN:
                return self._train(request)
            if request.kind == parcel.ROUND_OPEN:
                return self._round_open(request)
            if request.kind == parcel.OPEN:
                return self._open(request)
            if request.kind == parcel.RUN_CLOSE:
                return self._run_close(request)
            raise Malformed(f"a request of unknown kind {request.kind[:32]!r}")
        except CommonrootError as error:
            _log.warning("refused %s: %s (%s)", request.kind, error, error.code)
            self._on_event("refused", {"request": request.kind} | error.describe())
            self._note_refusal(request, error)
            return Parcel(parcel.REFUSAL, Refusal(round=0, code=error.code).encode())

    # -- the five requests -----------------------------------------------------------------------------------------

    def _charter(self, request: Parcel) -> Parcel:
        signed = SignedCharter.from_json(bytes(request.head))
        offered = signed.check(bytes.fromhex(self._roster.coordinator))
        charter = self._require_approved(offered.digest)
        check_sealed(charter)
        self._learner.check(charter)
        self._on_event("ready", {"charter": charter.digest.hex()})
        return Parcel(parcel.READY)

    def _train(self, request: Parcel) -> Parcel:
        """Train before the round opens.  Nothing is stored: trained again after a restart, it gives the same result."""
        asked = Train.decode(bytes(request.head))
        charter = self._require_approved(asked.charter)
        asked = self._machine.review_train(bytes(request.head), request.body, charter=charter)
        if self._ahead is None or not self._ahead.serves(asked):
            self._on_event("training", {"round": asked.round, "version": asked.version})
            self._ahead = None
            trained = self._learn(charter, asked.version, request.body)
            self._ahead = _Ahead(asked.charter, asked.version, asked.broadcast, bytes(request.body), trained)
        self._on_event("trained", {"round": asked.round, "version": asked.version})
        return Parcel(parcel.TRAINED, self._machine.ready(asked))

    def _round_open(self, request: Parcel) -> Parcel:
        opening = RoundOpen.decode(bytes(request.head))
        charter = self._require_approved(opening.charter)
        ahead = self._ahead if self._ahead is not None and self._ahead.serves(opening) else None
        broadcast = ahead.body if ahead is not None and not len(request.body) else request.body
        opening = self._machine.review(bytes(request.head), broadcast, charter=charter)
        if self._machine.repeat(opening) is not None:
            done = self._store.upload(self._roster.epoch, opening.round)
            if done is None:
                raise StaleRound(f"round {opening.round} was answered, but its upload is gone")
            self._on_event("repeated", {"round": opening.round})
            return Parcel(parcel.MASKED, done.head, done.body)
        name = charter.digest.hex()
        if ahead is not None:
            trained = ahead.trained
        else:
            self._on_event("training", {"round": opening.round, "version": opening.version})
            trained = self._learn(charter, opening.version, broadcast)
        head, body, memory = self._mask(charter, opening, trained.terms)
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
                facts={
                    "what": parcel.MASKED,
                    "bytes": len(head) + len(body),
                    "round": opening.round,
                    "charter": name,
                    "transcript": opening.transcript.hex(),
                    "digest": sha256(head, body).hex(),
                },
            )
        self._on_event("uploaded", {"round": opening.round, "bytes": len(head) + len(body)})
        return Parcel(parcel.MASKED, head, body)

    def _open(self, request: Parcel) -> Parcel:
        asked = Open.decode(bytes(request.head))
        head, memory = self._machine.answer(bytes(request.head))
        with self._write_ahead():
            self._store.commit_answer(
                epoch=self._roster.epoch,
                memory=memory.to_bytes(),
                facts={
                    "what": parcel.SHARES,
                    "bytes": len(head),
                    "round": asked.round,
                    "survivors": list(asked.survivors),
                    "opened": asked.opened.hex(),
                    "digest": sha256(head).hex(),
                },
            )
        self._on_event("opened", {"round": asked.round, "survivors": len(asked.survivors)})
        return Parcel(parcel.SHARES, head)

    def _run_close(self, request: Parcel) -> Parcel:
        closing = RunClose.decode(bytes(request.head))
        charter = self._require_approved(closing.charter)
        self._machine.review_close(bytes(request.head), request.body, charter=charter)
        name = charter.digest.hex()
        if self._store.closed(name, closing.version) is None:
            if closing.version != charter.rounds:
                raise UnknownRound(f"the charter ends with version {charter.rounds}, not {closing.version}")
            self._on_event("finishing", {"version": closing.version})
            received = unflatten(request.body, charter.broadcast)
            local = self._store.head_before(name, closing.version)
            predictor = self._learner.finish(charter, received, closing.version, local)
            self._store.commit_closed(
                charter=name,
                version=closing.version,
                predictor=predictor,
                facts={"charter": name, "version": closing.version, "backbone": closing.broadcast.hex()},
            )
        self._on_event("finished", {"version": closing.version})
        return Parcel(parcel.CLOSED)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _learn(self, charter: Charter, version: int, broadcast: bytes | bytearray | memoryview) -> Trained:
        local = self._store.head_before(charter.digest.hex(), version)
        return self._learner.train(charter, unflatten(broadcast, charter.broadcast), version, local)

    def _mask(
        self, charter: Charter, opening: RoundOpen, terms: Mapping[str, NDArray[np.floating]]
    ) -> tuple[bytes, bytes | bytearray | memoryview, DepartmentMemory]:
        """Encode and mask.  Rounding is a function of the version, so a retried round resends the same values."""
        codec = SumCodec(charter.manifest, len(opening.cohort))
        rounding = derive(self._secret, "rounding", charter.digest + opening.version.to_bytes(4, "big"))
        bounds = np.asarray(opening.bounds, dtype=np.float32)
        lanes16, lanes64 = codec.encode(terms, bounds, rounding)
        return self._machine.mask(opening, lanes16, lanes64, self._random)

    def _stored_machine(self) -> DepartmentMachine:
        memory = self._store.memory(self._roster.epoch)
        if memory is None:
            raise ConfigError(
                f"epoch {self._roster.epoch} was never set up in this folder", hint="`commonroot department join`"
            )
        return DepartmentMachine(self._roster, self._identity, DepartmentMemory.from_bytes(memory))

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
        return charter

    def _note_refusal(self, request: Parcel, error: CommonrootError) -> None:
        """Evidence: what was refused, by hash, with the code."""
        try:
            self._store.record(
                "refused", {"what": request.kind[:32], "code": error.code, "digest": sha256(request.head).hex()}
            )
        except CommonrootError:
            _log.exception("the refusal could not be recorded")
