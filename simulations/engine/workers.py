"""All departments of a simulation, dealt out to processes; or to this very one, where one is enough."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client.accelerator import where
from commonroot.common.errors import CommonrootError, DataError, ProcessDied
from commonroot.common.manifest import flatten
from commonroot.common.secure_sum.codec import Bounds
from commonroot.common.secure_sum.lanes import Words, Words64
from commonroot.files import storage_errors
from commonroot.simulations.engine.pages import SHARDS
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.one_core import on_one_core

State = Mapping[str, NDArray[np.float32]]
#: Told what a department did, and facts: ``checked``, ``trained`` (which says not who), ``abstained``, ``finished``.
OnDone = Callable[[str, dict[str, Any]], None]

WORK: Final = "work"
BROADCAST: Final = "broadcast.bin"
#: Bytes of a worker's words that are read at once.
_AT_ONCE: Final = 1 << 16


class Workers(Protocol):
    """Whoever holds the departments."""

    def train(
        self, who: Sequence[int], counted: Sequence[int], state: State, version: int, bounds: Bounds, adder: Adder
    ) -> tuple[Words, Words64]:
        """See ``Crew.train``."""

    def check(self, who: Sequence[int]) -> None:
        """Have every one's data held against the charter; ``on_done`` is told ``checked`` with what is wrong."""

    def finish(self, who: Sequence[int], state: State, version: int) -> None:
        """Every one's last step."""

    def close(self) -> None:
        """Let them go."""


class Hire(Protocol):
    """Gives a run its workers: ``hire`` below, or another engine's."""

    def __call__(self, plan: Plan, *, workers: int, newest: int, memory: int, on_done: OnDone) -> Workers:
        """See ``hire``."""


def hire(plan: Plan, *, workers: int, newest: int, memory: int, on_done: OnDone) -> Workers:
    """So many processes, or none beside this one.

    newest  the version that the journal ends with
    memory  bytes of encoded rows that all of them may hold together
    """
    workers = max(1, min(workers, SHARDS, len(plan.departments)))
    if workers == 1:
        return _Here(plan, newest, memory, on_done)
    return _Processes(plan, workers, newest, memory // workers, on_done)


class _Here:
    def __init__(self, plan: Plan, newest: int, memory: int, on_done: OnDone) -> None:
        self._plan, self._on_done = plan, on_done
        self._names = list(plan.departments)
        self._crew = plan.crew(
            plan.states(range(SHARDS), newest=newest),
            memory=memory,
            on_abstained=lambda name, code: on_done("abstained", {"department": name, "code": code}),
        )

    def train(
        self, who: Sequence[int], counted: Sequence[int], state: State, version: int, bounds: Bounds, adder: Adder
    ) -> tuple[Words, Words64]:
        return self._crew.train(
            who,
            frozenset(counted),
            _broadcast(self._plan, state),
            version,
            bounds,
            adder,
            on_trained=lambda: self._on_done("trained", {}),
        )

    def check(self, who: Sequence[int]) -> None:
        for number in who:
            self._on_done("checked", {"department": self._names[number], "wrong": self._crew.check(number)})

    def finish(self, who: Sequence[int], state: State, version: int) -> None:
        for number in who:
            self._crew.finish(number, _broadcast(self._plan, state), version)
            self._on_done("finished", {"department": self._names[number]})

    def close(self) -> None:
        pass


class _Processes:
    def __init__(self, plan: Plan, workers: int, newest: int, memory: int, on_done: OnDone) -> None:
        self._plan, self._count, self._on_done = plan, workers, on_done
        self._names = list(plan.departments)
        with storage_errors(plan.root):
            (plan.root / WORK).mkdir(exist_ok=True)
        self._processes = [self._start(at, newest, memory) for at in range(workers)]

    def train(
        self, who: Sequence[int], counted: Sequence[int], state: State, version: int, bounds: Bounds, adder: Adder
    ) -> tuple[Words, Words64]:
        self._write(state)
        kept = frozenset(counted)
        requests = [
            {
                "do": "train",
                "version": version,
                "bounds": np.asarray(bounds).tolist(),
                "cohort": adder.codec.departments,
                "who": share,
                "counted": [number for number in share if number in kept],
            }
            for share in self._shares(who)
        ]
        self._ask(requests)
        bulk, exact = adder.codec.layout.empty()
        bulk[:], exact[:] = 0, 0
        for at in range(self._count):
            words, words64 = adder.codec.layout.split(sum_file(self._plan.root, at).read_bytes())
            np.add(bulk, words, out=bulk)
            np.add(exact, words64, out=exact)
        return bulk, exact

    def check(self, who: Sequence[int]) -> None:
        self._ask([{"do": "check", "who": share} for share in self._shares(who)])

    def finish(self, who: Sequence[int], state: State, version: int) -> None:
        self._write(state)
        self._ask([{"do": "finish", "version": version, "who": share} for share in self._shares(who)])

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _shares(self, who: Sequence[int]) -> list[list[int]]:
        return [[number for number in who if number % SHARDS % self._count == at] for at in range(self._count)]

    def _write(self, state: State) -> None:
        path = self._plan.root / WORK / BROADCAST
        with storage_errors(path):
            path.write_bytes(flatten(state, self._plan.charter.broadcast))

    def _start(self, at: int, newest: int, memory: int) -> subprocess.Popen[bytes]:
        arguments = [str(self._plan.root), *map(str, (at, self._count, newest, memory, where()))]
        with (self._plan.root / WORK / f"worker-{at + 1}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "commonroot.simulations.engine.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=on_one_core() | {"PYTHONUNBUFFERED": "1"},
            )

    def _ask(self, requests: Sequence[dict[str, Any]]) -> None:
        """Ask every worker at once and wait for all.

        Raises DataError for what a worker refuses, ProcessDied where one is gone.
        """
        errors: list[CommonrootError] = []
        with selectors.DefaultSelector() as waiting:
            for process, request in zip(self._processes, requests, strict=True):
                stdin, stdout = _pipes(process)
                with contextlib.suppress(BrokenPipeError):  # one that is gone is heard of below
                    stdin.write(json.dumps(request).encode() + b"\n")  # it reads, for it has nothing else to do
                    stdin.flush()
                waiting.register(stdout, selectors.EVENT_READ, _Lines(process))
            while waiting.get_map():
                for key, _ in waiting.select():
                    try:
                        ended = self._hear(key.data)
                    except CommonrootError as error:  # the others are waited for all the same
                        errors.append(error)
                        ended = True
                    if ended:
                        waiting.unregister(key.fileobj)
        if errors:
            raise errors[0]

    def _hear(self, lines: _Lines) -> bool:
        """Whatever a worker has said by now; was that its last word on what it was asked?"""
        read = os.read(lines.stdout, _AT_ONCE)
        if not read:
            status, log = lines.process.wait(), self._plan.root / WORK
            raise ProcessDied(f"a worker ended with status {status}; see worker-*.log in {log}")
        for answer in map(json.loads, lines.whole(read)):
            if "end" not in answer:
                self._heard(answer)
            elif answer["end"] == "done":
                return True
            else:
                raise DataError(f"{answer['why']} ({answer['code']})")
        return False

    def _heard(self, answer: dict[str, Any]) -> None:
        if "trained" in answer:
            for _ in range(answer["trained"]):
                self._on_done("trained", {})
        elif "abstained" in answer:
            name, code = answer["abstained"]
            self._on_done("abstained", {"department": name, "code": code})
        elif "checked" in answer:
            facts = {"department": self._names[answer["checked"]], "wrong": answer["wrong"]}
            self._on_done("checked", facts)
        elif "finished" in answer:
            self._on_done("finished", {"department": self._names[answer["finished"]]})


class _Lines:
    """What a worker says, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.stdout = _pipes(process)[1].fileno()
        self._begun = b""

    def whole(self, read: bytes) -> list[bytes]:
        """The lines that end with these bytes."""
        *lines, self._begun = (self._begun + read).split(b"\n")
        return lines


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ProcessDied("a worker without pipes")
    return process.stdin, process.stdout


def sum_file(root: Path, index: int) -> Path:
    """Where a worker leaves the sum of its share."""
    return root / WORK / f"sum-{index + 1}.bin"


def _broadcast(plan: Plan, state: State) -> dict[str, NDArray[np.float32]]:
    """The part of the state that departments are told, as they are told it."""
    return {name: np.asarray(state[name], dtype=np.float32).reshape(shape) for name, shape in plan.charter.broadcast}
