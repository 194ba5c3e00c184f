"""The one route beside Flower's on the public port: small questions about membership, a few at a time.

Whoever has no node key yet, and whoever's key has run out, must be heard by somebody.  So this route asks for no
signed headers; instead a body has at most ``MAX_QUESTION`` bytes and seconds, an address a small allowance, and no more
than a few questions are answered at once.  See docs/adr/0016.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from commonroot.common.enrolment import MAX_QUESTION

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: From a body and the address it came from to a status and a body; called in a thread of its own.
Desk = Callable[[bytes, str], tuple[int, bytes]]

#: What an address may ask at once, and how much of that comes back in a second.  Departments ask every half minute, and
#: several may share an address.
BURST: Final = 60.0
PER_SECOND: Final = 2.0
#: Addresses that are remembered; beyond, the one that was quiet for longest is forgotten.
ADDRESSES: Final = 4096
#: How long a question may take to arrive, in seconds, and how many are answered at once.
_BODY_SECONDS: Final = 10.0
_AT_ONCE: Final = 8


class Allowance:
    """A bucket of tokens for each address: ``burst`` at once, ``rate`` a second in the long run.

    Addresses of IPv6 count by their /64, since whoever has one has all of those.
    """

    def __init__(
        self, *, burst: float = BURST, rate: float = PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> bool:
        """Whether this address may ask once more, now."""
        key, now = _network(address), self._clock()
        level, at = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return allowed


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class EnrolmentDoor:
    """ASGI for the one route; the gate hands such requests over."""

    def __init__(self, desk: Desk, *, allowance: Allowance | None = None, body_seconds: float = _BODY_SECONDS) -> None:
        self._desk = desk
        self._allowance = allowance or Allowance()
        self._body_seconds = body_seconds
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        address = scope["client"][0] if scope.get("client") else ""
        if not self._allowance.take(address):
            await _answer(send, 429)
            return
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 8:
            await _answer(send, 411)
            return
        if int(lengths[0]) > MAX_QUESTION:
            await _answer(send, 413)
            return
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await _read(receive)
        except TimeoutError:
            await _answer(send, 408)
            return
        if body is None:
            await _answer(send, 413)
            return
        async with self._turn:
            status, answer = await asyncio.to_thread(self._desk, body, address)
        await _answer(send, status, answer)


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if len(body) > MAX_QUESTION:
            return None
        if not event.get("more_body", False):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes = b"") -> None:
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
