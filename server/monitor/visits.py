"""Who logged in to the page, and who was refused, for the audit log: complete in number, bounded in length.

The first login of a kind from an address is written at once.  Those that follow are counted, and written as one entry
when their window ends; windows double from a minute to an hour while logins of that kind go on, and only so many
addresses are told apart.  So a year of guessing makes some hundred thousand short entries at the most, and every guess
is in one of them.  What is counted and not yet written is lost with a process that is killed.

Facts    from (an address, or ``others``), result (``accepted``, ``refused``), times, seconds (over which they came; 0
         for one that was written at once).  Never a token, nor anything else that was sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from commonroot.common.ledger import Fact

Result = Literal["accepted", "refused"]

#: How long logins are counted before they are written, in seconds: at first, and at the most.
FIRST_WINDOW: Final = 60.0
LONGEST_WINDOW: Final = 3600.0
#: Addresses that are told apart within one window.
ADDRESSES: Final = 8
OTHERS: Final = "others"


@dataclass(slots=True)
class _Window:
    """Logins of one result since ``began``: by address, how many are not written yet."""

    began: float
    lasts: float
    counts: dict[str, int] = field(default_factory=dict)


class Visits:
    """Notes logins; safe to call from any thread.

    Parameters  write: puts facts into the audit log, and may raise: then they are kept and tried again;
                clock: monotonic seconds
    """

    def __init__(self, write: Callable[[dict[str, Fact]], None], *, clock: Callable[[], float] = time.monotonic):
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[Result, _Window] = {}

    def note(self, result: Result, address: str) -> None:
        """A login from an address.  Raises whatever ``write`` does; it is not forgotten then."""
        with self._lock:
            try:
                self._settle(all_of_it=False)
            finally:
                self._count(result, address)

    def settle(self, *, all_of_it: bool = False) -> None:
        """Write what was counted in windows that are over; ``all_of_it``: also in those that are not."""
        with self._lock:
            self._settle(all_of_it=all_of_it)

    def _count(self, result: Result, address: str) -> None:
        window = self._windows.setdefault(result, _Window(self._clock(), FIRST_WINDOW))
        if address not in window.counts and len(window.counts) >= ADDRESSES:
            address = OTHERS
        first = address not in window.counts
        window.counts[address] = window.counts.get(address, 0) + 1
        if first:
            self._written(window, address, result, 0.0)

    def _settle(self, *, all_of_it: bool) -> None:
        now = self._clock()
        for result, window in list(self._windows.items()):
            over = now - window.began >= window.lasts
            insisted = any(window.counts.values())
            if over or all_of_it:
                for address, count in window.counts.items():
                    if count:
                        self._written(window, address, result, now - window.began)
            if over and insisted:
                self._windows[result] = _Window(now, min(2 * window.lasts, LONGEST_WINDOW))
            elif over:
                del self._windows[result]

    def _written(self, window: _Window, address: str, result: Result, seconds: float) -> None:
        times = window.counts[address]
        self._write({"from": address, "result": result, "times": times, "seconds": round(seconds)})
        window.counts[address] = 0
