"""What the journal knows of a run, of one of its rounds and of one of its versions: rows that nobody changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from commonroot.common.charter import SignedCharter

RunState = Literal["queued", "running", "finished", "stopped"]
RoundState = Literal["open", "fixed", "closed", "lost"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one charter."""

    run: int
    charter: SignedCharter
    digest: str
    state: RunState
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Round:
    """One attempt at one sum.  ``opening`` is the signed RoundOpen."""

    round: int
    run: int
    version: int
    state: RoundState
    opening: bytes
    opened: bytes | None
    aggregate: bytes | None
    report: dict[str, Any]
    reason: str
    began: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the backbone: version 0 is the seed's, version v the result of the v-th sum of its run."""

    run: int
    version: int
    file: str
    digest: bytes
    bounds: bytes
    at: float
