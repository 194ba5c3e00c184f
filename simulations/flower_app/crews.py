"""Workers of the round loop that are Flower's: shares of departments go out as messages, and sums come back.

Departments are dealt out anew for every question, to however many nodes there are: a node is whoever takes a message,
and with as many nodes as departments each takes one.  Whole numbers are added, so nothing depends on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from commonroot.common.errors import DataError, ProcessDied
from commonroot.common.manifest import flatten
from commonroot.common.secure_sum.codec import Bounds
from commonroot.common.secure_sum.lanes import Words, Words64
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.engine.workers import Hire, OnDone, State
from commonroot.simulations.flower_app.client import (
    BOUNDS,
    BROADCAST,
    CHECK,
    FINISH,
    TOLD,
    TRAIN,
    WORDS,
    share_of,
)

#: Seconds between looks at what came back, at first and at most.
_SOONEST, _LATEST = 0.01, 0.1
#: Seconds until Flower has nodes, before that is an error.
_PATIENCE: Final = 120.0


def hire_on(grid: Grid, stopped: threading.Event | None = None) -> Hire:
    """Workers on Flower's grid, for ``engine.run.drive``; ``stopped`` ends every wait."""

    def hire(plan: Plan, *, workers: int, newest: int, memory: int, on_done: OnDone) -> GridCrews:
        return GridCrews(plan, grid, on_done, stopped or threading.Event())

    return hire


class GridCrews:
    """Departments of a plan behind a grid; the methods are those of ``engine.workers.Workers``."""

    def __init__(self, plan: Plan, grid: Grid, on_done: OnDone, stopped: threading.Event) -> None:
        self._plan, self._grid, self._on_done, self._stopped = plan, grid, on_done, stopped
        self._names = list(plan.departments)

    def train(
        self, who: Sequence[int], counted: Sequence[int], state: State, version: int, bounds: Bounds, adder: Adder
    ) -> tuple[Words, Words64]:
        """See ``engine.crew.Crew.train``."""
        kept = frozenset(counted)
        arrays = self._broadcast(state) | {BOUNDS: np.asarray(bounds, dtype="<f4").tobytes()}

        def ask(share: list[int]) -> dict[str, Any]:
            own = [number for number in share if number in kept]
            return {"counted": own, "version": version, "cohort": adder.codec.departments}

        bulk, exact = adder.codec.layout.empty()
        bulk[:], exact[:] = 0, 0
        for share, reply in self._ask(TRAIN, who, ask, arrays):
            words, words64 = adder.codec.layout.split(reply.content.array_records[WORDS][WORDS].data)
            np.add(bulk, words, out=bulk)
            np.add(exact, words64, out=exact)
            for line in cast(list[str], reply.content.config_records[TOLD]["abstained"]):
                name, _, code = line.rpartition(" ")
                self._on_done("abstained", {"department": name, "code": code})
            for _ in share:
                self._on_done("trained", {})
        return bulk, exact

    def check(self, who: Sequence[int]) -> None:
        """Have every one's data held against the charter."""
        for share, reply in self._ask(CHECK, who):
            told = cast(list[str], reply.content.config_records[TOLD]["wrong"])
            for number, wrong in zip(share, told, strict=True):
                self._on_done("checked", {"department": self._names[number], "wrong": wrong or None})

    def finish(self, who: Sequence[int], state: State, version: int) -> None:
        """Every one's last step."""
        for share, _ in self._ask(FINISH, who, lambda share: {"version": version}, self._broadcast(state)):
            for number in share:
                self._on_done("finished", {"department": self._names[number]})

    def close(self) -> None:
        """Nothing is held."""

    def _broadcast(self, state: State) -> dict[str, bytes]:
        return {BROADCAST: bytes(flatten(state, self._plan.charter.broadcast))}

    def _ask(
        self,
        what: str,
        who: Sequence[int],
        more: Callable[[list[int]], dict[str, Any]] = lambda share: {},
        arrays: dict[str, bytes] | None = None,
    ) -> Iterator[tuple[list[int], Message]]:
        """Ask about every department; shares with their replies, as they come.

        Raises DataError for what a department refuses, ProcessDied where a worker failed or Flower has stopped.
        """
        nodes = self._nodes()
        shares = [list(who[at :: len(nodes)]) for at in range(min(len(nodes), len(who)))]
        messages = [
            Message(share_of({"plan": str(self._plan.root), "who": share} | more(share), arrays), node, what)
            for node, share in zip(nodes, shares, strict=False)
        ]
        waiting = dict(zip(self._grid.push_messages(messages), shares, strict=True))
        pause = _SOONEST
        while waiting:
            found = list(self._grid.pull_messages(list(waiting)))
            for reply in found:
                yield waiting.pop(reply.metadata.reply_to_message_id), _good(reply)
            pause = _SOONEST if found else min(2 * pause, _LATEST)
            if waiting and self._stopped.wait(pause):
                raise ProcessDied("Flower's simulation stopped while departments were at work")

    def _nodes(self) -> list[int]:
        """Those that there are now; at the very start there may be none yet."""
        latest = time.monotonic() + _PATIENCE
        while not (nodes := sorted(self._grid.get_node_ids())):
            if time.monotonic() > latest or self._stopped.wait(_LATEST):
                raise ProcessDied("Flower has no nodes to run departments on")
        return nodes


def _good(reply: Message) -> Message:
    if reply.has_error():
        raise ProcessDied(f"one of Flower's workers failed: {reply.error.reason}")
    told = reply.content.config_records[TOLD]
    if "failed" in told:
        raise DataError(f"{told['why']!s} ({told['failed']!s})")
    return reply
