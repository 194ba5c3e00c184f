"""Links over Flower: the coordinator as the server task of a Flower run.

Flower delivers messages within a run that somebody drives.  We open a run that carries no code at all, take its task
ourselves and keep it alive; should it be lost, the next message opens another one.  A run of Flower's is therefore no
run of ours: ours is identified by its charter, and survives both.

The coordinator lives in the hub's own process and calls its books (``LinkState``) directly.  A reply's body is in the
hub's memory until it is fetched, and is fetched when it is asked for, so a collector that adds each upload to a sum
holds one upload.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Final, Self

from flwr.app import RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode, Status, SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.object_store import NoObjectInStoreError
from sqlalchemy.exc import OperationalError

from commonroot.common.errors import KeyFileError, Malformed, StorageFull
from commonroot.common.parcel import TO_COORDINATOR, Parcel
from commonroot.flower import MESSAGE_TYPE, Envelope, Sealed, unpack
from commonroot.server.links import Fault
from commonroot.server.node_keys import as_line
from commonroot.server.superlink import SuperLink

_log = logging.getLogger(__name__)

#: How long a message waits for its department, in seconds.  Rounds have their own, shorter deadlines.
TTL: Final = 6 * 3600.0
#: The hub gives a task up after 60 s without a sign of life.
_HEARTBEAT: Final = 10.0
#: The bell wakes us for what comes in; time alone makes a node count as gone.
_LOOK_AGAIN: Final = 0.5
#: A reply that is announced and does not arrive: look after this many seconds whether its sender still lives.
_STALLED: Final = 3.0
#: Replies are handed over together up to this many bytes.
_TOGETHER: Final = 4 * 1024 * 1024

_REASONS: Final = {
    ErrorCode.NODE_UNAVAILABLE: "the department is not online",
    ErrorCode.MESSAGE_UNAVAILABLE: "the message expired or its payload was lost",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "the reply came too late",
}


class _RunLost(Exception):
    """The Flower run, or our right to drive it, is gone."""


class _NotYet(Exception):
    """An announced object has not arrived."""


class _Never(Exception):
    """An announced object will not arrive."""


@dataclass(slots=True)
class _Awaited:
    """A message in flight."""

    node_key: str
    reply: ObjectTree | None = None
    content: RecordDict = field(default_factory=RecordDict)
    checked: float = 0.0
    incarnation: str | None = None


class _Run:
    """One run of Flower's and its server task, which is us."""

    def __init__(self, state: LinkState) -> None:
        self._state = state
        self.run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        infos = state.get_run_info(run_ids=[self.run_id])
        if not infos or infos[0].primary_task_id is None:
            raise _RunLost("the hub opened no run")
        self._task_id = infos[0].primary_task_id
        if state.claim_task(self._task_id) is None or not state.activate_task(self._task_id):
            raise _RunLost("somebody else took our task")
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="commonroot-task", daemon=True)
        self._pulse.start()

    def finish(self) -> None:
        """End the run; the hub frees what belongs to it."""
        self._stop.set()
        self._pulse.join()
        self._state.finish_task(self._task_id, SubStatus.COMPLETED, "")
        self._state.cleanup_run(self.run_id)

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT):
            try:
                alive = self._state.acknowledge_task_heartbeat(self._task_id)
            except OperationalError:
                continue  # a full disk, say: there are six chances in a minute
            if not alive:
                self.lost.set()
                return


class FlowerLinks:
    """:class:`commonroot.server.links.Links` over a running :class:`SuperLink`.  Safe to call from any thread.

    Raises  StorageFull: the hub's database refuses a write
    """

    def __init__(self, hub: SuperLink, *, ttl: float = TTL) -> None:
        self._hub = hub
        self._ttl = ttl
        self._lock = threading.RLock()
        self._run: _Run | None = None
        self._awaited: dict[str, _Awaited] = {}
        self._faults: dict[str, Fault] = {}
        self._sealed: tuple[Parcel, Sealed] | None = None
        self._sent = 0

    def __enter__(self) -> Self:
        with self._books() as state:
            # Runs that an earlier coordinator left open in this database will never be driven again.
            for run in state.get_run_info(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING]):
                state.stop_run(run.run_id)
            self._driving(state)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the Flower run; nothing is in flight afterwards."""
        with self._books():
            run, self._run = self._run, None
            self._awaited.clear()
            self._faults.clear()
            self._sealed = None
            if run is not None:
                run.finish()

    def present(self) -> dict[str, str]:
        """See :meth:`Links.present`.  A node counts as gone 20 s after its last sign of life."""
        with self._books() as state:
            nodes = state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {_line(node.public_key): node.last_activated_at for node in nodes}

    def send(self, node_key: str, parcel: Parcel) -> str:
        """See :meth:`Links.send`.  The same parcel object sent to many departments is packed and stored once."""
        key = " ".join(node_key.split()[:2])
        with self._books() as state:
            try:
                node_id = self._hub.node_id(key)
            except KeyFileError:
                node_id = None
            if node_id is None:
                return self._failed("nobody is registered under this key")
            try:
                return self._send(state, self._driving(state), key, node_id, parcel)
            except _RunLost as lost:
                return self._failed(str(lost))

    def collect(self, tickets: Collection[str], timeout: float) -> list[tuple[str, Parcel | Fault]]:
        """See :meth:`Links.collect`."""
        deadline = time.monotonic() + timeout
        while True:
            self._hub.bell.arrived.clear()  # before looking: what arrives while we look rings again
            with self._books() as state:
                found = self._look(state, tickets)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            self._hub.bell.arrived.wait(min(left, _LOOK_AGAIN))

    def forget(self, tickets: Collection[str]) -> None:
        """See :meth:`Links.forget`."""
        with self._books():
            withdrawn = []
            for ticket in tickets:
                self._faults.pop(ticket, None)
                awaited = self._awaited.pop(ticket, None)
                if awaited is not None:
                    withdrawn.append(ticket)
                    if awaited.reply is not None:
                        withdrawn.append(awaited.reply.object_id)
            if not self._awaited:
                self._sealed = None  # nobody waits for an answer to it: a broadcast is large
            if withdrawn:
                self._hub.discard(withdrawn, withdrawn=True)

    @contextmanager
    def _books(self) -> Iterator[LinkState]:
        """The hub's books, for one caller at a time."""
        try:
            with self._lock:
                yield self._hub.state
        except OperationalError as error:
            raise StorageFull(f"the hub's database refuses: {error.orig}") from error

    def _driving(self, state: LinkState) -> _Run:
        """The run, opened anew if it was lost; what was in flight in the old one is lost with it."""
        if self._run is not None and self._run.lost.is_set():
            _log.warning("the hub gave our run up; opening another one")
            run, self._run = self._run, None
            self._faults.update(dict.fromkeys(self._awaited, Fault("the flower run was lost")))
            self._awaited.clear()
            run.finish()
        if self._run is None:
            self._run = _Run(state)
        return self._run

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self, state: LinkState, run: _Run, key: str, node_id: int, parcel: Parcel) -> str:
        self._sent += 1
        metadata = Metadata(
            run_id=run.run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id=str(self._sent),  # no two messages alike, whatever the clock's resolution
            created_at=time.time(),
            ttl=self._ttl,
            message_type=MESSAGE_TYPE,
        )
        envelope = Envelope(self._seal(parcel), metadata)
        metadata.__dict__["_message_id"] = envelope.message_id
        # In Flower's order: the message, which a node may see from now on, and then what it names.
        session = state.start_session(run.run_id)
        message = make_message(metadata=metadata, content=envelope.content)
        stored, missing = self._hub.post(message, envelope.tree, session)
        if not stored:
            return self._failed("the hub takes no message for this department: it was never online")
        for object_id, content in envelope.unpacked(set(missing)):
            if not state.store_object(run.run_id, session, object_id, content):  # type: ignore[arg-type]
                self._hub.discard([envelope.message_id])
                return self._failed("the hub did not store the payload")
        self._awaited[envelope.message_id] = _Awaited(key)
        self._hub.bell.ring(node_id)
        return envelope.message_id

    def _seal(self, parcel: Parcel) -> Sealed:
        """The parcel as Flower objects; a broadcast comes as the same parcel many times in a row."""
        if self._sealed is None or self._sealed[0] is not parcel:
            self._sealed = (parcel, Sealed(parcel))
        return self._sealed[1]

    def _failed(self, reason: str) -> str:
        self._sent += 1
        ticket = f"unsent-{self._sent}"
        self._faults[ticket] = Fault(reason)
        return ticket

    # -- receiving -------------------------------------------------------------------------------------------------

    def _look(self, state: LinkState, tickets: Collection[str]) -> list[tuple[str, Parcel | Fault]]:
        """What is there now: faults, and replies up to :data:`_TOGETHER` bytes or one that is larger."""
        try:
            run = self._driving(state)
        except _RunLost as lost:
            _log.warning("no run: %s", lost)
            return []
        self._claim(state, run, tickets)
        found: list[tuple[str, Parcel | Fault]] = [
            (ticket, self._faults.pop(ticket)) for ticket in tickets if ticket in self._faults
        ]
        size = 0
        for ticket in tickets:
            awaited = self._awaited.get(ticket)
            if awaited is None or awaited.reply is None or size > _TOGETHER:
                continue
            reply = self._fetch(state, run, awaited, awaited.reply)
            if reply is not None:
                del self._awaited[ticket]
                state.object_store.delete(awaited.reply.object_id)
                if not self._awaited:
                    self._sealed = None
                found.append((ticket, reply))
                size += len(reply) if isinstance(reply, Parcel) else 0
        return found

    def _claim(self, state: LinkState, run: _Run, tickets: Collection[str]) -> None:
        """See which replies were announced; from then on they are ours to fetch."""
        waiting = {t for t in tickets if t in self._awaited and self._awaited[t].reply is None}
        if not waiting:
            return
        answered = set()
        for ticket in waiting:
            if (reason := self._hub.refused(ticket)) is not None:
                answered.add(ticket)
                del self._awaited[ticket]
                self._faults[ticket] = Fault(f"not a parcel: {reason}")
        waiting -= answered
        # Flower removes what it answers from the set it is given.
        for message in state.get_message_res(set(waiting), run.run_id):
            ticket = message.metadata.reply_to_message_id
            answered.add(ticket)
            try:
                if message.has_error():
                    reason = _REASONS.get(message.error.code, f"flower error {message.error.code}")
                    raise _Never(reason)
                self._awaited[ticket].reply = state.object_store.get_object_tree(message.metadata.message_id)
                self._awaited[ticket].content = message.content
                self._awaited[ticket].checked = time.monotonic()
            except (_Never, NoObjectInStoreError) as error:
                reason = str(error) if isinstance(error, _Never) else "the payload of the reply was lost"
                del self._awaited[ticket]
                self._faults[ticket] = Fault(reason)
                state.object_store.delete(message.metadata.message_id)
            except OperationalError:
                raise
            except Exception as error:  # a message without content, a tree without an end: its sender's doing
                del self._awaited[ticket]
                self._faults[ticket] = Fault(f"not a parcel: {type(error).__name__}")
                state.object_store.delete(message.metadata.message_id)
        if answered:
            self._hub.discard(answered)

    def _fetch(self, state: LinkState, run: _Run, awaited: _Awaited, reply: ObjectTree) -> Parcel | Fault | None:
        """The reply, or why it will not come, or None while its upload goes on."""

        def fetch(object_id: str) -> bytes:
            content = state.get_object(run.run_id, object_id)
            if content is None:
                raise _Never
            if not content:
                raise _NotYet
            if reply.children:
                self._hub.take(object_id)  # so that a reply is not there twice while it is put together
            return content

        try:
            if reply.children and not self._hub.complete(reply):
                raise _NotYet
            if not reply.children:
                fetch(reply.object_id)  # a short reply is here already; this says that its sender is done with it
            # checked: the hub compares every object with its name as it takes it in
            return unpack(awaited.content, reply, fetch, kinds=TO_COORDINATOR, checked=True)
        except _NotYet:
            if time.monotonic() - awaited.checked < _STALLED or self._sender_lives(awaited):
                return None
            return Fault("the department left in the middle of its reply")
        except _Never:
            return Fault("the upload of the reply was broken off")
        except Malformed as error:
            return Fault(f"not a parcel: {error}")

    def _sender_lives(self, awaited: _Awaited) -> bool:
        """Whether the department whose reply does not arrive is still the one that announced it."""
        awaited.checked = time.monotonic()
        incarnation = self.present().get(awaited.node_key)
        if awaited.incarnation is None:
            awaited.incarnation = incarnation
        return incarnation is not None and incarnation == awaited.incarnation


@lru_cache(maxsize=4096)
def _line(pem: bytes) -> str:
    return as_line(pem)
