"""Cells of the transfer benchmark over worker processes, with what a person sees meanwhile.

At any moment everything may be killed: a cell is kept when it is done, and one under way goes on where it was.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.files import atomic_write, storage_errors, take_ownership
from commonroot.simulations.transfer_cells import Cell, Result, kept

#: Seconds that a cell is taken to need while nothing is known about its like.
UNKNOWN: Final = 60.0
_TIMES: Final = "seconds.json"
#: Share of a cell's time that goes into its rounds; the rest is departments' last step.
_ROUNDS: Final = 0.4


def run_cells(
    cells: Sequence[Cell], folder: Path, data: Path | None, *, workers: int, console: Console
) -> tuple[dict[Cell, Result], dict[Cell, str]]:
    """Every cell's result, known ones from the cache; and for cells that could not be run, why.

    Raises ConfigError where another benchmark uses the same cache.
    """
    with storage_errors(folder):
        (folder / "work").mkdir(parents=True, exist_ok=True)
    try:
        lock = take_ownership(folder)
    except ConfigError as error:
        raise ConfigError(f"another benchmark uses {folder}", hint="wait for it, or choose another --cache") from error
    with lock:
        results: dict[Cell, Result] = {}
        failed: dict[Cell, str] = {}
        for cell in cells:
            try:
                found = kept(cell, folder, data)
            except ConfigError as error:
                failed[cell] = str(error)
                continue
            if found is not None:
                results[cell] = found
        missing = [cell for cell in cells if cell not in results and cell not in failed]
        if missing:
            _Pool(missing, folder, data, console).run(min(workers, len(missing)), failed)
        for cell in missing:
            if cell not in failed and (found := kept(cell, folder, data)) is not None:
                results[cell] = found
    return results, failed


class _Pool:
    """Threads that each drive one worker process."""

    def __init__(self, cells: Sequence[Cell], folder: Path, data: Path | None, console: Console) -> None:
        self._folder, self._data, self._console = folder, data, console
        self._times = _Times(folder / _TIMES)
        self._expected = {cell: self._times.expected(cell) for cell in cells}
        self._waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        # every seed of everything before the next one, and long cells first, so that no core waits at the end
        for cell in sorted(cells, key=lambda cell: (cell.seed, -self._expected[cell])):
            self._waiting.put(cell)
        self._running: dict[Cell, float] = {}
        self._done = 0.0
        self._lock = threading.Lock()
        self._stopping = False
        self._processes: list[subprocess.Popen[str]] = []

    def run(self, workers: int, failed: dict[Cell, str]) -> None:
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
        self, at: int, progress: Progress, whole: TaskID, failed: dict[Cell, str], errors: list[BaseException]
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
                progress.update(line, description=f"  {cell.name}", completed=0.0, told="", visible=True)
                if (why := self._ask(process, cell, progress, line)) is not None:
                    failed[cell] = why
                    if process.poll() is not None:
                        process = self._start(at)
                took = time.monotonic() - began
                if why is None:
                    self._times.remember(cell, took)
                with self._lock:
                    self._running.pop(cell, None)
                    self._done += self._expected[cell]
                told = f"{took:.0f} s" if why is None else f"not run: {why}"
                progress.console.print(f"{cell.name}: {told}", highlight=False, soft_wrap=True)
            progress.update(line, visible=False)
            self._end(process)
        except BaseException as error:  # told by the thread that waits
            errors.append(error)

    def _start(self, at: int) -> subprocess.Popen[str]:
        arguments = [str(self._folder), *([] if self._data is None else [str(self._data)])]
        with (self._folder / f"worker-{at + 1}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "commonroot.simulations.transfer_worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
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

    def _ask(self, process: subprocess.Popen[str], cell: Cell, progress: Progress, line: TaskID) -> str | None:
        """Have a cell run; None, or why it could not be."""
        if process.stdin is None or process.stdout is None:
            raise ProcessDied("a worker without pipes")
        request = {"dataset": cell.dataset, "protocol": cell.protocol, "method": cell.method, "seed": cell.seed}
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for answer in map(json.loads, process.stdout):
                if "end" in answer:
                    return None if answer["end"] == "done" else str(answer["why"])
                self._heard(cell, answer, progress, line)
        except BrokenPipeError:
            pass
        status = process.wait()
        return f"its worker ended with status {status}; see worker-*.log in {self._folder}"

    def _heard(self, cell: Cell, answer: Mapping[str, Any], progress: Progress, line: TaskID) -> None:
        of = max(int(answer["of"]), 1)
        share = answer["done"] / of
        share = _ROUNDS * share if answer["told"] == "rounds" else _ROUNDS + (1 - _ROUNDS) * share
        with self._lock:
            self._running[cell] = min(share, 1.0)
        progress.update(line, completed=share, told=f"{answer['told']} {answer['done']}/{of}")


class _Times:
    """How long cells took, seeds aside, so that the time left can be told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._known: dict[str, float] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def expected(self, cell: Cell) -> float:
        """Seconds."""
        return float(self._known.get(self._name(cell), UNKNOWN))

    def remember(self, cell: Cell, seconds: float) -> None:
        """Keep what it took."""
        with self._lock:
            self._known[self._name(cell)] = round(seconds, 1)
            atomic_write(self._path, json.dumps(self._known, indent=1).encode())

    @staticmethod
    def _name(cell: Cell) -> str:
        return f"{cell.dataset} {cell.protocol} {cell.method}"
