"""What a person sees while a simulation runs: round, loss, time left."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: In which a department's last step is told of, and its bar moves.
_CONCLUDED = "finished"


class ArmsProgress:
    """One bar for an arm's rounds and one for its departments' last step; call it as ``simulate``'s ``tell``."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )
        self._rounds: TaskID | None = None
        self._last: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, arm: str, kind: str, facts: dict[str, Any]) -> None:
        """Something happened in an arm."""
        if kind == "run-run":
            self._rounds = self._progress.add_task(f"{arm}: rounds", total=facts["rounds"], told="")
            self._progress.update(self._rounds, completed=facts["making"] - 1)
        elif kind == "run-closed" and self._rounds is not None:
            told = f"loss {facts['loss']:.3f}" if "loss" in facts else ""
            self._progress.update(self._rounds, completed=facts["version"], told=told)
        elif kind == "run-lost" and self._rounds is not None:
            self._progress.update(self._rounds, told=f"a round was lost ({facts['code']})")
        elif kind == "pooling":
            self._progress.console.print(f"{arm}: {facts['epochs']} passes over everybody's rows in one place …")
        elif kind == "run-closing":
            count = len(facts["departments"])
            self._last = self._progress.add_task(f"{arm}: last step", total=count, told="")
        elif kind == _CONCLUDED and self._last is not None:
            self._progress.update(self._last, advance=1, told=facts["department"])
