"""``even``: every department draws from the same rows, and as many as any other: the world without differences."""

from __future__ import annotations

from typing import Literal

from commonroot.simulations.worlds.by.base import Config


class Even(Config):
    """Identically distributed rows; what is compared with."""

    kind: Literal["even"]
