"""The one route beside Flower's on the public port: small questions about membership, a few at a time.

Whoever has no node key yet, and whoever's key has run out, must be heard by somebody.  So this route asks for no
signed headers; instead a body has at most ``MAX_QUESTION`` bytes and seconds, an address a small allowance, and no more
than a few questions are answered at once.  See docs/adr/0016.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from commonroot.common.enrolment import MAX_QUESTION
from commonroot.server.asgi import Receive, Scope, Send, read_body
from commonroot.server.limits import Budgets, origin

#: From a body and the address it came from to a status and a body; called in a thread of its own.
Desk = Callable[[bytes, str], tuple[int, bytes]]

#: What an address may ask at once, and how much of that comes back in a second.  Departments ask every half minute, and
#: several may share an address.
BURST: Final = 60.0
PER_SECOND: Final = 2.0
#: How long a question may take to arrive, in seconds, and how many are answered at once.
_BODY_SECONDS: Final = 10.0
_AT_ONCE: Final = 8


class EnrolmentDoor:
    """ASGI for the one route; the gate hands such requests over."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._allowances = Budgets(PER_SECOND, most=BURST)
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        address = scope["client"][0] if scope.get("client") else ""
        if self._allowances.take(origin(address), time.monotonic()):
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
            async with asyncio.timeout(_BODY_SECONDS):
                body = await read_body(receive, MAX_QUESTION)
        except TimeoutError:
            await _answer(send, 408)
            return
        if body is None:
            await _answer(send, 413)
            return
        async with self._turn:
            status, answer = await asyncio.to_thread(self._desk, bytes(body), address)
        await _answer(send, status, answer)


async def _answer(send: Send, status: int, body: bytes = b"") -> None:
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
