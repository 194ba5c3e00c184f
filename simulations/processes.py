"""The processes of a federation on this machine: one coordinator and a daemon for each department."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from commonroot.common.errors import ProcessDied


class Processes:
    """Programs of one federation, each with its log under ``logs``; ``prefix`` comes before each command line."""

    def __init__(self, logs: Path, prefix: Sequence[str] = ()) -> None:
        self._logs = logs
        self._prefix = tuple(prefix)
        logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str, module: str = "commonroot") -> None:
        """Start ``commonroot …`` (or another module) under a name; output is appended to ``logs/NAME.log``."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", module, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def start_coordinator(self, folder: Path) -> None:
        """``coordinator up``."""
        self.start("coordinator", "coordinator", "up", str(folder), "--json")

    def start_department(self, name: str, folder: Path) -> None:
        """``department up``."""
        self.start(name, "department", "up", str(folder), "--json")

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def pid(self, name: str) -> int:
        """The process's number; KeyError for one that was never started or was killed here."""
        return self._running[name].pid

    def ended(self, name: str) -> bool:
        """Whether a program that was started under this name has ended; it is forgotten then."""
        if self._running[name].poll() is None:
            return False
        del self._running[name]
        return True

    def runs(self, name: str) -> bool:
        """Whether a program was started under this name and not yet seen to have ended."""
        return name in self._running

    def last_words(self, name: str) -> str:
        """The last line of a program's log."""
        return "".join((self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:])

    def check(self) -> None:
        """Raise ProcessDied for the first program that ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                told = self.last_words(name)
                told = f": {told}" if told else ""
                raise ProcessDied(f"{name} ended with status {process.returncode}{told} (log: {self._logs / name}.log)")

    def stop_all(self, *, patience: float = 15.0) -> None:
        """SIGTERM to all, SIGKILL to whoever does not go."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


@contextmanager
def processes(logs: Path, prefix: Sequence[str] = ()) -> Iterator[Processes]:
    """Programs that never outlive the block."""
    started = Processes(logs, prefix)
    try:
        yield started
    finally:
        started.stop_all()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
