"""What the outside world may say to the hub: eight routes, small bodies, and nothing else.

Flower serves nodes, users and task processes on one port, and asks users and task processes for no proof of who they
are: whoever holds the CA certificate, which every department does, could start code on every node.  So the public
listener goes through this gate, which passes what a department's node needs and answers 404 to the rest.  Registering
a node is not among it: departments are enrolled by central IT, and what they say before they have a node's key goes to
:mod:`commonroot.server.enrol_door`.

A long body is read only for a registered node: its signed headers are verified first, so nobody else can make the hub
hold more than a few kilobytes.  A body must also arrive in reasonable time.

The gate is also a doorbell.  A node that asks for messages when there are none is kept waiting until there are, so a
message arrives at once and an idle federation costs one request per node every few seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from commonroot.common.enrolment import ROUTE

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
#: Whether the headers, by name, are signed by a registered node.
Admit = Callable[[Mapping[str, str]], bool]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FLEET: Final = "/v1/fleet/"
_PULL: Final = _FLEET + "pull-messages"
_LEAVE: Final = _FLEET + "deactivate-node"
#: Every message ends with an object, short ones too.
_ARRIVAL: Final = _FLEET + "push-object"
#: Exactly what ``client/node.py`` calls.
OPEN_ROUTES: Final = frozenset(
    {("GET", "/health"), ("POST", _PULL), ("POST", _LEAVE), ("POST", _ARRIVAL)}
    | {
        ("POST", _FLEET + name)
        for name in ("activate-node", "send-node-heartbeat", "pull-object", "confirm-message-received", "push-messages")
    }
)

#: The longest request body in bytes: one 5 MiB chunk and what is around it.
MAX_REQUEST: Final = 6 * 1024 * 1024
#: Bodies up to this many bytes are read before the hub has checked who sends them.
SHORT_REQUEST: Final = 64 * 1024
#: How long a whole request body may take, in seconds: 5 MiB at 0.7 Mbit/s.
BODY_SECONDS: Final = 60.0
#: What a node signs every request with; without them there is nothing to read.
SIGNED_WITH: Final = frozenset(
    name.encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)
#: How long a node that asks in vain is kept waiting, in seconds; well below any proxy's patience.
HOLD: Final = 10.0


class Doorbell:
    """Wakes the nodes that wait for messages, and tells the coordinator that something came in.

    ``ring`` may be called from any thread; waiting happens on the listener's event loop.
    """

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._rings = 0
        self._last_ring: dict[int, int] = {}
        self._closed = False

    @property
    def rings(self) -> int:
        """How often it rang so far, for anybody."""
        return self._rings

    def ring(self, node_id: int) -> None:
        """A message for this node is complete, or it leaves: whoever waits for it need not wait longer."""
        with self._lock:
            self._rings += 1
            self._last_ring[node_id] = self._rings
            waiting = self._waiting.pop(node_id, None)
        if waiting is None:
            return
        loop, event = waiting
        # A loop that has ended has nobody waiting on it.
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    async def wait(self, node_id: int, since: int, seconds: float) -> bool:
        """Wait for a ring for this node, later than the ``since``-th of all.

        True: it rang, perhaps already; False: it did not, or somebody else waits for the same, or the house closes.
        """
        event = asyncio.Event()
        with self._lock:
            if self._closed:
                return False
            if self._last_ring.get(node_id, 0) > since:
                return True
            earlier = self._waiting.get(node_id)
            self._waiting[node_id] = (asyncio.get_running_loop(), event)
        if earlier is not None:
            earlier[1].set()
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            with self._lock:
                if self._waiting.get(node_id, (None, None))[1] is event:
                    del self._waiting[node_id]
        return not self._closed

    def close(self) -> None:
        """Send everybody home; nobody waits from now on."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
        for loop, event in waiting.values():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        self.arrived.set()


class Gate:
    """ASGI filter in front of the hub; see the top of this file.

    ``admit`` is asked, in a thread of its own, before a long body is read; ``enrolment`` serves ``enrolment.ROUTE``.
    """

    def __init__(
        self,
        hub: App,
        bell: Doorbell,
        admit: Admit,
        *,
        hold: float = HOLD,
        limit: int = MAX_REQUEST,
        body_seconds: float = BODY_SECONDS,
        enrolment: App | None = None,
    ) -> None:
        self._enrolment = enrolment
        self._admit = admit
        self._body_seconds = body_seconds
        self._hub = hub
        self._bell = bell
        self._hold = hold
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the listener is set up for http, not for {scope['type']}")
        path = scope["path"]
        if self._enrolment is not None and (scope["method"], path) == ("POST", ROUTE):
            await self._enrolment(scope, receive, send)
            return
        if (scope["method"], path) not in OPEN_ROUTES:
            await _answer(send, 404)
            return
        announced = _announced(scope)
        if announced is not None and announced > self._limit:
            await _answer(send, 413)
            return
        if scope["method"] == "POST" and not await self._may_send(scope, announced):
            await _answer(send, 401)
            return
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await _read(receive, self._limit if scope["method"] == "POST" else 0)
        except TimeoutError:
            await _answer(send, 408)
            return
        if body is None:
            await _answer(send, 413)
        elif path == _PULL:
            await self._pull(scope, body, receive, send)
        elif path == _LEAVE:
            answer = await self._ask(scope, body, receive)
            if answer[0]["status"] == 200:
                self._bell.ring(DeactivateNodeRequest.FromString(body).node_id)
            await _pass_on(answer, send)
        else:
            await self._hub(scope, _replay(body, receive), send)
            if path == _ARRIVAL:
                self._bell.arrived.set()

    async def _may_send(self, scope: Scope, announced: int | None) -> bool:
        """Whether to read the body at all.  The hub checks every request itself; this is about what to hold for it."""
        headers = {name: value for name, value in scope["headers"] if name in SIGNED_WITH}
        if len(headers) < len(SIGNED_WITH):
            return False
        if announced is not None and announced <= SHORT_REQUEST:
            return True
        return await asyncio.to_thread(self._admit, {n.decode(): v.decode("latin-1") for n, v in headers.items()})

    async def _pull(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Ask the hub for messages; if it has none, wait for the bell and ask once more."""
        rings = self._bell.rings  # before asking: what is stored while we ask rings later
        answer = await self._ask(scope, body, receive)
        # Only a node that the hub understood and authenticated gets 200, so only such a node is kept waiting.
        if answer[0]["status"] == 200 and not any(part.get("body") for part in answer[1:]):
            node_id = PullMessagesRequest.FromString(body).node.node_id
            if await self._wait(node_id, rings, receive):
                answer = await self._ask(scope, body, receive)
        await _pass_on(answer, send)

    async def _wait(self, node_id: int, since: int, receive: Receive) -> bool:
        """Wait for the bell, but not for a node that has hung up: it would take a message it never gets."""
        bell = asyncio.ensure_future(self._bell.wait(node_id, since, self._hold))
        gone = asyncio.ensure_future(receive())
        done, pending = await asyncio.wait({bell, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return gone not in done and bell.result()

    async def _ask(self, scope: Scope, body: bytes, receive: Receive) -> list[Event]:
        answer: list[Event] = []

        async def keep(event: Event) -> None:
            answer.append(event)

        # The hub writes into the scope it is given; the second question must not find traces of the first.
        await self._hub({**scope, "state": dict(scope.get("state", {}))}, _replay(body, receive), keep)
        return answer


async def _pass_on(answer: list[Event], send: Send) -> None:
    for part in answer:
        await send(part)


def _announced(scope: Scope) -> int | None:
    """The announced length of the body in bytes; None if it comes in pieces of its own lengths."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        return None
    if not lengths:
        return 0
    # More digits than any length we take has; int() of a very long number would be slow.
    return int(lengths[0]) if lengths[0].isdigit() and len(lengths[0]) < 16 else 10**16


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole request body, or None as soon as it is longer than ``limit`` bytes."""
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if len(body) > limit:
            return None
        if not event.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """What ``receive`` would have given, had the body not been read already."""
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
