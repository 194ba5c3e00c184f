"""Everything that is shown about a running coordinator, read in one place.

The journal's part is what ``coordinator status`` says (``server.status``); the roster and who is online are added here,
and what goes on at this moment.  Nothing here is of one department beyond membership, timing and codes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from commonroot import __version__
from commonroot.common.errors import all_errors
from commonroot.common.roster import Roster
from commonroot.server.journal import Journal
from commonroot.server.monitor.board import Board
from commonroot.server.status import PRIVACY, Books

#: Whoever looks within this many seconds of another sees the same.
_FRESH: Final = 0.8
FAULTS_SHOWN: Final = 200

#: Node key → whether it is online, and since when.
Attendance = Callable[[], dict[str, tuple[bool, float]]]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts of a running coordinator come from.

    roster    gives the one that stands now, if any does
    programs  node key → which version of the program it said it runs
    """

    federation: str
    journal: Journal
    board: Board
    attendance: Attendance
    roster: Callable[[], Roster | None]
    programs: Callable[[], dict[str, str]] = dict


class Watcher:
    """The facts of this moment, for however many look.  Safe to ask from any thread."""

    def __init__(self, sources: Sources, *, clock: Callable[[], float] = time.time) -> None:
        self._sources = sources
        self._books = Books(sources.journal)
        self._clock = clock
        self._lock = threading.Lock()
        self._facts: dict[str, Any] | None = None
        self._read_at = 0.0

    def facts(self) -> dict[str, Any]:
        """What ``Books.read`` says, with these keys beside it.

        federation, program, now, up_since   times in seconds since 1970
        epoch, roster, roster_expires        of the roster that stands: its number, hash, and end; 0 where none does
        departments                          see :meth:`_departments`
        moment                               the run in progress (``board.Moment``)
        current                              number of the run in progress, else of the newest one; None before any
        events                               the last events, oldest first
        privacy                              what can be said of it, in words
        """
        with self._lock:
            now = self._clock()
            if self._facts is None or not 0 <= now - self._read_at < _FRESH:
                self._facts = self._read(now)
                self._read_at = now
            return self._facts

    def _read(self, now: float) -> dict[str, Any]:
        roster = self._sources.roster()
        moment = self._sources.board.moment()
        books = self._books.read(newest_faults=FAULTS_SHOWN)
        return {
            "federation": self._sources.federation,
            "program": __version__,
            "now": now,
            "up_since": self._sources.board.began,
            "epoch": 0 if roster is None else roster.epoch,
            "roster": "" if roster is None else roster.digest.hex(),
            "roster_expires": 0 if roster is None else roster.expires,
            "departments": [] if roster is None else self._departments(roster, moment),
            "moment": moment,
            "current": _current(books["runs"]),
            "events": self._sources.board.events(),
            "privacy": PRIVACY,
            **books,
        }

    def _departments(self, roster: Roster, moment: dict[str, Any]) -> list[dict[str, Any]]:
        """In the roster's order: name, online, since (or None), doing, declined (a code and its name, or None), version
        (of the program, as it says; empty while it is not known).

        doing  ``absent``, ``declined``, ``asked``, ``answered`` (in the stage of this moment), or ``waiting``
        """
        seen, programs = self._sources.attendance(), self._sources.programs()
        refusals = self._sources.board.declined()
        out = []
        for member in roster.departments:
            online, since = seen.get(_key(member.node_key), (False, None))
            code = refusals.get(member.name, (None, 0.0))[0]
            doing = "waiting"
            if not online:
                doing = "absent"
            elif code is not None:
                doing = "declined"
            elif member.name in moment["done"]:
                doing = "answered"
            elif member.name in moment["asked"]:
                doing = "asked"
            out.append(
                {
                    "name": member.name,
                    "online": online,
                    "since": since,
                    "doing": doing,
                    "declined": None if code is None else {"code": code, "name": name_of(code)},
                    "version": programs.get(_key(member.node_key), ""),
                }
            )
        return out


def name_of(code: str) -> str:
    """The name of an error's class; empty for a code of no class, such as ``link``."""
    kind = all_errors().get(code)
    return "" if kind is None else kind.__name__


def _key(line: str) -> str:
    """A node key without its comment."""
    return " ".join(line.split()[:2])


def _current(runs: list[dict[str, Any]]) -> int | None:
    """The run to look at first: the one in progress, else the newest that has begun, else the newest."""
    running = [run["run"] for run in runs if run["state"] == "running"]
    begun = [run["run"] for run in runs if run["state"] != "queued"]
    return next(iter(running or begun[-1:] or [run["run"] for run in runs][-1:]), None)
