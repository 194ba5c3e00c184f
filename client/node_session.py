"""The note beside a node key that says: active on the hub, in this process.

It is what lets a department that was killed come back at once.  The hub counts the dead node as online for 20 s more
and lets nobody else in under its key; but whoever holds this note can sign the dead one off.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commonroot.common.errors import KeyFileError, NodeRefused

_log = logging.getLogger(__name__)


class Session:
    """The note that we are active on the hub, beside the key and locked: at most one process here uses this key.

    After a crash it names the node that the hub still counts as online.  It is believed only on the machine and path
    it was written for, so a copied folder cannot sign the original off.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._descriptor = descriptor
        self._here = f"{platform.node()}:{path.resolve()}"
        self.node_id: int | None = None
        try:
            found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
            if isinstance(found, dict) and found.get("where") == self._here and isinstance(found.get("node"), int):
                self.node_id = found["node"]
        except ValueError:
            pass  # cut short by the crash; then we wait like a stranger

    def remember(self, node_id: int) -> None:
        """We are active, under this number."""
        self.node_id = node_id
        self._write(json.dumps({"where": self._here, "node": node_id}).encode())

    def forget(self) -> None:
        """We are not active any more."""
        self.node_id = None
        self._write(b"")

    def _write(self, content: bytes) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, content, 0)
        except OSError as error:
            _log.warning("cannot note the session: %s", error.strerror)  # costs 20 s after a crash, nothing else


@contextmanager
def open_session(key_path: Path) -> Iterator[Session]:
    """Take the key for this process, until the block ends.

    Raises  NodeRefused: another process has it; KeyFileError: the note beside it cannot be written
    """
    path = key_path.with_name(key_path.name + ".session")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NodeRefused(f"{key_path} is in use by another process on this machine") from error
        yield Session(path, descriptor)
    finally:
        os.close(descriptor)
