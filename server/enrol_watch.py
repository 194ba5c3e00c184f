"""Who may come in while the coordinator is up: revoked nodes are out at once, whatever the run is doing.

Commands write into the book from processes of their own, so the book is looked at.  Departments of a new roster are
let in as soon as it stands; those that it leaves out go when the run that still counts on them has stopped, and that is
the coordinator's main loop's affair.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from commonroot.common.errors import CommonrootError
from commonroot.common.roster import Roster
from commonroot.logs import Tell
from commonroot.server.enrol_book import EnrolmentBook

_log = logging.getLogger(__name__)

#: How often the book is looked at, in seconds.
_LOOK: Final = 0.5


class Hub(Protocol):
    """What of the hub is needed here."""

    def register(self, public_key: str, name: str) -> None:
        """Let a node in."""

    def unregister(self, public_key: str) -> None:
        """Shut a node out, for good."""

    def registered(self) -> list[str]:
        """Nodes that may come in."""


class Doorkeeper:
    """Keeps the hub as the book and the standing roster say, from ``with`` to the block's end.

    Parameters  roster: the one that stands now, or None
    """

    def __init__(
        self,
        hub: Hub,
        book: EnrolmentBook,
        roster: Callable[[], Roster | None],
        tell: Tell,
    ) -> None:
        self._hub = hub
        self._book = book
        self._roster = roster
        self._tell = tell
        self._lock = threading.Lock()
        self._out: frozenset[str] = frozenset()
        self._in: bytes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="commonroot-doorkeeper", daemon=True)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Shut out whom the book names, and let in whom the roster lists."""
        with self._lock:
            out = self._book.shut_out()
            fresh = frozenset(out) - self._out
            if fresh:
                inside = set(self._hub.registered())
                for key in fresh & inside:
                    self._hub.unregister(key)
                    self._tell("revoked", {"department": out[key]})
            self._out |= fresh
            roster = self._roster()
            if roster is not None and roster.digest != self._in:
                let_in(self._hub, roster, self._tell, out=self._out)
                self._in = roster.digest

    def leave_only(self, roster: Roster) -> None:
        """Nobody but this roster's departments may come in from now on."""
        with self._lock:
            members = {member.node_key for member in roster.departments}
            for key in self._hub.registered():
                if key not in members:
                    self._hub.unregister(key)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            try:
                self.look()
            except CommonrootError as error:
                _log.warning("the doorkeeper: %s (%s)", error, error.code)
            except Exception:  # a database that is busy, say: it looks again
                _log.exception("the doorkeeper could not look")


def let_in(hub: Hub, roster: Roster, tell: Tell, *, out: frozenset[str] = frozenset()) -> None:
    """A roster's departments may come in, but for those in ``out``.

    A node key that was once shut out stays out: a department that returns does so with new keys.
    """
    for member in roster.departments:
        if member.node_key in out:
            continue
        try:
            hub.register(member.node_key, member.name)
        except ValueError:  # Flower's, for a key that it once deleted
            tell("shut-out", {"department": member.name, "why": "its node key was in an earlier roster and left"})
