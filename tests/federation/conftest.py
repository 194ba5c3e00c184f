"""Folders in memory: these tests make thousands of durable writes, and none of them asks whether the disk kept them.

And signal handlers as they were, where a test runs a daemon in this process.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@contextmanager
def _folder() -> Iterator[Path]:
    base = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    made = Path(tempfile.mkdtemp(dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Like pytest's own, but in memory where the system has such a place, and removed at once."""
    with _folder() as made:
        yield made


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    """The same for a whole module."""
    with _folder() as made:
        yield made


@pytest.fixture
def keep_signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
