"""A line that can be slow, or cut and mended."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from commonroot.simulations.relay import Relay


@contextlib.contextmanager
def echoing() -> Iterator[int]:
    """A port that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

        def echo(peer: socket.socket) -> None:
            with contextlib.suppress(OSError), peer:
                while got := peer.recv(1024):
                    peer.sendall(got)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def said(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"hello")
        return line.recv(16)


def test_a_cut_line_carries_nothing_until_it_is_mended():
    with echoing() as port, Relay(port) as relay:
        assert said(relay.port) == b"hello"
        with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as line:
            line.sendall(b"one")
            assert line.recv(16) == b"one"
            relay.cut()
            with contextlib.suppress(ConnectionError):
                assert line.recv(16) == b""
        with pytest.raises((ConnectionError, AssertionError)):
            assert said(relay.port) == b"hello"
        relay.mend()
        assert said(relay.port) == b"hello"


def test_a_slow_line_takes_its_time_both_ways():
    """0.05 s a piece, there and back: at least 0.1 s"""
    with echoing() as port, Relay(port, delay=0.05) as relay:
        began = time.monotonic()
        assert said(relay.port) == b"hello"
        assert time.monotonic() - began >= 0.1
