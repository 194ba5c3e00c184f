"""What the outside world may say to the hub: eight routes, small bodies, and nothing else.

Flower serves nodes, users and task processes on one port, and asks users and task processes for no proof of who they
are: whoever holds the CA certificate, which every department does, could start code on every node.  So the public
listener goes through this gate, which passes what a department's node needs and answers 404 to the rest.  Registering
a node is not among it: departments are enrolled by central IT, and what they say before they have a node's key goes to
:mod:`commonroot.server.enrol_door`.

A body is read only for a registered node: its signed headers are verified first, so nobody else can make the hub hold
anything.  A body must also arrive in reasonable time, and be about what is that node's own (``belongings``).

Whoever asks too often is told when to come back (429, 503, with Retry-After).  Nodes have a budget each, strangers one
for their address, so that a stranger behind the same address translation takes nothing from the departments there.

The gate is also a doorbell.  A node that asks for messages when there are none is kept waiting until there are, so a
message arrives at once and an idle federation costs one request per node every few seconds.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now as flower_now

from commonroot import __version__
from commonroot.common.enrolment import ROUTE
from commonroot.server.admission import Admission
from commonroot.server.asgi import App, Event, Receive, Scope, Send, read_body
from commonroot.server.belongings import REPLY, Belongings
from commonroot.server.doorbell import Doorbell
from commonroot.server.limits import Budgets, Limits, Refusals, origin
from commonroot.server.objects import PULL, PUSH, Answer

#: From a route's path, the node that signed, and the body.
Objects = Callable[[str, int, bytearray], Answer | None]

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

#: Questions about membership, where the coordinator answers them.
_ENROL: Final = ("POST", ROUTE)

#: The longest request body in bytes: one 5 MiB chunk and what is around it.
MAX_REQUEST: Final = 6 * 1024 * 1024
#: Each side tells the other what it runs; the coordinator tells registered nodes only.
VERSION_HEADER: Final = b"commonroot-version"
_VERSION: Final = re.compile(rb"[0-9A-Za-z.+-]{1,32}")
#: What a Host header may look like; anything else could make two readers see two paths.
_HOST: Final = re.compile(rb"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
#: The longest head of a request, in bytes.
MAX_HEADERS: Final = 16 * 1024
#: What a node signs every request with; without them there is nothing to read.
SIGNED_WITH: Final = frozenset(
    name.encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)
_REASONS: Final = {
    400: "not-clear",
    401: "not-signed",
    404: "no-such-route",
    413: "body-too-long",
    431: "headers-too-long",
}
#: How long a node that asks in vain is kept waiting, in seconds; well below any proxy's patience.
HOLD: Final = 10.0


class Seen(NamedTuple):
    """What the last request of a node said about it."""

    version: str
    clock_ahead: int  # seconds


class Gate:
    """ASGI filter in front of the hub; see the top of this file.

    admission   who signed the headers
    belongings  what a node may ask for
    objects     serves the two routes with payloads; None for what it leaves to the hub
    has_room    whether a reply of these objects may be announced now
    proved      told the address and port from where a node proved itself
    enrolment   serves ``enrolment.ROUTE``, to whomever; without it there is no such route
    """

    def __init__(
        self,
        hub: App,
        bell: Doorbell,
        admission: Admission,
        belongings: Belongings,
        *,
        limits: Limits | None = None,
        refusals: Refusals | None = None,
        proved: Callable[[tuple[str, int]], None] = lambda peer: None,
        has_room: Callable[[ObjectTree], bool] = lambda tree: True,
        objects: Objects = lambda path, node_id, body: None,
        hold: float = HOLD,
        limit: int = MAX_REQUEST,
        enrolment: App | None = None,
    ) -> None:
        self._enrolment = enrolment
        self._routes = OPEN_ROUTES if enrolment is None else OPEN_ROUTES | {_ENROL}
        self._hub = hub
        self._bell = bell
        self._admission = admission
        self._belongings = belongings
        self._limits = limits or Limits()
        self._refusals = refusals or Refusals()
        self._proved = proved
        self._has_room = has_room
        self._objects = objects
        self._hold = hold
        self._limit = limit
        self._addresses = Budgets(self._limits.requests_per_address)
        self._strangers = Budgets(self._limits.requests_of_strangers)
        self._nodes = Budgets(self._limits.requests_per_node)
        #: Of each node that signed a request: what it runs, and its clock.
        self.seen: dict[int, Seen] = {}
        self._at_once: Counter[int] = Counter()
        self._held = 0  # bytes of bodies that are being read or handed on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the listener is set up for http, not for {scope['type']}")
        peer = tuple(scope.get("client") or ("", 0))
        place, now = origin(peer[0]), time.monotonic()
        if wait := self._addresses.take(place, now):
            await self._refuse(send, 429, "address-too-fast", wait=wait)
            return
        status, announced = self._look_at(scope)
        if self._enrolment is not None and status is None and (scope["method"], scope["path"]) == _ENROL:
            await self._enrolment(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in SIGNED_WITH}
        if status is not None or (scope["method"] == "GET" and not headers):
            await self._serve_stranger(scope, receive, send, place, now, status)
            return
        node_id = await self._who(headers, place, now)
        if node_id is None:
            await self._serve_stranger(scope, receive, send, place, now, 401)
            return
        self._proved((str(peer[0]), int(peer[1])))
        self._note(scope, node_id, headers)
        if wait := self._nodes.take(str(node_id), now):
            await self._refuse(send, 429, "node-too-fast", node_id, wait=wait)
        elif self._at_once[node_id] >= self._limits.at_once_per_node:
            await self._refuse(send, 429, "node-too-many-at-once", node_id, wait=1.0)
        elif self._held and self._held + announced > self._limits.bodies_mib * 1024 * 1024:
            await self._refuse(send, 503, "bodies-full", node_id, wait=1.0)
        else:
            self._at_once[node_id] += 1
            self._held += announced
            try:
                await self._serve_node(scope, receive, send, node_id)
            finally:
                self._held -= announced
                self._at_once[node_id] -= 1
                if not self._at_once[node_id]:
                    del self._at_once[node_id]

    def _look_at(self, scope: Scope) -> tuple[int | None, int]:
        """What is wrong with a request whoever sends it, and how long its body may be in bytes."""
        target = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
        if target + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return 431, 0
        named = Counter(name for name, _ in scope["headers"])
        chunked = named[b"transfer-encoding"] > 0
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or named[b"content-length"] + chunked > 1:
            return 400, 0  # two readers could read it in two ways
        path = scope["path"]
        plainly = scope.get("raw_path", path.encode()) == path.encode() and not scope.get("query_string")
        if (scope["method"], path) not in self._routes or not plainly:
            return 404, 0
        announced = self._limit if chunked else _announced(scope)
        if announced > (self._limit if scope["method"] == "POST" else 0) or (chunked and scope["method"] == "GET"):
            return 413, 0
        return None, announced

    async def _who(self, headers: Mapping[str, str], place: str, now: float) -> int | None:
        """The node that signed, if one did.  Verifying takes a millisecond, so wrong signatures use up a budget: one
        for this address and this key, that departments with other keys do not share."""
        claimed = self._admission.claims(headers)
        if claimed is None or len(headers) < len(SIGNED_WITH) or self._strangers.wait(f"{place} {claimed}", now):
            return None
        node_id = await asyncio.to_thread(self._admission, headers)
        if node_id is None:
            self._strangers.take(f"{place} {claimed}", now)
        return node_id

    async def _serve_stranger(
        self, scope: Scope, receive: Receive, send: Send, place: str, now: float, status: int | None
    ) -> None:
        """Someone without a registered key: a word, and nothing is read."""
        if wait := self._strangers.take(place, now):
            await self._refuse(send, 429, "stranger-too-fast", wait=wait)
        elif status is not None:
            await self._refuse(send, status, _REASONS[status])
        else:
            await self._hub(scope, _replay(b"", receive), send)

    async def _serve_node(self, scope: Scope, receive: Receive, send: Send, node_id: int) -> None:
        path = scope["path"]
        if scope["method"] == "GET":
            await self._hub(scope, _replay(b"", receive), _with_version(send))
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await read_body(receive, self._limit)
        except TimeoutError:
            await self._refuse(send, 408, "body-too-slow", node_id)
            return
        if body is None:
            await self._refuse(send, 413, _REASONS[413], node_id)
        elif not self._belongings.may(path, node_id, body):
            await self._refuse(send, 403, "not-its-own", node_id, close=False)
        elif path == REPLY and not all(
            map(self._has_room, PushMessagesRequest.FromString(bytes(body)).message_object_trees)
        ):
            await self._refuse(send, 503, "replies-wait-their-turn", node_id, wait=1.0, close=False)
        elif path in (PULL, PUSH) and (done := await asyncio.to_thread(self._objects, path, node_id, body)) is not None:
            del body
            if path == _ARRIVAL:
                self._bell.arrived.set()
            await _hand_out(done, send)
        elif path == _PULL:
            await self._pull(scope, body, receive, send)
        elif path == _LEAVE:
            answer = await self._ask(scope, body, receive)
            if answer[0]["status"] == 200:
                self._bell.ring(DeactivateNodeRequest.FromString(bytes(body)).node_id)
            await _pass_on(answer, send)
        else:
            await self._hub(scope, _replay(body, receive), send)
            if path == _ARRIVAL:
                self._bell.arrived.set()

    def _note(self, scope: Scope, node_id: int, headers: Mapping[str, str]) -> None:
        """What a department runs, and how far its clock is ahead of ours: for ``coordinator doctor``."""
        told = [value for name, value in scope["headers"] if name == VERSION_HEADER]
        version = told[0].decode("latin-1") if told and _VERSION.fullmatch(told[0]) else ""
        signed_at = datetime.fromisoformat(headers[TIMESTAMP_HEADER])  # it was read already, to verify it
        self.seen[node_id] = Seen(version, round((signed_at - flower_now()).total_seconds()))

    async def _refuse(
        self,
        send: Send,
        status: int,
        reason: str,
        node_id: int | None = None,
        *,
        wait: float = 0.0,
        close: bool = True,
    ) -> None:
        """No, without a word of explanation; ``wait`` is when to come back, in seconds.

        A connection whose request was not read to its end has to be closed.
        """
        self._refusals.add(reason, node_id)
        headers = [(b"content-length", b"0")]
        if close:
            headers.append((b"connection", b"close"))
        if wait:
            headers.append((b"retry-after", str(max(1, math.ceil(wait))).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _pull(self, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send) -> None:
        """Ask the hub for messages; if it has none, wait for the bell and ask once more."""
        rings = self._bell.rings  # before asking: what is stored while we ask rings later
        answer = await self._ask(scope, body, receive)
        # Only a node that the hub understood and authenticated gets 200, so only such a node is kept waiting.
        if answer[0]["status"] == 200 and not any(part.get("body") for part in answer[1:]):
            node_id = PullMessagesRequest.FromString(bytes(body)).node.node_id
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

    async def _ask(self, scope: Scope, body: bytes | bytearray, receive: Receive) -> list[Event]:
        answer: list[Event] = []

        async def keep(event: Event) -> None:
            answer.append(event)

        # The hub writes into the scope it is given; the second question must not find traces of the first.
        await self._hub({**scope, "state": dict(scope.get("state", {}))}, _replay(body, receive), keep)
        return answer


def _with_version(send: Send) -> Send:
    """``send``, adding what this side runs."""

    async def told(event: Event) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event.get("headers", ()), (VERSION_HEADER, __version__.encode())]}
        await send(event)

    return told


async def _hand_out(answer: Answer, send: Send) -> None:
    """An answer in pieces, without putting them together."""
    status, parts = answer
    headers = [(b"content-length", str(sum(map(len, parts))).encode()), (b"content-type", b"application/protobuf")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _pass_on(answer: list[Event], send: Send) -> None:
    for part in answer:
        await send(part)


def _announced(scope: Scope) -> int:
    """The announced length of the body in bytes."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if not lengths:
        return 0
    # More digits than any length we take has; int() of a very long number would be slow.
    return int(lengths[0]) if lengths[0].isdigit() and len(lengths[0]) < 16 else 10**16


def _replay(body: bytes | bytearray, receive: Receive) -> Receive:
    """What ``receive`` would have given, had the body not been read already."""
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return again
