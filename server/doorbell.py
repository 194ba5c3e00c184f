"""Who waits at the gate for a message, and who is told that one came in."""

from __future__ import annotations

import asyncio
import threading


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
