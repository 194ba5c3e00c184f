"""Links in memory, with a clock of their own: a network that can drop, delay, reorder, repeat and lie.

It implements the same ``Links`` as the Flower adapter, so the coordinator's code cannot tell the difference.  Time is
simulated: waiting costs nothing and a run is the same for the same seed.
"""

from __future__ import annotations

import heapq
import itertools
import random as seeded
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from commonroot.common.parcel import Parcel
from commonroot.server.links import Fault

Direction = Literal["to-department", "to-coordinator"]
#: What a department does with a parcel.
Handler = Callable[[Parcel], Parcel]


@dataclass(frozen=True, slots=True)
class Crossing:
    """One parcel on its way: which way, to or from which department, and how long it will take."""

    direction: Direction
    department: str
    parcel: Parcel
    seconds: float = 0.0


#: Turns one crossing into what really arrives: nothing (dropped), one (late or altered), or several (repeated).
Weather = Callable[[Crossing, seeded.Random], Iterable[Crossing]]


@dataclass
class _Department:
    handle: Handler
    name: str
    begin: Callable[[Parcel], None] | None = None
    life: int = 0
    online: bool = True


@dataclass(order=True)
class _Event:
    at: float
    order: int
    ticket: str = field(compare=False)
    node_key: str = field(compare=False)
    crossing: Crossing = field(compare=False)
    life: int = field(compare=False)
    #: Was the department told of it already?
    begun: bool = field(compare=False, default=False)


class MemoryNetwork:
    """Every department of a simulation behind one ``Links``."""

    def __init__(self, *, seed: int = 0, weather: Iterable[Weather] = ()) -> None:
        self._random = seeded.Random(seed)
        self._weather = list(weather)
        self._departments: dict[str, _Department] = {}
        self._events: list[_Event] = []
        #: Requests that come next, all at one moment; whatever is sent meanwhile comes after them.
        self._moment: deque[_Event] = deque()
        self._arrived: dict[str, Parcel | Fault] = {}
        self._forgotten: set[str] = set()
        self._numbers = itertools.count()
        self._now = 0.0
        #: Do departments work elsewhere while the coordinator does?  Under weather they wait for each other: what is
        #: sent between two replies throws dice, and so would the replies in another order.
        self._beside = False
        #: Every parcel that a department really sent, for audits.
        self.sent_by_departments: list[Crossing] = []
        self.keep_sent = False

    def clock(self) -> float:
        """Simulated seconds."""
        return self._now

    # -- departments -----------------------------------------------------------------------------------------------

    def attach(
        self, node_key: str, name: str, handle: Handler, *, begin: Callable[[Parcel], None] | None = None
    ) -> None:
        """A department comes online, for the first time or again after a restart.

        begin  told what ``handle`` will be called with, as soon as that is certain: where departments work elsewhere,
               those that are asked at one moment work at once, and the coordinator beside them
        """
        self._beside = begin is not None and not self._weather
        life = self._departments[node_key].life + 1 if node_key in self._departments else 0
        self._departments[node_key] = _Department(handle, name, begin, life)

    def detach(self, node_key: str) -> None:
        """A department is gone: what is on its way to it is lost."""
        self._departments[node_key].online = False

    # -- Links -----------------------------------------------------------------------------------------------------

    def present(self) -> dict[str, str]:
        """Departments online, with an incarnation that changes at every restart."""
        return {key: str(d.life) for key, d in self._departments.items() if d.online}

    def send(self, node_key: str, parcel: Parcel) -> str:
        """Put a request on its way."""
        ticket = str(next(self._numbers))
        department = self._departments[node_key]
        self._schedule(ticket, node_key, Crossing("to-department", department.name, parcel), department.life)
        return ticket

    def collect(self, tickets: Collection[str], timeout: float) -> list[tuple[str, Parcel | Fault]]:
        """Replies that arrive within ``timeout`` simulated seconds; returns as soon as there is one."""
        deadline = self._now + timeout
        wanted = set(tickets)
        while True:
            found = [(ticket, self._arrived.pop(ticket)) for ticket in sorted(wanted & set(self._arrived))]
            if found:
                return found
            if not self._moment and (not self._events or self._events[0].at > deadline):
                self._now = max(self._now, deadline)
                return []
            try:
                self._deliver(self._next())
            except BaseException:
                self._moment.clear()  # it ends here: nobody is to work on before it is heard of
                raise

    def forget(self, tickets: Collection[str]) -> None:
        """Replies to these are not wanted any more."""
        self._forgotten.update(tickets)
        while self._moment:  # whoever was asked at this moment has worked on it before anything else happens
            self._deliver(self._moment.popleft())
        for ticket in tickets:
            self._arrived.pop(ticket, None)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _schedule(self, ticket: str, node_key: str, crossing: Crossing, life: int) -> None:
        crossings = [crossing]
        for weather in self._weather:
            crossings = [out for one in crossings for out in weather(one, self._random)]
        for one in crossings:
            event = _Event(self._now + one.seconds, next(self._numbers), ticket, node_key, one, life)
            heapq.heappush(self._events, event)
            if self._beside and one.direction == "to-department":
                self._begin(event)

    def _begin(self, event: _Event) -> None:
        """Tell a department that works elsewhere what it will be asked."""
        department = self._departments[event.node_key]
        if department.begin is not None and not event.begun and department.online and department.life == event.life:
            event.begun = True
            department.begin(event.crossing.parcel)

    def _next(self) -> _Event:
        """The next event; of requests that come one after the other at one moment, all are begun."""
        if self._moment:
            replied = bool(self._events) and self._events[0].crossing.direction == "to-coordinator"
            return heapq.heappop(self._events) if self._beside and replied else self._moment.popleft()
        first = heapq.heappop(self._events)
        if first.crossing.direction == "to-coordinator":
            return first
        self._moment.append(first)
        while self._events and self._events[0].at == first.at and self._events[0].crossing.direction == "to-department":
            self._moment.append(heapq.heappop(self._events))
        for event in self._moment:
            self._begin(event)
        return self._moment.popleft()

    def _deliver(self, event: _Event) -> None:
        self._now = max(self._now, event.at)
        if event.crossing.direction == "to-coordinator":
            if event.ticket not in self._forgotten and event.ticket not in self._arrived:
                self._arrived[event.ticket] = event.crossing.parcel
            return
        department = self._departments[event.node_key]
        if not department.online or department.life != event.life:
            return  # lost with the process it was meant for
        # Nothing but kind, head and body crosses a network.
        reply = replace(department.handle(event.crossing.parcel), pieces=())
        if not department.online:
            return  # it died while it worked
        crossing = Crossing("to-coordinator", department.name, reply)
        if self.keep_sent:
            self.sent_by_departments.append(crossing)
        self._schedule(event.ticket, event.node_key, crossing, event.life)


# -- weather: small, composable ------------------------------------------------------------------------------------


def drop(share: float, *, kinds: Collection[str] | None = None, departments: Collection[str] | None = None) -> Weather:
    """Lose a share of the parcels (of some kinds, of some departments)."""

    def weather(crossing: Crossing, random: seeded.Random) -> Iterable[Crossing]:
        if _concerns(crossing, kinds, departments) and random.random() < share:
            return ()
        return (crossing,)

    return weather


def delay(most: float, *, kinds: Collection[str] | None = None, departments: Collection[str] | None = None) -> Weather:
    """Hold parcels back for up to ``most`` seconds each, which also reorders them."""

    def weather(crossing: Crossing, random: seeded.Random) -> Iterable[Crossing]:
        if not _concerns(crossing, kinds, departments):
            return (crossing,)
        late = crossing.seconds + random.random() * most
        return (Crossing(crossing.direction, crossing.department, crossing.parcel, late),)

    return weather


def repeat(share: float, *, kinds: Collection[str] | None = None) -> Weather:
    """Deliver a share of the parcels twice, the second time a second later."""

    def weather(crossing: Crossing, random: seeded.Random) -> Iterable[Crossing]:
        if _concerns(crossing, kinds, None) and random.random() < share:
            again = Crossing(crossing.direction, crossing.department, crossing.parcel, crossing.seconds + 1.0)
            return (crossing, again)
        return (crossing,)

    return weather


def lie(change: Callable[[Crossing], Parcel | None]) -> Weather:
    """Replace parcels by whatever ``change`` returns; None leaves one alone."""

    def weather(crossing: Crossing, random: seeded.Random) -> Iterable[Crossing]:
        forged = change(crossing)
        if forged is None:
            return (crossing,)
        return (Crossing(crossing.direction, crossing.department, forged, crossing.seconds),)

    return weather


def _concerns(crossing: Crossing, kinds: Collection[str] | None, departments: Collection[str] | None) -> bool:
    return (kinds is None or crossing.parcel.kind in kinds) and (
        departments is None or crossing.department in departments
    )
