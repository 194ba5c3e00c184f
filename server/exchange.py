"""Ask several departments one thing each, and never wait longer than was said.

This is the one place where the coordinator waits.  A department that comes back after a restart is asked again (it
gives the identical answer, or makes the answer it never got to make); one that the hub has not seen for a while is
given up for this exchange; everybody is given up at the deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.server.links import Fault, Links

#: How often presence is looked at while waiting, and how often a failed delivery is tried again, in seconds.
_LOOK = 0.5
_DELIVERIES = 5


class Clock(Protocol):
    """Seconds that only go forward.  Simulations bring their own."""

    def __call__(self) -> float:
        """Now."""


#: Called with a department's number and its reply; True when the exchange has all it needs.
Accept = Callable[[int, Parcel], bool]


class Stopped(Exception):
    """The coordinator was asked to stop while it waited; the journal says where to go on."""


class Exchange:
    """The coordinator's side of request and reply, over any links."""

    def __init__(
        self, links: Links, roster: Roster, clock: Clock, *, absence: float, stop: threading.Event | None = None
    ) -> None:
        self._links = links
        self._clock = clock
        self._absence = absence
        self._stop = stop or threading.Event()
        self._node_keys = [member.node_key for member in roster.departments]

    def present(self) -> dict[int, str]:
        """Departments that the hub sees now, by number, with their incarnation."""
        seen = self._links.present()
        return {at: seen[key] for at, key in enumerate(self._node_keys) if key in seen}

    def now(self) -> float:
        """Seconds by the clock that deadlines are kept by."""
        return self._clock()

    def pause(self, seconds: float) -> None:
        """Wait while nothing is outstanding."""
        self._check_stop()
        self._links.collect([], seconds)

    def ask(
        self,
        parcels: Mapping[int, Parcel],
        *,
        seconds: float,
        accept: Accept,
        on_fault: Callable[[int, str], None] | None = None,
    ) -> set[int]:
        """Send one parcel to each department and pass on the replies as they come.

        Returns the departments that did not answer, once ``accept`` said it has enough, everyone has answered or was
        given up, or ``seconds`` have passed.
        """
        began = self._clock()
        deadline = began + seconds
        waiting: set[int] = set(parcels)
        answered: set[int] = set()
        tickets: dict[str, int] = {}
        incarnation: dict[int, str] = {}
        last_seen = dict.fromkeys(parcels, began)
        deliveries = dict.fromkeys(parcels, 0)
        next_look = began
        enough = not waiting
        try:
            while waiting and not enough:
                self._check_stop()
                now = self._clock()
                if now >= deadline:
                    break
                if now >= next_look:
                    next_look = now + _LOOK
                    present = self.present()
                    for who in sorted(waiting):
                        if who in present:
                            last_seen[who] = now
                            asked = who in tickets.values()
                            if deliveries[who] < _DELIVERIES and (not asked or incarnation[who] != present[who]):
                                self._forget(tickets, who)
                                incarnation[who] = present[who]
                                tickets[self._links.send(self._node_keys[who], parcels[who])] = who
                                deliveries[who] += 1
                    waiting = {who for who in waiting if now - last_seen[who] <= self._absence}
                    for who in [w for w in tickets.values() if w not in waiting]:
                        self._forget(tickets, who)
                patience = min(deadline, next_look) - now
                for ticket, reply in self._links.collect(list(tickets), max(0.0, patience)):
                    who = tickets.pop(ticket)
                    if isinstance(reply, Fault):
                        if on_fault is not None:
                            on_fault(who, reply.reason)
                        if deliveries[who] >= _DELIVERIES:
                            waiting.discard(who)
                        continue
                    waiting.discard(who)
                    answered.add(who)
                    enough = accept(who, reply) or enough
                    del reply  # it may be large, and the next one is fetched before this name is used again
        finally:  # also where a full disk or a stop ends it: replies in flight may be large
            self._links.forget(list(tickets))
        return set(parcels) - answered

    def _forget(self, tickets: dict[str, int], who: int) -> None:
        for ticket in [t for t, w in tickets.items() if w == who]:
            del tickets[ticket]
            self._links.forget([ticket])

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped
