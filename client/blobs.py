"""The files beside a department's database, which name nothing themselves: a committed transaction names them."""

from __future__ import annotations

import threading
from pathlib import Path

from commonroot.files import atomic_write, read_bytes


class Blobs:
    """A folder of them.  Only a department's daemon writes there, so it is listed once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        #: Names that may lie there; None until the folder was looked at.
        self._written: set[str] | None = None

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write one, durably; raises as ``atomic_write`` does."""
        with self._lock:
            if self._written is not None:
                self._written.add(name)
        atomic_write(self._folder / name, data, mode=0o600)

    def read(self, name: str, *, what: str) -> bytes:
        """One of them; ConfigError, saying what is missing, where it is gone."""
        return read_bytes(self._folder / name, what=what)

    def sweep(self, named: set[str]) -> None:
        """Remove all but these: litter of a crash, or superseded."""
        with self._lock:
            if self._written is None:  # what an earlier process left
                self._written = {path.name for path in self._folder.iterdir()}
            for name in self._written - named:
                (self._folder / name).unlink(missing_ok=True)
            self._written &= named
