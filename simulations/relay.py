"""A TCP relay between a department and its coordinator: a line that can be slow, or cut and mended.

It needs no privileges and knows nothing of what it carries.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

_PIECE: Final = 4096


class Relay:
    """Listens on a free port of this machine and passes everything on to another.

    Parameters  delay: seconds that each piece spends on the line, one way
                rate: bytes a second, for each direction of a connection; 0 for as fast as it goes
    """

    def __init__(self, to: int, *, delay: float = 0.0, rate: float = 0.0) -> None:
        #: All three may be changed while the relay is at work.
        self.to, self.delay, self.rate = to, delay, rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closing = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, and each new one at once."""
        self._open.clear()
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _close(one)

    def mend(self) -> None:
        """Let connections through again."""
        self._open.set()

    def _accept(self) -> None:
        while not self._closing:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                _close(here)
                continue
            try:
                there = socket.create_connection(("127.0.0.1", self.to), timeout=5)
            except OSError:
                _close(here)
                continue
            there.settimeout(None)
            with self._lock:
                self._sockets |= {here, there}
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(_PIECE):
                time.sleep(self.delay + (len(piece) / self.rate if self.rate else 0.0))
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            with self._lock:
                self._sockets -= {source, sink}
            _close(source)
            _close(sink)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
