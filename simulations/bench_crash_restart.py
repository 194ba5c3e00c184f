"""How soon a killed process is back: from its start to the first request that is accepted."""

from __future__ import annotations

import json
import ssl
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from commonroot.simulations.bench import Row
from commonroot.simulations.processes import free_port, processes
from commonroot.simulations.trial import COORDINATOR, Shape, Trial, plant
from commonroot.simulations.usage import usage_of

_TIMES: Final = 5
_PATIENCE: Final = 120.0
_LOOK: Final = 0.02


def run(root: Path, console: Console) -> list[Row]:
    """Both sides, killed and started again several times while the federation waits for work."""
    console.print(f"both sides are killed and started again {_TIMES} times …")
    port = free_port()
    federation = plant(root / "federation", Shape(), port=port, queued=False)
    tls = ssl.create_default_context(cafile=str(federation.coordinator.ca))
    hub: list[tuple[float, float]] = []
    node: list[tuple[float, float]] = []
    with processes(root / "logs") as running, Trial(federation, running) as trial, httpx.Client(
        verify=tls, trust_env=False
    ) as client:  # fmt: skip

        def listens() -> bool:
            try:
                return client.get(f"https://127.0.0.1:{port}/health").status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        def joined() -> int:
            log = root / "logs" / "ash.log"
            lines = log.read_text().splitlines() if log.exists() else []
            told = [json.loads(line) for line in lines if line.startswith("{")]
            return sum(one.get("event") == "link" and one.get("state") == "joined" for one in told)

        trial.start_all()
        _until(lambda: listens() and joined() > 0)
        for _ in range(_TIMES):
            hub.append(_restarted(trial, COORDINATOR, listens))
            before = joined()
            node.append(_restarted(trial, "ash", lambda before=before: joined() > before))  # type: ignore[misc]
    return [
        _row("a coordinator that was killed: process start to the first request served", hub),
        _row("a department that was killed: process start to the hub's first yes", node),
    ]


def _restarted(trial: Trial, who: str, back: Callable[[], bool]) -> tuple[float, float]:
    """Seconds by the clock and of processor time until it is back."""
    trial.processes.kill(who)
    began = time.monotonic()
    trial.start(who)
    _until(back)
    took = time.monotonic() - began
    used = usage_of(trial.processes.pid(who))
    return took, used.seconds if used is not None else 0.0


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("a restarted process did not come back")
        time.sleep(_LOOK)


def _row(what: str, taken: list[tuple[float, float]]) -> Row:
    work = statistics.median(used for _, used in taken)
    return Row(f"{what}, median seconds", statistics.median(took for took, _ in taken), "<=", 3.0, limit=work,
               why=f"the machine was busy: it took {work:.2f} s of processor time")  # fmt: skip
