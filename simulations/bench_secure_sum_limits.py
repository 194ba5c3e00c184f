"""How much the benchmark of the secure sum measures, and the speed that no program in its place could pass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np

from commonroot.common.secure_sum.masks import BLOCK_BYTES, CHUNK_BYTES, Counters, Keystream


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    large, small   parameters
    times          repetitions of everything
    departments    of a complete graph, the last two also at the coordinator
    graph          departments, neighbours and committee of sparse graphs; the first also for client rows
    drops          shares of departments that are lost
    deployed       rounds of the deployed federation; 0 leaves it out
    """

    large: int
    small: int
    times: int
    departments: tuple[int, ...]
    graphs: tuple[tuple[int, int, int], ...]
    drops: tuple[float, ...]
    deployed: int


_GRAPHS: Final = ((100, 36, 40), (1000, 104, 96))
_DROPS: Final = (0.0, 0.1, 0.3)
FULL: Final = Sizes(10_000_000, 1_000_000, 5, (3, 10, 32), _GRAPHS, _DROPS, 6)
QUICK: Final = Sizes(20_000, 10_000, 2, (3, 6, 8), ((100, 36, 40), (110, 20, 30)), _DROPS, 0)


def named(parameters: int) -> str:
    """A number of parameters, in short."""
    return f"{parameters:.0e}".replace("e+0", "e") + " parameters"


class Limit:
    """Keystream and addition on data that stay in the second-level cache."""

    def __init__(self) -> None:
        self._noise, self._chunk = np.empty(CHUNK_BYTES, np.uint8), np.zeros(CHUNK_BYTES // 2, "<u2")
        self._words = self._noise.view("<u2")
        self._counters = Counters(CHUNK_BYTES // BLOCK_BYTES)
        self._emit = Keystream(os.urandom(32), "limit").blocks(0)

    def keystream(self, chunks: int) -> None:
        """Emit so many chunks."""
        for _ in range(chunks):
            self._emit(self._counters, self._noise.data)

    def add(self, chunks: int) -> None:
        """Add so many chunks."""
        for _ in range(chunks):
            np.add(self._chunk, self._words, self._chunk)

    def mask(self, size: int) -> None:
        """One mask of ``size`` bytes: nothing less can be done."""
        for _ in range(-(-size // CHUNK_BYTES)):
            self._emit(self._counters, self._noise.data)
            np.add(self._chunk, self._words, self._chunk)
