"""Cells of work over worker processes, with what a person sees meanwhile.

A cell is anything that ends in a file under its cache.  A worker is a process that takes one JSON line for each cell
and tells how far it is (``cell_worker``).  At any moment everything may be killed: a cell is kept when it is done, and
one under way goes on where it was.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.files import atomic_write, storage_errors, take_ownership
from commonroot.simulations.one_core import on_one_core

#: Seconds that a cell is taken to need while nothing is known about its like.
UNKNOWN: Final = 60.0
_TIMES: Final = "seconds.json"
#: Share of a cell's time that goes into its rounds; the rest is departments' last step.
_ROUNDS: Final = 0.4

C = TypeVar("C")


@dataclass(frozen=True)
class Work(Generic[C]):
    """How cells of one kind are run.

    module    of the worker, as ``python -m`` takes it, and ``arguments`` to it
    request   what a worker is asked for a cell
    name      of a cell, for people
    like      of cells that take about as long; how long they took is remembered under it
    turn      cells of a lower turn come first; within one, those that take longest
    seconds   that a cell is taken to need while nothing is known about its like
    """

    module: str
    arguments: tuple[str, ...]
    request: Callable[[C], dict[str, Any]]
    name: Callable[[C], str]
    like: Callable[[C], str]
    turn: Callable[[C], int] = lambda cell: 0
    seconds: float = UNKNOWN


def run_missing(
    cells: Sequence[C],
    folder: Path,
    work: Work[C],
    kept: Callable[[C], Mapping[str, Any] | None],
    *,
    workers: int,
    console: Console,
    busy: tuple[str, str],
    on_done: Callable[[C], None] = lambda cell: None,
) -> tuple[dict[C, Any], dict[C, str]]:
    """Every cell's result, known ones from the cache; and for cells that could not be run, why.

    kept     a cell's result, None where it is not known; ConfigError where it cannot be run here
    busy     what is said, and the hint, where somebody else uses the folder
    on_done  called with each cell that was run, as soon as it is

    Raises ConfigError where another process uses the same folder.
    """
    with storage_errors(folder):
        (folder / "work").mkdir(parents=True, exist_ok=True)
    try:
        lock = take_ownership(folder)
    except ConfigError as error:
        raise ConfigError(busy[0], hint=busy[1]) from error
    with lock:
        results: dict[C, Any] = {}
        failed: dict[C, str] = {}
        for cell in cells:
            try:
                found = kept(cell)
            except ConfigError as error:
                failed[cell] = str(error)
                continue
            if found is not None:
                results[cell] = found
        missing = [cell for cell in cells if cell not in results and cell not in failed]
        if missing:
            Pool(missing, folder, work, console, on_done).run(min(workers, len(missing)), failed)
        for cell in missing:
            if cell not in failed and (found := kept(cell)) is not None:
                results[cell] = found
    return results, failed


class Pool(Generic[C]):
    """Threads that each drive one worker process."""

    def __init__(
        self, cells: Sequence[C], folder: Path, work: Work[C], console: Console, on_done: Callable[[C], None]
    ) -> None:
        self._folder, self._work, self._console, self._on_done = folder, work, console, on_done
        self._times = _Times(folder / _TIMES, work.seconds)
        self._expected = {cell: self._times.expected(work.like(cell)) for cell in cells}
        self._waiting: queue.SimpleQueue[C] = queue.SimpleQueue()
        # every seed of everything before the next one, and long cells first, so that no core waits at the end
        for cell in sorted(cells, key=lambda cell: (work.turn(cell), -self._expected[cell])):
            self._waiting.put(cell)
        self._running: dict[C, float] = {}
        self._done = 0.0
        self._lock = threading.Lock()
        self._told = threading.Lock()
        self._stopping = False
        self._processes: list[subprocess.Popen[str]] = []

    def run(self, workers: int, failed: dict[C, str]) -> None:
        """Until every cell is done or has failed; the first worker that cannot be kept alive ends it."""
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        errors: list[BaseException] = []
        with progress:
            whole = progress.add_task(f"{len(self._expected)} cells", total=sum(self._expected.values()), told="")
            threads = [
                threading.Thread(target=self._drive, args=(at, progress, whole, failed, errors), daemon=True)
                for at in range(workers)
            ]
            for thread in threads:
                thread.start()
            try:
                while any(thread.is_alive() for thread in threads):
                    time.sleep(0.2)
                    with self._lock:
                        done = self._done + sum(self._expected[cell] * share for cell, share in self._running.items())
                    progress.update(whole, completed=done)
            finally:
                self._stopping = True
                for process in self._processes:
                    process.kill()
                    process.wait()
        if errors:
            raise errors[0]

    def _drive(
        self, at: int, progress: Progress, whole: TaskID, failed: dict[C, str], errors: list[BaseException]
    ) -> None:
        line = progress.add_task("", total=1.0, told="", visible=False)
        try:
            process = self._start(at)
            while not self._stopping:
                try:
                    cell = self._waiting.get_nowait()
                except queue.Empty:
                    break
                began = time.monotonic()
                progress.update(line, description=f"  {self._work.name(cell)}", completed=0.0, told="", visible=True)
                if (why := self._ask(process, cell, progress, line)) is not None:
                    failed[cell] = why
                    if process.poll() is not None:
                        process = self._start(at)
                took = time.monotonic() - began
                if why is None:
                    self._times.remember(self._work.like(cell), took)
                    with self._told:
                        self._on_done(cell)
                with self._lock:
                    self._running.pop(cell, None)
                    self._done += self._expected[cell]
                told = f"{took:.0f} s" if why is None else f"not run: {why}"
                if not progress.console.is_jupyter:  # there every line would be an output of its own
                    progress.console.print(f"{self._work.name(cell)}: {told}", highlight=False, soft_wrap=True)
            progress.update(line, visible=False)
            self._end(process)
        except BaseException as error:  # told by the thread that waits
            errors.append(error)

    def _start(self, at: int) -> subprocess.Popen[str]:
        with (self._folder / f"worker-{at + 1}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", self._work.module, *self._work.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=on_one_core() | {"PYTHONUNBUFFERED": "1"},
            )
        with self._lock:
            self._processes.append(process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()

    def _ask(self, process: subprocess.Popen[str], cell: C, progress: Progress, line: TaskID) -> str | None:
        """Have a cell run; None, or why it could not be."""
        if process.stdin is None or process.stdout is None:
            raise ProcessDied("a worker without pipes")
        try:
            process.stdin.write(json.dumps(self._work.request(cell)) + "\n")
            process.stdin.flush()
            for answer in map(json.loads, process.stdout):
                if "end" in answer:
                    return None if answer["end"] == "done" else str(answer["why"])
                self._heard(cell, answer, progress, line)
        except BrokenPipeError:
            pass
        status = process.wait()
        return f"its worker ended with status {status}; see worker-*.log in {self._folder}"

    def _heard(self, cell: C, answer: Mapping[str, Any], progress: Progress, line: TaskID) -> None:
        of = max(int(answer["of"]), 1)
        share = answer["done"] / of
        share = _ROUNDS * share if answer["told"] == "rounds" else _ROUNDS + (1 - _ROUNDS) * share
        with self._lock:
            self._running[cell] = min(share, 1.0)
        progress.update(line, completed=share, told=f"{answer['told']} {answer['done']}/{of}")


class _Times:
    """How long cells took, seeds aside, so that the time left can be told."""

    def __init__(self, path: Path, unknown: float) -> None:
        self._path, self._unknown = path, unknown
        self._lock = threading.Lock()
        try:
            self._known: dict[str, float] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def expected(self, like: str) -> float:
        """Seconds."""
        return float(self._known.get(like, self._unknown))

    def remember(self, like: str, seconds: float) -> None:
        """Keep what it took."""
        with self._lock:
            self._known[like] = round(seconds, 1)
            atomic_write(self._path, json.dumps(self._known, indent=1).encode())
