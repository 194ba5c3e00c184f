"""``python -m commonroot.simulations.mortal ORDERS …``: ``commonroot …``, killed with SIGKILL at a point of its run.

The orders are a JSON file that may change while the process runs: ``strike`` lists points by number, and the first one
that did not strike yet is where the process dies; ``lose`` lists kinds of replies that never leave a department;
``ahead`` is how many seconds this process takes the time to be ahead of what it is.  A strike is noted in
``ORDERS.struck`` before the signal, so the next process looks for the next point.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from commonroot.cli import app
from commonroot.common.parcel import Parcel
from commonroot.simulations.crash_points import COORDINATOR, DEPARTMENT, Point, install


class Orders:
    """What one process is to die of; see the top of this file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._struck = path.with_name(path.name + ".struck")
        self._lock = threading.Lock()
        self._seen = -1
        self._target = ""
        self._lose: frozenset[str] = frozenset()
        self._ahead = 0.0

    def passing(self, point: Point) -> None:
        """Die here, if this is the point."""
        with self._lock:
            self._look()
            if point.number != self._target:
                return
            with self._struck.open("ab") as file:
                file.write(f"{point.number}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            os.kill(os.getpid(), signal.SIGKILL)

    def loses(self, kind: str) -> bool:
        """Whether replies of this kind are to be lost."""
        with self._lock:
            self._look()
            return kind in self._lose

    def ahead(self) -> float:
        """Seconds that the clock is wrong by."""
        with self._lock:
            self._look()
            return self._ahead

    def _look(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._seen:
            return
        self._seen = changed
        orders = json.loads(self._path.read_bytes())
        self._lose = frozenset(orders.get("lose", ()))
        self._ahead = float(orders.get("ahead", 0.0))
        self._target = next(iter(orders.get("strike", [])[struck(self._path) :]), "")


def struck(orders: Path) -> int:
    """How many strikes of these orders there were."""
    path = orders.with_name(orders.name + ".struck")
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _lose_replies(orders: Orders) -> None:
    from commonroot.client import node, node_calls

    sending = node.FlowerNode._reply

    def reply(self: Any, call: Any, to: Any, message: Any, parcel: Parcel) -> None:
        if orders.loses(parcel.kind):
            raise node_calls.Dropped
        sending(self, call, to, message, parcel)

    setattr(node.FlowerNode, "_reply", reply)  # noqa: B010 - the class says otherwise to type checkers


def _set_clock(orders: Orders) -> None:
    """Let this process and Flower in it read a clock that is wrong by what the orders say; time passes as ever."""
    from flwr.supercore import date

    right = time.time

    class _Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> _Clock:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: right() + orders.ahead()
    setattr(date, "datetime", SimpleNamespace(datetime=_Clock, UTC=datetime.UTC))  # noqa: B010 - not to be told


def main() -> None:
    """Entry point."""
    path, *arguments = sys.argv[1:]
    orders = Orders(Path(path))
    _set_clock(orders)
    if arguments[:1] == ["department"]:
        _lose_replies(orders)
        install(DEPARTMENT, orders.passing)
    else:
        install(COORDINATOR, orders.passing)
    sys.argv[1:] = arguments
    app(prog_name="commonroot")


if __name__ == "__main__":
    main()
