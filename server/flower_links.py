"""Links over Flower: the coordinator as the server task of a Flower run.

Flower delivers messages within a run and gives the task that drives it a token.  We start a run whose bundle holds a
name and nothing to execute, take its task ourselves, and keep it alive; when it dies, with the hub or without, the next
message starts another one.  A run of Flower's is therefore no run of ours: ours is identified by its charter.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from commonroot.common.errors import Malformed
from commonroot.common.parcel import Parcel
from commonroot.flower import MESSAGE_TYPE, Announced, Envelope, Sealed
from commonroot.server.links import Fault
from commonroot.server.superlink import SuperLink, as_line, loopback_client

_log = logging.getLogger(__name__)
_Q = TypeVar("_Q")
_A = TypeVar("_A")

#: How long a message waits for its department, in seconds.  Rounds have their own, shorter deadlines.
TTL: Final = 6 * 3600.0
#: The task's token is good for 60 s without a sign of life.
_HEARTBEAT: Final = 10.0
#: The hub is in this process: what it does not answer within this many seconds it will not answer.
_PATIENCE: Final = 20.0
#: The bell wakes us; this is only in case it did not.
_LOOK_AGAIN: Final = 0.5
#: A reply that is announced and does not arrive: look after this many seconds whether its sender still lives.
_STALLED: Final = 3.0
#: Replies are handed over together up to this many bytes.
_TOGETHER: Final = 4 * 1024 * 1024

_PYPROJECT: Final = """\
[project]
name = "commonroot"
version = "1.0.0"
[tool.flwr.app]
publisher = "commonroot"
[tool.flwr.app.components]
serverapp = "nothing:to_run"
clientapp = "nothing:to_run"
"""


class _RunLost(Exception):
    """The Flower run, or our right to drive it, is gone."""


class _NotYet(Exception):
    """An announced object has not arrived."""


class _NeverMore(Exception):
    """An announced object will not arrive."""


@dataclass(slots=True)
class _Awaited:
    """A message in flight."""

    node_key: str
    reply: ObjectTree | None = None
    since: float = 0.0
    incarnation: str | None = None


class _Run:
    """One run of Flower's, and its server task, which is us."""

    def __init__(self, hub: SuperLink) -> None:
        fab = _thin_bundle()
        started = hub.control.StartRun(
            StartRunRequest(fab=Fab(hash_str=hashlib.sha256(fab).hexdigest(), content=fab))
        )
        if not started.run_id:
            raise _RunLost("the hub did not start a run")
        self.run_id: int = started.run_id
        self.node = Node(node_id=SUPERLINK_NODE_ID)
        self.lost = threading.Event()
        self._stop = threading.Event()
        anonymous = loopback_client(RuntimeHttpClient, hub.loopback_address, "flwr-serverapp")
        try:
            token = self._take_task(hub, anonymous)
        finally:
            anonymous.close()
        self.client: RuntimeHttpClient = loopback_client(
            RuntimeHttpClient, hub.loopback_address, "flwr-serverapp", RuntimeTokenHttpInterceptor(token=token)
        )
        self.ask(self.client.PullTaskInput, PullTaskInputRequest())  # starting becomes running
        self._pulse = threading.Thread(target=self._beat, name="commonroot-task", daemon=True)
        self._pulse.start()

    def ask(self, call: Callable[[_Q], _A], request: _Q) -> _A:
        """One question to the hub; busy is asked again, gone is :class:`_RunLost`."""
        deadline = time.monotonic() + _PATIENCE
        pause = 0.05
        while True:
            try:
                return call(request)
            except httpx.TransportError as error:
                failure: Exception = error
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    self.lost.set()
                    raise _RunLost(f"the hub answered {error.response.status_code}") from error
                failure = error
            if time.monotonic() + pause > deadline or self._stop.wait(pause):
                self.lost.set()
                raise _RunLost(type(failure).__name__) from failure
            pause = min(2 * pause, 1.0)

    def finish(self) -> None:
        """Hand the task back; the hub then frees what belongs to the run."""
        self._stop.set()
        try:
            self.client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))
        except (httpx.HTTPError, ValueError):
            _log.debug("the run was over before it was finished")
        self._pulse.join(_PATIENCE)
        self.client.close()

    def _take_task(self, hub: SuperLink, client: RuntimeHttpClient) -> str:
        for _ in range(100):
            answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if not answer.token:
                break
            if answer.task.run_id == self.run_id:
                return answer.token
            # Somebody's left over; nobody will ever drive it.
            hub.control.StopRun(StopRunRequest(run_id=answer.task.run_id))
        raise _RunLost("somebody else took our task")

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT):
            try:
                if not self.ask(self.client.SendTaskHeartbeat, SendTaskHeartbeatRequest()).success:
                    self.lost.set()
            except _RunLost:
                pass
            if self.lost.is_set():
                return


class FlowerLinks:
    """:class:`commonroot.server.links.Links` over a running :class:`SuperLink`.  Safe to call from any thread."""

    def __init__(self, hub: SuperLink, *, ttl: float = TTL) -> None:
        self._hub = hub
        self._ttl = ttl
        self._lock = threading.RLock()
        self._run: _Run | None = None
        self._awaited: dict[str, _Awaited] = {}
        self._faults: dict[str, Fault] = {}
        self._node_ids: dict[str, int] = {}
        self._sealed: tuple[Parcel, Sealed] | None = None
        self._unsent = 0

    def __enter__(self) -> Self:
        self._stop_leftovers()
        with self._lock:
            self._driving()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the Flower run; nothing is in flight afterwards."""
        with self._lock:
            run, self._run = self._run, None
            self._awaited.clear()
            self._faults.clear()
            self._sealed = None
        if run is not None:
            run.finish()

    def present(self) -> dict[str, str]:
        """See :meth:`Links.present`.  A node counts as gone 20 s after its last sign of life."""
        with self._lock:
            for attempt in (1, 2):
                run = self._driving()
                try:
                    nodes = run.ask(run.client.GetNodes, GetNodesRequest()).nodes
                    break
                except _RunLost:
                    if attempt == 2:
                        return {}
        return {_line(node.public_key): node.last_activated_at for node in nodes}

    def send(self, node_key: str, parcel: Parcel) -> str:
        """See :meth:`Links.send`.  The same parcel object sent to many departments is packed and uploaded once."""
        key = " ".join(node_key.split()[:2])
        with self._lock:
            node_id = self._node_id(key)
            if node_id is None:
                return self._failed("nobody is registered under this key")
            for _ in range(2):
                try:
                    return self._send(self._driving(), key, node_id, parcel)
                except _RunLost as lost:
                    reason = str(lost)
            return self._failed(reason)

    def collect(self, tickets: Collection[str], timeout: float) -> list[tuple[str, Parcel | Fault]]:
        """See :meth:`Links.collect`."""
        deadline = time.monotonic() + timeout
        while True:
            self._hub.bell.arrived.clear()  # before looking: what arrives while we look rings again
            with self._lock:
                found = self._look(tickets)
            left = deadline - time.monotonic()
            if found or left <= 0 or not tickets:
                return found
            self._hub.bell.arrived.wait(min(left, _LOOK_AGAIN))

    def forget(self, tickets: Collection[str]) -> None:
        """See :meth:`Links.forget`."""
        with self._lock:
            withdrawn = []
            for ticket in tickets:
                self._faults.pop(ticket, None)
                awaited = self._awaited.pop(ticket, None)
                if awaited is not None:
                    withdrawn.append(ticket if awaited.reply is None else awaited.reply.object_id)
            if withdrawn:
                self._hub.discard(withdrawn)

    # -- the run ---------------------------------------------------------------------------------------------------

    def _driving(self) -> _Run:
        """The run, started anew if it was lost; what was in flight in the old one is lost with it."""
        if self._run is not None and self._run.lost.is_set():
            run, self._run = self._run, None
            for ticket in self._awaited:
                self._faults[ticket] = Fault("the flower run was lost")
            self._awaited.clear()
            run.finish()
        if self._run is None:
            self._run = _Run(self._hub)
        return self._run

    def _stop_leftovers(self) -> None:
        """End the runs that an earlier coordinator left open in this database, and free what they hold."""
        for run_id, run in self._hub.control.ListRuns(ListRunsRequest(limit=200)).run_dict.items():
            if not run.finished_at:
                try:
                    self._hub.control.StopRun(StopRunRequest(run_id=run_id))
                except httpx.HTTPStatusError:
                    _log.debug("a left-over run ended by itself")

    def _node_id(self, key: str) -> int | None:
        if key not in self._node_ids:
            self._node_ids = self._hub.registered()
        return self._node_ids.get(key)

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self, run: _Run, key: str, node_id: int, parcel: Parcel) -> str:
        metadata = Metadata(
            run_id=run.run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id="",
            created_at=time.time(),
            ttl=self._ttl,
            message_type=MESSAGE_TYPE,
        )
        envelope = Envelope(self._seal(parcel), metadata)
        answer = run.ask(
            run.client.PushMessages,
            PushAppMessagesRequest(messages_list=[envelope.announcement], message_object_trees=[envelope.tree]),
        )
        if not answer.message_ids or answer.message_ids[0] != envelope.message_id:
            self._node_ids.pop(key, None)  # it may have been registered anew, under another number
            return self._failed("the hub does not take messages for this node")
        for object_id, content in envelope.contents(set(answer.objects_to_push)):
            run.ask(
                run.client.PushObject,
                PushObjectRequest(
                    node=run.node,
                    run_id=run.run_id,
                    object_id=object_id,
                    object_content=content,
                    session_id=answer.session_id,
                ),
            )
        self._awaited[envelope.message_id] = _Awaited(key)
        self._hub.bell.ring(node_id)
        return envelope.message_id

    def _seal(self, parcel: Parcel) -> Sealed:
        """The parcel as Flower objects; a broadcast comes as the same parcel many times in a row."""
        if self._sealed is None or self._sealed[0] is not parcel:
            self._sealed = (parcel, Sealed(parcel))
        return self._sealed[1]

    def _failed(self, reason: str) -> str:
        self._unsent += 1
        ticket = f"unsent-{self._unsent}"
        self._faults[ticket] = Fault(reason)
        return ticket

    # -- receiving -------------------------------------------------------------------------------------------------

    def _look(self, tickets: Collection[str]) -> list[tuple[str, Parcel | Fault]]:
        """What is there now: faults, and replies up to :data:`_TOGETHER` bytes or one that is larger."""
        try:
            self._claim(self._driving(), tickets)
        except _RunLost as lost:
            _log.warning("lost the flower run: %s", lost)
        found: list[tuple[str, Parcel | Fault]] = [
            (ticket, self._faults.pop(ticket)) for ticket in tickets if ticket in self._faults
        ]
        size = 0
        for ticket in tickets:
            awaited = self._awaited.get(ticket)
            if awaited is None or awaited.reply is None or size > _TOGETHER:
                continue
            reply = self._fetch(ticket, awaited, awaited.reply)
            if reply is not None:
                found.append((ticket, reply))
                size += len(reply) if isinstance(reply, Parcel) else 0
        return found

    def _claim(self, run: _Run, tickets: Collection[str]) -> None:
        """Ask the hub which replies were announced; from then on they are ours to fetch."""
        waiting = [t for t in tickets if t in self._awaited and self._awaited[t].reply is None]
        if not waiting:
            return
        answer = run.ask(run.client.PullMessages, PullAppMessagesRequest(message_ids=waiting))
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            ticket = proto.metadata.reply_to_message_id
            awaited = self._awaited.get(ticket)
            if awaited is None:
                continue
            if proto.HasField("error"):
                del self._awaited[ticket]
                self._faults[ticket] = Fault(f"flower error {proto.error.code}")
                self._hub.discard([ticket])
            else:
                awaited.reply, awaited.since = tree, time.monotonic()

    def _fetch(self, ticket: str, awaited: _Awaited, reply: ObjectTree) -> Parcel | Fault | None:
        """The reply, or why it will not come, or None while its upload goes on."""
        run = self._driving()
        if awaited.reply is None or ticket not in self._awaited:
            return None
        result: Parcel | Fault
        try:
            result = Announced(reply).fetch(lambda object_id: self._pull(run, object_id))
        except _NotYet:
            if time.monotonic() - awaited.since < _STALLED or self._sender_lives(awaited):
                return None
            result = Fault("the department left in the middle of its reply")
        except _NeverMore:
            result = Fault("the department's upload was broken off")
        except Malformed as error:
            result = Fault(f"not a parcel: {error}")
        except _RunLost:
            return None
        del self._awaited[ticket]
        try:
            run.ask(
                run.client.ConfirmMessageReceived,
                ConfirmMessageReceivedRequest(node=run.node, run_id=run.run_id, message_object_id=reply.object_id),
            )
        except _RunLost:
            _log.debug("the run ended before its last reply was confirmed")
        return result

    def _sender_lives(self, awaited: _Awaited) -> bool:
        """Whether the department whose reply does not arrive is still the one that announced it."""
        incarnation = self.present().get(awaited.node_key)
        if awaited.incarnation is None:
            awaited.incarnation = incarnation
        awaited.since = time.monotonic()  # ask again only after a while
        return incarnation is not None and incarnation == awaited.incarnation

    def _pull(self, run: _Run, object_id: str) -> bytes:
        answer = run.ask(
            run.client.PullObject, PullObjectRequest(node=run.node, run_id=run.run_id, object_id=object_id)
        )
        if not answer.object_found:
            raise _NeverMore
        if not answer.object_available:
            raise _NotYet
        return answer.object_content


@lru_cache(maxsize=4096)
def _line(pem: bytes) -> str:
    return as_line(pem)


def _thin_bundle() -> bytes:
    """A Flower bundle that names an application and holds none."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        # A fixed date: the same bundle has the same hash every time, and the hub keeps it once.
        bundle.writestr(zipfile.ZipInfo("pyproject.toml", date_time=(2020, 1, 1, 0, 0, 0)), _PYPROJECT)
    return buffer.getvalue()
