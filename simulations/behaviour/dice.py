"""Chance without a stream: a number follows from what it is asked about, and from nothing that happened before.

So a simulation that is killed, or dealt out to other processes, throws the same dice again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Dice:
    """Those of one process in one scenario.

    seed  the scenario's
    key   the process: its kind, and which of this kind it is
    """

    seed: int
    key: str

    def uniform(self, *about: object) -> float:
        """In (0, 1), for these facts."""
        whole = int.from_bytes(self._digest(about)[:8]) >> 11
        return (whole + 0.5) / 2**53

    def normal(self, *about: object) -> float:
        """Of the standard normal distribution, for these facts."""
        return _NORMAL.inv_cdf(self.uniform(*about))

    def generator(self, *about: object) -> np.random.Generator:
        """A stream of its own for these facts, where more than a number is needed."""
        return np.random.default_rng(int.from_bytes(self._digest(about)))

    def _digest(self, about: tuple[object, ...]) -> bytes:
        return hashlib.sha256("/".join(map(str, (self.seed, self.key, *about))).encode()).digest()
