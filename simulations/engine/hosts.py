"""The whole protocol over several processes: coordinator and network here, departments' sessions dealt out.

Everything that befalls a parcel is decided here, in the order of one process: a session elsewhere is a handler that
takes its time.  What several departments are asked at one moment of the simulated clock they work on at once, and their
replies are taken in the order in which one process would have made them; without weather each as soon as it is its
turn, so that the coordinator works meanwhile.  So the number of processes changes nothing of what comes out; an error
that ends a run may find more of its last moment counted and kept than one process would have got to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from commonroot.client.accelerator import where
from commonroot.common.errors import DataError, ProcessDied
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.committee import Committee
from commonroot.files import storage_errors
from commonroot.simulations.behaviour.learners import acts_as_json
from commonroot.simulations.behaviour.misbehaving import Act
from commonroot.simulations.engine import frames
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.one_core import on_one_core

_Frame = tuple[dict[str, Any], list[bytes]]
#: A department's name, what happened in it, and facts.
_Tell = Callable[[str, str, dict[str, Any]], None]

WORK = "work"
_PIPE = 1 << 20


class DealtFederation(SimulatedFederation):
    """A federation whose sessions live in ``workers`` processes.

    They are dealt out in the roster's order, the opening committee by itself: its members have more to do, and each
    process should have as many of them.
    """

    def __init__(
        self,
        federation: Federation,
        network: MemoryNetwork,
        *,
        workers: int,
        on_department: _Tell,
        acts: Callable[[str], Sequence[Act]] = lambda name: (),
    ) -> None:
        super().__init__(federation, network, on_department=on_department, acts=acts)
        work = federation.root / WORK
        with storage_errors(work):
            work.mkdir(exist_ok=True)
        self._hosts = [_Host(work / f"sessions-{at + 1}.log") for at in range(workers)]
        names = [member.name for member in self._roster.departments]
        opening = Committee.of(self._roster).members
        dealt = [*opening, *(at for at in range(len(names)) if at not in set(opening))]
        self._place = {names[number]: at % workers for at, number in enumerate(dealt)}
        self._elsewhere: dict[str, _Elsewhere] = {}

    def start(self, name: str) -> None:
        """Start a department's session in its process."""
        root = self.federation.departments[name].root
        acts = acts_as_json(self._acts(name))
        self._elsewhere[name] = _Elsewhere(self._hosts[self._place[name]], name, root, acts, self._on_department)
        self.connect(name)

    def connect(self, name: str) -> None:
        """A department that is up can be reached, for the first time or again."""
        session = self._elsewhere[name]
        self.network.attach(self._keys[name], name, session.handle, begin=session.begin)
        self._away.discard(name)

    def kill(self, name: str) -> None:
        """Take a department away without a word."""
        self.network.detach(self._keys[name])
        self._elsewhere.pop(name).stop()

    @property
    def up(self) -> list[str]:
        """Departments that have been started, and not been killed since."""
        return list(self._elsewhere)

    def is_up(self, name: str) -> bool:
        """Has this department been started, and not been killed since?"""
        return name in self._elsewhere

    def close(self) -> None:
        """Stop every department, and the processes."""
        for name in self._elsewhere:
            self.network.detach(self._keys[name])
        self._elsewhere.clear()
        for host in self._hosts:
            host.close()


class _Host:
    """The near end of one process."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "commonroot.simulations.engine.host", str(os.getpid()), str(where())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=on_one_core(),
            )
        _widen(self._process)
        self.replies: dict[str, SimpleQueue[_Frame | None]] = {}
        self._body: object = None
        self._gone = False
        # Replies are read while requests are still being written: else both ends could wait for each other.
        self._reader = threading.Thread(target=self._read, name="commonroot-sessions", daemon=True)
        self._reader.start()

    def ask(self, facts: dict[str, Any], parcel: Parcel | None = None) -> None:
        """Put a request on its way.  Raises ProcessDied."""
        replies = self.replies.setdefault(facts["name"], SimpleQueue())
        blobs: tuple[frames.Buffer, ...] = ()
        if parcel is not None:
            same = parcel.body is self._body  # a broadcast goes to many
            facts |= {"kind": parcel.kind, "same": same}
            blobs = (parcel.head,) if same else (parcel.head, parcel.body)
            self._body = parcel.body
        try:
            if self._process.stdin is None:
                raise BrokenPipeError
            frames.write(self._process.stdin, facts, blobs)
        except BrokenPipeError:
            replies.put(None)
        if self._gone:
            replies.put(None)

    def died(self) -> ProcessDied:
        """What to say of a process that is gone."""
        return ProcessDied(f"a process of departments ended with status {self._process.wait()}; see {self.log}")

    def close(self) -> None:
        """Let it close its departments' stores and end."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        while self._process.stdout is not None and (frame := frames.read(self._process.stdout)) is not None:
            self.replies.setdefault(frame[0]["name"], SimpleQueue()).put(frame)
        self._gone = True
        for waiting in list(self.replies.values()):
            waiting.put(None)


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Room for the requests and replies of several departments, so that neither end waits for the other (Linux)."""
    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    for pipe in (process.stdin, process.stdout):
        if size is not None and pipe is not None:
            with contextlib.suppress(OSError):  # as many bytes as the system allows to everybody
                fcntl.fcntl(pipe, size, _PIPE)


class _Elsewhere:
    """A session in another process, as a handler of parcels."""

    def __init__(self, host: _Host, name: str, root: Path, acts: list[dict[str, Any]], tell: _Tell) -> None:
        """Have it started; whether that went well is heard before its first reply."""
        self._host, self._name, self._tell = host, name, tell
        self._started = False
        #: Requests that were sent already, in order.
        self._begun: deque[Parcel] = deque()
        host.ask({"do": "start", "name": name, "root": str(root), "acts": acts})

    def stop(self) -> None:
        """Have it ended, as a kill between two requests would."""
        self._require_started()
        self._pass_over(None)
        self._host.ask({"do": "stop", "name": self._name})
        self._answer()

    def begin(self, request: Parcel) -> None:
        """Let it work on a request that ``handle`` will be called with."""
        self._host.ask({"do": "handle", "name": self._name}, request)
        self._begun.append(request)

    def handle(self, request: Parcel) -> Parcel:
        """Its reply, once it is there."""
        self._require_started()
        self._pass_over(request)
        if not self._begun:
            self.begin(request)
        self._begun.popleft()
        facts, (head, body) = self._answer()
        return Parcel(facts["reply"], head, body)

    def _pass_over(self, request: Parcel | None) -> None:
        """Drop the replies to what was begun before ``request`` and then lost on its way."""
        while self._begun and self._begun[0] is not request:
            self._begun.popleft()
            self._answer()

    def _require_started(self) -> None:
        if not self._started:
            self._answer()
            self._started = True

    def _answer(self) -> _Frame:
        """Pass on what it told while it worked; DataError for what it refuses, ProcessDied where it is gone."""
        frame = self._host.replies[self._name].get()
        if frame is None:
            raise self._host.died()
        facts, _ = frame
        for name, kind, what in facts["told"]:
            self._tell(name, kind, what)
        if "failed" in facts:
            raise DataError(f"{facts['why']} ({facts['failed']})")
        return frame
