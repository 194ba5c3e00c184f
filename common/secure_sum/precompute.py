"""What a department can do for a round before it knows what it will send: masks, shares, boxes, commitments.

It is made while training runs, so that only rounding, one addition, one hash and one signature lie between the trained
network and the upload.  It is kept in memory alone and never stored.  Masks that are added to two different vectors
give away their difference, so what was prepared is good for one upload and forgets its masks with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from commonroot.common.errors import UsageError
from commonroot.common.secure_sum.chains import Chains
from commonroot.common.secure_sum.lanes import Words, Words64

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Dealt:
    """What the secrets of one upload become for others.

    transcript           of the round they were made for
    chains               key chains of that round, for the memory
    boxes, commitments   as in ``messages.Masked``
    """

    transcript: bytes
    chains: Chains = field(repr=False)
    boxes: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)


class Prepared:
    """Everything of one upload but the data: what was dealt, and the sum of the masks."""

    __slots__ = ("_bulk", "_exact", "_lock", "_used", "dealt")

    def __init__(self, dealt: Dealt, bulk: Words, exact: Words64) -> None:
        self.dealt = dealt
        self._bulk, self._exact = bulk, exact
        self._lock = threading.Lock()
        self._used = False

    def add_to(self, transcript: bytes, bulk: Words, exact: Words64) -> None:
        """Add the masks to words of their layout, in place, once.  UsageError a second time or for another round."""
        if transcript != self.dealt.transcript:
            raise UsageError("these masks were prepared for another round")
        with self._lock:
            if self._used:
                raise UsageError("these masks were used already: a mask hides one vector")
            self._used = True
        np.add(bulk, self._bulk, out=bulk)
        np.add(exact, self._exact, out=exact)
        self._bulk, self._exact = self._bulk[:0].copy(), self._exact[:0].copy()

    def __repr__(self) -> str:
        return f"Prepared({self.dealt.transcript.hex()[:12]}…)"


class Background(Generic[_R]):
    """One piece of work on a thread of its own, begun at once."""

    def __init__(self, work: Callable[[], _R], name: str) -> None:
        self._work = work
        self._found: list[_R] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # raised again by ``result``, in the thread that asks
            self._error = error

    def result(self) -> _R:
        """Wait for the work; what it returned, or what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found[0]

    def wait(self) -> None:
        """Wait for the work and drop what came of it."""
        self._thread.join()
