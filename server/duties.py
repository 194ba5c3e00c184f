"""What a coordinator does beside rounds: late closings, and waiting for a disk that is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from commonroot.common.errors import StorageFull
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.server.run import RunDriver
from commonroot.server.waits import Waits


class Space:
    """Waits for a full disk to have room again, as long as ``[waits]`` says and no longer."""

    def __init__(self, waits: Waits, stop: threading.Event, tell: Tell) -> None:
        self._waits = waits
        self._stop = stop
        self._tell = tell
        self._since: float | None = None

    def found(self) -> None:
        """Something was written again."""
        self._since = None

    def wait(self, error: StorageFull) -> None:
        """A moment, before it is tried again.  Raises the error where it lasted too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._tell("storage-full", error.describe())
        if now - self._since >= self._waits.storage:
            raise error
        self._stop.wait(self._waits.look)


class LateClosings:
    """Hands the newest finished run's backbone to departments that were away when it ended, once they are back."""

    def __init__(self, journal: Journal, driver_of: Callable[[Run], tuple[RunDriver, Exchange]]) -> None:
        self._journal = journal
        self._driver_of = driver_of
        #: Department → the incarnation that was asked already: one that said no is not asked again until it comes back.
        self._asked: dict[int, str] = {}

    def look(self) -> None:
        """Deliver to whoever is back; returns at once where nobody is."""
        finished = [run for run in self._journal.runs() if run.state == "finished"]
        if not finished:
            return
        driver, exchange = self._driver_of(finished[-1])
        present = exchange.present()
        back = {who for who in driver.without_closing() if who in present and self._asked.get(who) != present[who]}
        if back:
            self._asked.update({who: present[who] for who in back})
            driver.deliver_closing(back, seconds=finished[-1].charter.charter.timing.closing)
