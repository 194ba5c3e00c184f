"""CPU seconds of several things measured in turns, so that whatever disturbs the machine disturbs them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """Something to be timed: ``call`` gets what ``before`` made, and only ``call`` counts."""

    call: Callable[[Any], object]
    before: Callable[[], Any] = lambda: None


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the repetitions, in seconds: CPU time of this thread, of the process, and on the wall."""

    thread: float
    process: float
    wall: float


def in_turns(work: Mapping[str, Work | Callable[[], object]], times: int) -> dict[str, Cost]:
    """Call everything once to warm up, then all in turn, ``times`` over; by name the median costs."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in work}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(times + 1):
            for name, each in work.items():
                cost = _timed(each if isinstance(each, Work) else _plain(each))
                if turn:
                    found[name].append(cost)
            gc.collect()
    finally:
        if enabled:
            gc.enable()
    return {name: Cost(*map(statistics.median, zip(*rows, strict=True))) for name, rows in found.items()}


def _plain(call: Callable[[], object]) -> Work:
    return Work(lambda _: call())


def _timed(work: Work) -> tuple[float, float, float]:
    given = work.before()
    began = (time.thread_time(), time.process_time(), time.perf_counter())
    made = work.call(given)
    ended = (time.thread_time(), time.process_time(), time.perf_counter())
    del made, given  # what it costs to let go of the result is nobody's
    return (ended[0] - began[0], ended[1] - began[1], ended[2] - began[2])
