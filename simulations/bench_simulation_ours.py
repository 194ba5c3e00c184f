"""Our engine on a job of ``bench simulation``: ``python -m … JOB``, and with ``memory`` what it holds at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from commonroot.common.errors import ConfigError
from commonroot.simulations.bench_simulation_world import Job, now, say
from commonroot.simulations.engine import arm
from commonroot.simulations.simulate import simulate


class _Enough(Exception):
    """All rounds are made; what departments do for themselves at the end is not compared."""


def main() -> None:
    """Run it."""
    job, memory = Job.read(sys.argv[1]), "memory" in sys.argv[2:]
    torch.set_num_threads(1)
    if memory:
        arm.MEMORY = 1  # type: ignore[misc]  # nobody stays awake
    for workers in (job.workers, 1):
        ended: list[float] = []
        held: list[int] = []

        def tell(
            _arm: str, kind: str, facts: dict[str, Any], ended: list[float] = ended, held: list[int] = held
        ) -> None:
            if kind != "run-closed":
                return
            ended.append(now())
            if len(ended) == job.rounds:
                if memory:
                    held.append(sum(map(_anonymous, _family(os.getpid()))))
                raise _Enough

        try:
            with tempfile.TemporaryDirectory() as folder:
                simulate(job.scenario(), folder=Path(folder), workers=workers, finish=job.sum == "exact", tell=tell)
        except _Enough:
            break
        except ConfigError:
            if workers == 1:
                raise
    if memory:
        print(json.dumps({"held": held[0]}), flush=True)
    else:
        say(ended)


def _family(process: int) -> list[int]:
    """A process and its descendants."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _anonymous(process: int) -> int:
    """Bytes that are its own: neither shared with others nor of files."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
