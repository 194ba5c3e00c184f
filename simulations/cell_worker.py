"""A process that runs cells, one JSON line at a time; ``cell_pool`` is the other end.

    in   what describes a cell
    out  {"told": "rounds", "done": 3, "of": 30} … and at the end {"end": "done" | "failed", "why": …}

It ends when its input does, so that nothing runs on after whoever asked was killed; a cell under way goes on from the
round it had reached when somebody asks again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from commonroot.common.errors import CommonrootError
from commonroot.logs import Tell

#: Runs the cell that a request describes; told of what happens in it.
RunCell = Callable[[dict[str, Any], Tell], object]


def work(run: RunCell, requests: queue.Queue[str | None], out: TextIO) -> None:
    """Answer requests until None comes."""
    while (line := requests.get()) is not None:
        try:
            run(json.loads(line), _teller(out))
        except CommonrootError as error:
            _say(out, {"end": "failed", "why": f"{error} ({error.code})"})
        else:
            _say(out, {"end": "done", "why": ""})


def _teller(out: TextIO) -> Tell:
    """What a progress bar needs of what a simulation tells: rounds, then departments' last step, as one count."""
    state = {"rounds": 0, "departments": 0, "done": 0}

    def tell(kind: str, facts: dict[str, Any]) -> None:
        if kind == "run-run":
            state["rounds"], state["done"] = facts["rounds"], facts["making"] - 1
        elif kind == "run-closed":
            state["done"] = facts["version"]
        elif kind == "run-closing":
            state["departments"], state["done"] = len(facts["departments"]), 0
        elif kind == "finished":
            state["done"] += 1
        else:
            return
        told, of = ("last step", state["departments"]) if state["departments"] else ("rounds", state["rounds"])
        _say(out, {"told": told, "done": state["done"], "of": of})

    return tell


def _say(out: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=out, flush=True)


def serve(run: RunCell) -> None:
    """Answer what comes on standard input until it ends, and the process with it."""
    import torch

    torch.set_num_threads(1)  # there is a process for every core
    requests: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # whoever asked is gone, or needs nothing more

    threading.Thread(target=read, daemon=True).start()
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a library prints is no answer
        work(run, requests, out)
