"""Searching bytes for secrets: everything private is cut into 8-byte needles and looked for at every offset.

Eight bytes are two consecutive float32, one float64, four uint16 lanes, one 64-bit lane, a quarter of a key, or eight
characters.  A needle found by chance in m bytes of noise has probability m/2^64, so with a million needles and a
million bytes one false alarm comes in 2·10^7 runs.  Needles with fewer than five different bytes (zeros, padding) are
left out, for those do occur by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from commonroot.client.learner import DepartmentLearner
from commonroot.client.store import DepartmentStore
from commonroot.client.trainer import Trainer
from commonroot.common.secure_sum import department
from commonroot.common.secure_sum.memory import DepartmentMemory

WIDTH = 8


def windows(data: bytes | bytearray | memoryview, step: int = 1) -> np.ndarray:
    """Every 8 bytes of ``data`` that start at a multiple of ``step``, as uint64."""
    flat = np.frombuffer(data, dtype=np.uint8)
    if flat.size < WIDTH:
        return np.array([], dtype=np.uint64)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(flat, WIDTH)[::step]).view("<u8").ravel()


class Needles:
    """What must not be found, by what it is."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}
        self._ready: dict[str, np.ndarray] = {}

    def add(self, what: str, data: bytes | bytearray | memoryview, step: int = 1) -> None:
        """Raw bytes, in windows ``step`` apart."""
        self._ready.pop(what, None)
        self._parts.setdefault(what, []).append(windows(data, step))

    def numbers(self, what: str, values: Any) -> None:
        """Numbers as they might be written: float32 and float64 in both byte orders, and decimal text.

        All of them as they lie in memory; of the other spellings, those of the first thousands are enough.
        """
        flat = np.asarray(values, dtype=np.float64).ravel()
        self.add(what, flat.astype("<f4").tobytes(), 4)
        for kind in (">f4", "<f8", ">f8"):
            self.add(what, flat[:4000].astype(kind).tobytes(), int(kind[2]))
        for value in flat[:500].tolist():
            self.text(what, repr(value))
            self.text(what, repr(float(np.float32(value))))
            self.text(what, f"{value:.6f}")

    def text(self, what: str, value: str) -> None:
        """The first eight characters; shorter texts say too little to be told from chance."""
        self.add(what, value.encode()[:WIDTH])

    def __getitem__(self, what: str) -> np.ndarray:
        if what not in self._ready:
            found = np.unique(np.concatenate(self._parts[what]))
            spread = np.sort(found.view(np.uint8).reshape(-1, WIDTH), axis=1)
            self._ready[what] = found[(np.diff(spread, axis=1) != 0).sum(axis=1) >= 4]
        return self._ready[what]

    def counts(self) -> dict[str, int]:
        """How many needles there are of each sort."""
        return {what: len(self[what]) for what in self._parts}

    def found_in(self, sent: Iterable[bytes | bytearray | memoryview]) -> dict[str, int]:
        """What of it occurs in the bytes that were sent: sort of secret → number of needles found."""
        hay = np.sort(np.concatenate([np.array([2**64 - 1], np.uint64), *(windows(one) for one in sent)]))
        found = {what: int((hay[np.searchsorted(hay, self[what])] == self[what]).sum()) for what in self._parts}
        return {what: number for what, number in found.items() if number}


class Witness:
    """Stands beside the departments' code and writes down every secret that passes, from founding to the last round."""

    def __init__(self) -> None:
        self.needles = Needles()

    def random(self, source: Any) -> Any:
        """A source of randomness whose every output is a secret: keys, b_i, the coefficients of shares.

        But for 16-byte salts of boxes, which are sent in the clear by design.
        """

        def drawn(size: int) -> bytes:
            made: bytes = source(size)
            if size != 16:
                self.needles.add("key material", made)
            return made

        return drawn

    def watch(self, patch: pytest.MonkeyPatch, *learners: type) -> None:
        """Write down heads, updates, lanes, pairwise secrets and chains as they are made."""
        for learner in learners or (DepartmentLearner,):
            self._after(patch, learner, "train", self._trained)
        self._after(patch, Trainer, "train", lambda made, **_: self.tensors("trained backbone", made.result.shared))
        self._after(patch, department, "pair_secret", lambda made, **_: self.needles.add("pairwise secrets", made))
        self._lanes(patch)
        for name in ("commit_upload", "commit_answer"):
            self._after(patch, DepartmentStore, name, lambda _, memory, **__: self._memory(memory))
        self._after(patch, DepartmentMemory, "to_bytes", lambda made, **_: self._memory(made))

    def tensors(self, what: str, arrays: Mapping[str, Any]) -> None:
        for array in arrays.values():
            self.needles.numbers(what, array)

    def _trained(self, made: Any, **_: Any) -> None:
        self.tensors("contribution", made.terms)
        self.tensors("head and optimizer", made.local)

    def _memory(self, data: bytes) -> None:
        chains = DepartmentMemory.from_bytes(data).chains
        for key in (*chains.blocks, *chains.rounds):
            self.needles.add("key chains", key)

    def _lanes(self, patch: pytest.MonkeyPatch) -> None:
        original = department.add_streams

        def add_streams(lanes16: Any, lanes64: Any, streams: Any) -> None:
            self.needles.add("unmasked lanes", lanes16.tobytes(), 2)
            self.needles.add("unmasked lanes", lanes64.tobytes(), 8)
            self.needles.add("unmasked lanes", lanes64.byteswap().tobytes(), 8)
            original(lanes16, lanes64, streams)

        patch.setattr(department, "add_streams", add_streams)

    @staticmethod
    def _after(patch: pytest.MonkeyPatch, owner: Any, name: str, note: Any) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **fields: Any) -> Any:
            made = original(*args, **fields)
            note(made, **fields)
            return made

        patch.setattr(owner, name, wrapped)
