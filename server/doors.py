"""The listening socket: who may connect at all, judged before the TLS handshake, which is the dearest thing there is.

A visitor is a stranger until a request under a registered key came from it.  Strangers have places of their own; when
these are taken, the oldest stranger has to go, so that silent connections cannot keep a department out: it needs
milliseconds to show its key, and is never sent away afterwards.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Final

from commonroot.server.limits import Budgets, Limits, Refusals, origin

#: How long a stranger may stay connected, in seconds: handshake, request and answer.
STRANGERS_STAY: Final = 35.0

#: A peer's address and port, as the socket and ASGI both name it.
Peer = tuple[str, int]


class Visitor(socket.socket):
    """An accepted connection that tells the door when it is closed."""

    door: Door | None = None
    peer: Peer = ("", 0)
    place: str = ""
    since: float = 0.0

    def close(self) -> None:
        """Close, and free the place."""
        door, self.door = self.door, None
        super().close()
        if door is not None:
            door.gone(self)

    def send_away(self) -> None:
        """End the connection; the event loop sees its end and closes it."""
        with contextlib.suppress(OSError):  # it has gone by itself
            self.shutdown(socket.SHUT_RDWR)


class Door(socket.socket):
    """A listening socket with room for as many as the limits say."""

    def __init__(self, listening: socket.socket, limits: Limits, refusals: Refusals) -> None:
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._limits = limits
        self._refusals = refusals
        self._lock = threading.RLock()
        self._inside: dict[Peer, Visitor] = {}
        self._strangers: dict[Peer, Visitor] = {}  # in the order they came
        self._at: dict[str, int] = {}
        self._coming = Budgets(limits.new_connections)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next visitor.  Raises ConnectionAbortedError for one that is not let in, as if it had hung up."""
        descriptor, address = self._accept()  # type: ignore[attr-defined]  # what socket.accept itself calls
        visitor = Visitor(self.family, self.type, self.proto, fileno=descriptor)
        visitor.peer, visitor.place, visitor.since = address[:2], origin(address[0]), time.monotonic()
        with self._lock:
            why = self._full(visitor)
            if why is None:
                visitor.door = self
                self._inside[visitor.peer] = self._strangers[visitor.peer] = visitor
                self._at[visitor.place] = self._at.get(visitor.place, 0) + 1
        if why is not None:
            self._refusals.add(why)
            visitor.close()
            raise ConnectionAbortedError
        return visitor, address

    def proved(self, peer: Peer) -> None:
        """A request under a registered key came from there: no stranger any more."""
        if peer in self._strangers:
            with self._lock:
                self._strangers.pop(peer, None)

    def gone(self, visitor: Visitor) -> None:
        """A connection was closed."""
        with self._lock:
            self._strangers.pop(visitor.peer, None)
            if self._inside.pop(visitor.peer, None) is None:
                return
            self._at[visitor.place] -= 1
            if not self._at[visitor.place]:
                del self._at[visitor.place]

    def sweep(self, now: float) -> None:
        """Send away strangers that have stayed too long, also those in the middle of a handshake."""
        with self._lock:
            late = [visitor for visitor in self._strangers.values() if now - visitor.since > STRANGERS_STAY]
        for visitor in late:
            visitor.send_away()

    def counts(self) -> dict[str, int]:
        """Connections that are open now, and those of strangers among them."""
        with self._lock:
            return {"connections": len(self._inside), "strangers": len(self._strangers)}

    def _full(self, visitor: Visitor) -> str | None:
        """Why there is no room, if there is none; the oldest stranger makes room for the next."""
        limits = self._limits
        if self._coming.take(visitor.place, visitor.since):
            return "connections-too-fast"
        if len(self._inside) >= limits.connections or self._at.get(visitor.place, 0) >= limits.connections_per_address:
            return "connections-full"
        here = [known for known in self._strangers.values() if known.place == visitor.place]
        if len(here) >= limits.strangers_per_address:
            self._evict(here[0])
        elif len(self._strangers) >= limits.strangers:
            self._evict(next(iter(self._strangers.values())))
        return None

    def _evict(self, oldest: Visitor) -> None:
        """Make room, at once in the books."""
        self._refusals.add("strangers-sent-away")
        oldest.send_away()
        self.gone(oldest)
