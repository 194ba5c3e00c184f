"""A department's end of the link: a resident Flower node inside the department's own process.

No process per message, no SuperNode, and no code ever fetched: of what a run of Flower's carries, only the parcel is
read.  The node asks the hub for messages over one outgoing TLS connection, hands each parcel to the department's
handler and sends back what it returns.  The hub may be down, restarted or slow for as long as it likes; the node goes
on trying until it is told to stop.  Only at the very first connection are there errors to raise, because then somebody
is watching and a wrong certificate or key will not mend itself.

This file and ``node_calls`` hold everything on the department's side that knows Flower's inside (see docs/adr).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_from_proto
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from commonroot import __version__
from commonroot.client.node_calls import (
    JOINED,
    LEFT,
    REFUSED,
    Caller,
    Dropped,
    Rejected,
    Stopped,
    clock_skew,
    retry_after,
)
from commonroot.client.node_key import load_node_key
from commonroot.client.node_session import Session, open_session
from commonroot.client.tls import trusting
from commonroot.common.errors import ClockSkew, CommonrootError, Malformed, NodeRefused
from commonroot.common.parcel import REFUSAL, TO_DEPARTMENT, Parcel
from commonroot.flower import INLINE_BODY, Counted, Envelope, Sealed, VersionStamp, quiet, reading, unpack

_log = logging.getLogger(__name__)
Handler = Callable[[Parcel], Parcel]

#: Seconds; the smallest the hub accepts.  It forgets a node after twice this without a sign of life.
HEARTBEAT_INTERVAL: Final = 10
#: How often we really send one, so that several may be lost.
_BEAT: Final = 4.0
#: For a hub that does not keep us waiting: how often to ask soon after a message, and at the most when idle.
_EAGER, _IDLE, _EAGER_FOR = 0.06, 2.0, 15.0
#: An answer that took this long means that the hub holds the question until there is a message.
_HELD: Final = 0.5
#: So many refusals in a row must speak of clocks: a busy hub's answers bear an old date now and then.
_SURE: Final = 3
_REQUEST_TIMEOUT: Final = 30.0
#: How long signing off may take a hub that asks us to come back later, in seconds.
_SIGNING_OFF: Final = 4.0


class FlowerNode:
    """One department on the federation's hub.

    ``address`` is ``host:port``, the host being one that the server certificate names.  ``on_state`` hears "joined",
    "unreachable", "refused" and "left" whenever that changes, and ``on_trouble`` why the hub refuses a node that it
    took before, where that is known: the clock was set; ``on_sent`` kind and size in bytes of a request before it
    leaves, from more than one thread.  ``patience`` is how many seconds a first connection may
    be refused before :class:`NodeRefused` is raised: a node that was killed elsewhere keeps its place for 20 s.
    ``give_up`` is how many seconds a request is repeated that the hub answers with 5xx, or an announced object waited
    for, before its message is dropped.
    """

    def __init__(
        self,
        address: str,
        ca_path: Path,
        node_private_key_path: Path,
        *,
        on_state: Callable[[str], None] | None = None,
        on_sent: Callable[[str, int], None] | None = None,
        on_trouble: Callable[[CommonrootError], None] | None = None,
        patience: float = 30.0,
        give_up: float = 60.0,
    ) -> None:
        self._address = address
        self._key_path = node_private_key_path
        self._key = load_node_key(node_private_key_path)
        self._public = public_key_to_bytes(self._key.public_key())
        self._tls = trusting(ca_path)
        self._on_state = on_state
        self._on_sent = on_sent
        self._on_trouble = on_trouble
        self._patience = patience
        self._give_up = give_up
        self._state = ""
        self._known = False  # whether this hub has ever taken us
        self._busy = threading.Lock()

    def serve(self, handle: Handler, stop: threading.Event) -> None:
        """Answer parcels until ``stop`` is set, then leave properly.

        The handler may be given the same parcel twice and answers it alike.  What it raises stays here: the other side
        gets an empty refusal, the log the name of the exception's class.

        Raises  WrongAuthority, NodeRefused, ClockSkew: only before the hub has taken this node for the first time
        """
        quiet()
        with open_session(self._key_path) as session, self._client() as client:
            call = Caller(client, stop, self._say, self._give_up)
            try:
                while True:
                    node_id = self._join(call, session, stop)
                    try:
                        self._attend(call, node_id, session, handle, stop)
                    except Rejected:
                        _log.warning("joining the hub again")
            except Stopped:
                self._say(LEFT)

    # -- joining ---------------------------------------------------------------------------------------------------

    def _join(self, call: Caller, session: Session, stop: threading.Event) -> int:
        """Become active on the hub, however long it takes."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_INTERVAL)
        deadline = time.monotonic() + self._patience
        pause, skewed = 0.25, 0
        while True:
            # The hub still counts a node as online that was killed.  If that was us, and nobody else can have been,
            # we may sign it off in its name instead of waiting until the hub believes it.
            if session.node_id is not None and self._leave(call, session.node_id):
                session.forget()
            try:
                node_id = call(call.client.ActivateNode, request, first=not self._known).node_id
                session.remember(node_id)
                self._known = True
                self._say(JOINED)
                return node_id
            except Rejected as refusal:
                self._say(REFUSED)
                skew = clock_skew(refusal)
                skewed = 0 if skew is None else skewed + 1
                if skew is not None and skewed == _SURE:
                    if not self._known:
                        raise skew from refusal
                    self._tell_clock(skew)
                if not self._known and time.monotonic() > deadline:
                    raise NodeRefused(
                        "the hub does not let this node in: its key is not registered, or it is running elsewhere"
                    ) from refusal
            if stop.wait(pause):
                raise Stopped
            pause = min(1.5 * pause, 3.0)

    def _tell_clock(self, skew: ClockSkew) -> None:
        """Say it where a clock was set while we ran: the hub takes us again when it is right."""
        _log.warning("%s (%s): %s", skew, skew.code, skew.advice)
        if self._on_trouble is not None:
            self._on_trouble(skew)

    def _leave(self, call: Caller, node_id: int) -> bool:
        """Sign off.  False: the hub did not answer or was too busy, and will notice by itself after 20 s."""
        deadline = time.monotonic() + _SIGNING_OFF
        while True:
            try:
                call.client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
            except httpx.HTTPStatusError as error:
                wanted = retry_after(error.response)
                if not wanted:
                    return error.response.status_code < 500
                if time.monotonic() + wanted > deadline:
                    return False
                time.sleep(wanted)  # not ended by ``stop``: that is why we sign off
            except (httpx.TransportError, ValueError):
                return False
            else:
                return True

    # -- attending -------------------------------------------------------------------------------------------------

    def _attend(self, call: Caller, node_id: int, session: Session, handle: Handler, stop: threading.Event) -> None:
        """Ask for messages and answer them, until we are stopped or the hub no longer knows us."""
        over, rejected, left = threading.Event(), threading.Event(), threading.Event()
        pulse = threading.Thread(
            target=self._beat, args=(call, node_id, stop, over, rejected, left), name="commonroot-pulse", daemon=True
        )
        pulse.start()
        question = PullMessagesRequest(node=Node(node_id=node_id))
        last_message = -_EAGER_FOR
        try:
            while not rejected.is_set():
                asked = time.monotonic()
                # The hub hands a message out once, and its answer may have been lost with the line: as a node that
                # joins anew we are asked again, and answer alike.
                answer = call(call.client.PullMessages, question, once=True)
                now = time.monotonic()
                if answer.messages_list:
                    with self._busy:
                        self._answer_safely(call, node_id, answer, handle)
                    last_message = time.monotonic()
                elif now - asked < _HELD and stop.wait(_pause(now - asked, now - last_message)):
                    raise Stopped
            raise Rejected
        finally:
            over.set()
            pulse.join(_REQUEST_TIMEOUT)
            if stop.is_set() and (left.is_set() or self._leave(call, node_id)):
                session.forget()  # otherwise the note stays, and signs us off at the next start

    def _beat(
        self,
        call: Caller,
        node_id: int,
        stop: threading.Event,
        over: threading.Event,
        rejected: threading.Event,
        left: threading.Event,
    ) -> None:
        """Signs of life, on a thread of their own: training takes long."""
        request = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=HEARTBEAT_INTERVAL)
        due = time.monotonic() + _BEAT
        while not over.is_set():
            if stop.wait(0.25):
                # Signing off makes the hub answer the question it holds, so the other thread hears of it at once.
                if not self._busy.locked() and self._leave(call, node_id):
                    left.set()
                return
            if time.monotonic() < due:
                continue
            due = time.monotonic() + _BEAT * random.uniform(0.9, 1.1)
            try:
                if not call.client.SendNodeHeartbeat(request).success:
                    rejected.set()
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.UNAUTHORIZED:
                    rejected.set()
                    return
                if wanted := retry_after(error.response):
                    due = time.monotonic() + min(wanted, _BEAT)  # it counts two before it gives us up
            except (httpx.HTTPError, ValueError):
                continue  # the other thread notices and says so

    def _answer_safely(self, call: Caller, node_id: int, answer: PullMessagesResponse, handle: Handler) -> None:
        """Nothing that the hub says about a message ends the daemon: such a message is dropped."""
        try:
            if not answer.message_object_trees:
                raise Malformed("a message without its tree")
            self._answer(call, node_id, answer.messages_list[0], answer.message_object_trees[0], handle)
        except (Stopped, Rejected):
            raise
        except Exception as error:
            _log.warning("dropped a message from the hub: %s", type(error).__name__)

    def _answer(self, call: Caller, node_id: int, proto: MessageProto, tree: ObjectTree, handle: Handler) -> None:
        """Fetch one parcel, have it handled, and send the reply."""
        node = Node(node_id=node_id)
        with reading("metadata that is none of Flower's"):
            message = metadata_from_proto(proto.metadata)

        def fetch(object_id: str) -> bytes:
            return call.fetch(PullObjectRequest(node=node, run_id=message.run_id, object_id=object_id))

        try:
            try:
                with reading("content that is none of Flower's"):
                    content = recorddict_from_proto(proto.content)
                parcel = unpack(content, tree, fetch, kinds=TO_DEPARTMENT, repeats=True)
            except Malformed as error:
                _log.warning("a message that is no parcel: %s", type(error.__cause__ or error).__name__)
                reply = Parcel(REFUSAL)
            else:
                if len(parcel.body) > INLINE_BODY:
                    # Training may take long: let the hub free its copy.  A small one goes when the reply arrives.
                    done = ConfirmMessageReceivedRequest(
                        node=node, run_id=message.run_id, message_object_id=message.message_id
                    )
                    call(call.client.ConfirmMessageReceived, done)
                reply = _handled(handle, parcel)
                del parcel
            self._reply(call, node, message, reply)
        except Dropped:
            _log.info("a message was withdrawn before it was answered")

    def _reply(self, call: Caller, node: Node, message: Metadata, reply: Parcel) -> None:
        now = time.time()
        metadata = Metadata(
            run_id=message.run_id,
            message_id="",
            src_node_id=message.dst_node_id,
            dst_node_id=message.src_node_id,
            reply_to_message_id=message.message_id,
            group_id=message.group_id,
            created_at=now,
            ttl=message.created_at + message.ttl - now,  # what is left of the question's
            message_type=message.message_type,
        )
        envelope = Envelope(Sealed(reply, mark=message.message_id), metadata)
        answer = call(
            call.client.PushMessages,
            PushMessagesRequest(
                node=node,
                messages_list=[envelope.announcement],
                message_object_trees=[envelope.tree],
                clientapp_runtime_list=[0.0],
            ),
        )
        for object_id, content in envelope.contents(set(answer.objects_to_push)):
            call(
                call.client.PushObject,
                PushObjectRequest(
                    node=node,
                    run_id=message.run_id,
                    object_id=object_id,
                    object_content=content,
                    session_id=answer.session_id,
                ),
            )

    def _client(self) -> FleetHttpClient:
        # RuntimeVersionHttpInterceptor ends the process over a version it does not like; VersionStamp does not.
        return FleetHttpClient(
            f"https://{self._address}",
            interceptors=[
                VersionStamp("SuperNode", __version__),
                NodeAuthHttpInterceptor(self._key, self._key.public_key()),
                *([Counted(self._on_sent)] if self._on_sent is not None else []),  # last: it sees what the others add
            ],
            verify=self._tls,
            timeout=_REQUEST_TIMEOUT,
        )

    def _say(self, state: str) -> None:
        if state == self._state:
            return
        self._state = state
        if self._on_state is not None:
            self._on_state(state)


def _handled(handle: Handler, parcel: Parcel) -> Parcel:
    try:
        return handle(parcel)
    except Exception as error:  # whatever it is, nothing of it may travel: its text could hold data
        code = error.code if isinstance(error, CommonrootError) else ""
        _log.error("the handler failed on %s: %s %s", parcel.kind, type(error).__name__, code)
        return Parcel(REFUSAL)


def _pause(took: float, quiet_for: float) -> float:
    """How long to wait before asking again a hub that answers at once.

    Eager soon after a message, idle later, and never more than about a tenth of the hub's time per node: when it is
    slow, that is because many ask.
    """
    wanted = _EAGER if quiet_for < _EAGER_FOR else _IDLE * random.uniform(0.5, 1.5)
    return min(max(wanted, 8 * took), 1.5 * _IDLE)


def signed_headers(key_path: Path) -> dict[str, str]:
    """Headers under which the hub knows a request to be this node's, once.  For ``doctor``, which sends no more."""
    key = load_node_key(key_path)
    request = httpx.Request("GET", "https://hub/health")
    context = ProtobufRequestContext("", PullMessagesRequest(), request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}
