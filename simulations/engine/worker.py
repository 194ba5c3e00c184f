"""A crew in a process of its own, one JSON line at a time; see ``workers`` for the other end.

    in   {"do": "train", "version": …, "bounds": […], "cohort": n, "who": […], "counted": […]}
         {"do": "finish", "version": …, "who": […]} · {"do": "check", "who": […]}
    out  {"trained": how many since it last said so} · {"checked": number, "wrong": text or null} ·
         {"abstained": [name, code]} · {"finished": number}, and at the end {"end": "done"} or
         {"end": "failed", "code": …, "why": …}

The broadcast comes and the sum goes in files of the arm's ``work`` folder, which both processes map into memory.  It
ends when its input does.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from commonroot.client.accelerator import computing_on
from commonroot.common.errors import CommonrootError
from commonroot.common.manifest import unflatten
from commonroot.files import unforced
from commonroot.simulations.engine.crew import Crew
from commonroot.simulations.engine.pages import SHARDS
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.engine.workers import BROADCAST, WORK, sum_file

#: How often it is told how many have trained, in seconds: whoever is told takes a core that somebody trains on.
_TOLD_EVERY: Final = 0.05


class _Worker:
    def __init__(self, root: Path, index: int, count: int, newest: int, memory: int, out: TextIO) -> None:
        self._plan = Plan.read(root)
        self._work = root / WORK
        self._sum = sum_file(root, index)
        self._out = out
        self._trained, self._told = 0, time.monotonic()
        shards = (shard for shard in range(SHARDS) if shard % count == index)
        self._crew: Crew = self._plan.crew(
            self._plan.states(shards, newest=newest),
            memory=memory,
            on_abstained=lambda name, code: self._say({"abstained": [name, code]}),
        )

    def answer(self, asked: dict[str, Any]) -> None:
        charter = self._plan.charter
        if asked["do"] == "check":
            for number in asked["who"]:
                self._say({"checked": number, "wrong": self._crew.check(number)})
            return
        received = unflatten((self._work / BROADCAST).read_bytes(), charter.broadcast)
        if asked["do"] == "finish":
            for number in asked["who"]:
                self._crew.finish(number, received, asked["version"])
                self._say({"finished": number})
            return
        adder = Adder(charter, self._plan.sum, enrolled=len(self._plan.departments), departments=asked["cohort"])
        bulk, exact = self._crew.train(
            asked["who"],
            frozenset(asked["counted"]),
            received,
            asked["version"],
            np.array(asked["bounds"], dtype=np.float32),
            adder,
            on_trained=self._count,
        )
        self._tell_trained()
        with self._sum.open("wb") as file:
            file.write(bulk.view(np.uint8).data)
            file.write(exact.view(np.uint8).data)

    def _count(self) -> None:
        self._trained += 1
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._tell_trained()

    def _tell_trained(self) -> None:
        if self._trained:
            self._say({"trained": self._trained})
        self._trained, self._told = 0, time.monotonic()

    def _say(self, value: dict[str, Any]) -> None:
        print(json.dumps(value), file=self._out, flush=True)


def main() -> None:
    """``python -m commonroot.simulations.engine.worker ROOT INDEX COUNT NEWEST MEMORY DEVICE``."""
    import torch

    torch.set_num_threads(1)  # there is a process for every core
    root, (index, count, newest, memory) = Path(sys.argv[1]), map(int, sys.argv[2:6])
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr), unforced(), computing_on(sys.argv[6]):  # what is printed is no answer
        worker = _Worker(root, index, count, newest, memory, out)
        for line in sys.stdin:
            try:
                worker.answer(json.loads(line))
            except CommonrootError as error:
                print(json.dumps({"end": "failed", "code": error.code, "why": str(error)}), file=out, flush=True)
            else:
                print(json.dumps({"end": "done"}), file=out, flush=True)


if __name__ == "__main__":
    main()
