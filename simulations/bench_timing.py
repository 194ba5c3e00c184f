"""CPU seconds of several things measured in turns, so that whatever disturbs the machine disturbs them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the repetitions, in seconds: CPU time of this thread, of the process, and on the wall."""

    thread: float
    process: float
    wall: float


def in_turns(work: Mapping[str, Callable[[], object]], times: int) -> dict[str, Cost]:
    """Call everything once to warm up, then all in turn, ``times`` over; by name the median costs."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in work}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(times + 1):
            for name, call in work.items():
                began = (time.thread_time(), time.process_time(), time.perf_counter())
                call()
                ended = (time.thread_time(), time.process_time(), time.perf_counter())
                if turn:
                    found[name].append((ended[0] - began[0], ended[1] - began[1], ended[2] - began[2]))
    finally:
        if enabled:
            gc.enable()
    return {name: Cost(*(statistics.median(column) for column in zip(*rows, strict=True))) for name, rows in found.items()}
