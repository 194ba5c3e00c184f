"""The account of what the link sent: Flower's requests, headers and heartbeats around the parcels.

A parcel is in the ledger before it leaves.  What carries it is counted here, in memory, and written down once a minute
and at the end: a daemon that is killed forgets a minute of it at the most.  Counted are the bytes of HTTP requests
before TLS; what TLS, TCP and IP add, and what the machine's name lookups say, is not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from commonroot.client.store import DepartmentStore
from commonroot.common.errors import CommonrootError

_log = logging.getLogger(__name__)

#: How often the account is written down, in seconds.
_EVERY: Final = 60.0


class Traffic:
    """Counts by kind; any thread may count."""

    def __init__(self, store: DepartmentStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, int]] = {}
        self._written = clock()

    def count(self, kind: str, size: int) -> None:
        """One request of so many bytes is about to leave."""
        with self._lock:
            requests, total = self._counts.get(kind, (0, 0))
            self._counts[kind] = (requests + 1, total + size)
            due = self._clock() - self._written >= _EVERY
        if due:
            self.flush()

    def flush(self) -> None:
        """Write down what was counted; where the disk refuses, it is counted on and written later."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._written = self._clock()
        try:
            if counts:
                self._store.count_traffic(counts)
        except CommonrootError as error:
            _log.warning("the account of the link cannot be written: %s", error.code)
            with self._lock:
                for kind, (requests, size) in counts.items():
                    more, further = self._counts.get(kind, (0, 0))
                    self._counts[kind] = (requests + more, size + further)
