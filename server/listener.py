"""uvicorn in a thread, behind the door that has accepted connections."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Final

import uvicorn

from commonroot.server.doors import Door

#: How long starting or stopping the listener may take, in seconds.
PATIENCE: Final = 15.0
#: How long requests in progress may take when the hub closes, in seconds.
LAST_ORDERS: Final = 2
#: The same for one that does send something, but never the whole head of a request.
_DAWDLING: Final = 35.0


class _Server(uvicorn.Server):
    """uvicorn, closing briskly, and hanging up on who connects and never finishes asking.

    When it closes it would wait for every idle connection to be closed from the other end, which a node does when it
    next asks.
    """

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door = door
        self._idle_since: dict[object, float] = {}

    async def on_tick(self, counter: int) -> bool:
        """Look once a second for connections without a request in progress."""
        if counter % 10 == 0:
            self._hang_up(time.monotonic())
            self._door.sweep(time.monotonic())
        return await super().on_tick(counter)

    def _hang_up(self, now: float) -> None:
        idle: dict[object, float] = {}
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                continue
            idle[connection] = self._idle_since.get(connection, now)
            if now - idle[connection] > _DAWDLING and connection.transport is not None:
                connection.transport.abort()
        self._idle_since = idle

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in progress finish, hang up, and then do what uvicorn does."""
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + LAST_ORDERS
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class Listener:
    """One uvicorn server in a thread.  In a thread it leaves signals alone, which is what we want."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        self._server = _Server(config, door)
        self._socket = door
        self._thread = threading.Thread(target=self._server.run, args=([door],), name="commonroot-hub", daemon=True)

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the hub's listener did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """Return when it has stopped, or after :data:`PATIENCE` seconds."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(PATIENCE)
        self._socket.close()
