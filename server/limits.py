"""How much the public port takes, from whom, and how often it said no.

Two kinds of visitor share an address: departments' nodes, which sign every request, and strangers, which do not.  Many
departments may come from behind one address, so what a stranger does there is counted apart and costs them nothing:
a node has a budget of its own, and only the generous one of the whole address is common to all.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]

#: A budget may be overdrawn for this many seconds' worth of requests at once.
BURST_SECONDS: Final = 4.0
#: Budgets remembered at most; one that is whole again is the same as none.
_REMEMBERED: Final = 4096


class Limits(BaseModel):
    """``[limits]`` of ``coordinator.toml``; the template says what each is for.  Rates are per second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connections: Count = 1024
    connections_per_address: Count = 256
    strangers: Count = 256
    strangers_per_address: Count = 96
    new_connections: Rate = 32.0
    requests_per_address: Rate = 400.0
    requests_per_node: Rate = 30.0
    requests_of_strangers: Rate = 10.0
    at_once_per_node: Count = 8
    replies_mib: Annotated[int, Field(ge=8)] = 2048
    bodies_mib: Annotated[int, Field(ge=8)] = 256
    body_seconds: Rate = 60.0


#: What the template of ``coordinator.toml`` says about them; every line is a default.
TEMPLATE: Final = """
# What the public port takes. The defaults suit 32 departments behind one address; refusals are counted by
# `commonroot coordinator status`. Rates are per second; four seconds' worth may come at once.
#[limits]
#connections = 1024              # open at once; a department needs two or three
#connections_per_address = 256   # of them from one address (IPv6: one /64 network)
#strangers = 256                 # open at once that have not shown a registered key; the oldest goes first
#strangers_per_address = 96
#new_connections = 32.0          # per second and address, refused before the TLS handshake
#requests_per_address = 400.0    # of everybody there together
#requests_per_node = 30.0        # of one enrolled department
#requests_of_strangers = 10.0    # per address: without a registered key, or nodes' routes without a valid signature
#at_once_per_node = 8            # requests of one department in progress
#replies_mib = 2048              # uploads on their way at once, in memory; others wait their turn
#bodies_mib = 256                # request bodies held in memory at once, of all departments together
#body_seconds = 60.0             # that one body may take: 5 MiB at 0.7 Mbit/s
"""


def origin(address: str) -> str:
    """What counts as one address: itself, or of IPv6 the /64 that one customer has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Budgets:
    """A budget for each key: ``rate`` a second, at once ``most`` or :data:`BURST_SECONDS` worth.  For one thread."""

    def __init__(self, rate: float, *, most: float | None = None) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST_SECONDS) if most is None else most
        #: Key → what was left, and when.
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, key: str, now: float) -> float:
        """Seconds until there is something to take; 0 if there is now."""
        return max(0.0, (1.0 - self._now(key, now)) / self._rate)

    def take(self, key: str, now: float) -> float:
        """Take one; or take none, and return after how many seconds there will be one."""
        left = self._now(key, now)
        if left < 1.0:
            return (1.0 - left) / self._rate
        if key not in self._left and len(self._left) >= _REMEMBERED:
            self._forget(now)
        self._left[key] = (left - 1.0, now)
        return 0.0

    def _now(self, key: str, now: float) -> float:
        left, at = self._left.get(key, (self._most, now))
        return min(self._most, left + (now - at) * self._rate)

    def _forget(self, now: float) -> None:
        """Forget whole budgets; if none is, the oldest half, which at worst lets somebody begin anew."""
        self._left = {key: kept for key, kept in self._left.items() if self._now(key, now) < self._most}
        if len(self._left) >= _REMEMBERED:
            newest = sorted(self._left.items(), key=lambda item: item[1][1])[_REMEMBERED // 2 :]
            self._left = dict(newest)


class Refusals:
    """How often the public port said no, by reason, and of enrolled departments by node too.  For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_all: Counter[str] = Counter()
        self._of_nodes: Counter[tuple[int, str]] = Counter()

    def add(self, reason: str, node_id: int | None = None) -> None:
        """Count one."""
        with self._lock:
            self._of_all[reason] += 1
            if node_id is not None:
                self._of_nodes[node_id, reason] += 1

    def by_reason(self) -> dict[str, int]:
        """Reason → how often."""
        with self._lock:
            return dict(sorted(self._of_all.items()))

    def by_node(self) -> dict[int, dict[str, int]]:
        """Flower's number of a node → reason → how often."""
        out: dict[int, dict[str, int]] = {}
        with self._lock:
            for (node_id, reason), count in sorted(self._of_nodes.items()):
                out.setdefault(node_id, {})[reason] = count
        return out
