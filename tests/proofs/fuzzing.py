"""Mutations of valid encodings, many and fast: what a peer might send instead of what it should.

One generator of raw random numbers, drawn in blocks; the mutations themselves are slices of bytes, so that a hundred
thousand inputs cost a second or two and the decoder under test dominates.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_BLOCK = 1 << 16
#: Bytes that mean something to JSON, protobuf, signs and lengths.
_EDGES = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b'"', b"\\", b"{", b"[", b"]", b"-", b"9", b"A", b" ", b"\xc3")


class Mutator:
    """Endless variations on a few valid encodings; the same for the same seed."""

    def __init__(self, valid: Sequence[bytes], seed: int) -> None:
        if not valid or not all(valid):
            raise ValueError("mutations need something to begin from")
        self._valid = [bytes(one) for one in valid]
        self._random = np.random.default_rng(seed)
        self._drawn: list[int] = []
        self._ways: list[Callable[[bytes], bytes]] = [
            self._flip_bit,
            self._flip_bit,
            self._set_byte,
            self._cut,
            self._splice,
            self._edit_number,
            self._edit_number,
            self._delete,
            self._insert,
            self._repeat,
            self._swap,
            self._noise,
        ]

    def below(self, limit: int) -> int:
        """A number in [0, limit), near enough to uniform."""
        if not self._drawn:
            self._drawn = self._random.integers(0, 1 << 62, _BLOCK).tolist()
        return self._drawn.pop() % limit

    def next(self) -> bytes:
        """One, two or three mutations of one valid encoding."""
        data = self._valid[self.below(len(self._valid))]
        for _ in range(1 + (self.below(4) == 0) + (self.below(12) == 0)):
            data = self._ways[self.below(len(self._ways))](data or b"\0")
        return data

    # -- one mutation each -------------------------------------------------------------------------------------------

    def _flip_bit(self, data: bytes) -> bytes:
        at = self.below(len(data))
        return data[:at] + bytes((data[at] ^ 1 << self.below(8),)) + data[at + 1 :]

    def _set_byte(self, data: bytes) -> bytes:
        at = self.below(len(data))
        return data[:at] + _EDGES[self.below(len(_EDGES))] + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        at = self.below(len(data) + 1)
        return data[:at] if self.below(4) else data[at:]

    def _splice(self, data: bytes) -> bytes:
        other = self._valid[self.below(len(self._valid))]
        return data[: self.below(len(data) + 1)] + other[self.below(len(other) + 1) :]

    def _edit_number(self, data: bytes) -> bytes:
        """Two or four bytes as a number, a little more or less, or at one of its limits: counts and sizes."""
        width = 2 << self.below(2)
        if len(data) < width:
            return data
        at = self.below(len(data) - width + 1)
        value = int.from_bytes(data[at : at + width], "big")
        changed = (value + 1, value - 1, value * 2, 0, (1 << 8 * width) - 1, 1 << 8 * width - 1)[self.below(6)]
        return data[:at] + (changed % (1 << 8 * width)).to_bytes(width, "big") + data[at + width :]

    def _delete(self, data: bytes) -> bytes:
        at = self.below(len(data))
        return data[:at] + data[at + 1 + self.below(8) :]

    def _insert(self, data: bytes) -> bytes:
        at = self.below(len(data) + 1)
        return data[:at] + self._random.bytes(1 + self.below(8)) + data[at:]

    def _repeat(self, data: bytes) -> bytes:
        at = self.below(len(data))
        size = 1 + self.below(64)
        return data[: at + size] * (1 + (self.below(3) == 0)) + data[at:]

    def _swap(self, data: bytes) -> bytes:
        one, other = sorted((self.below(len(data)), self.below(len(data))))
        size = 1 + self.below(8)
        return data[:one] + data[other : other + size] + data[one + size :]

    def _noise(self, data: bytes) -> bytes:
        return self._random.bytes(1 + self.below(min(len(data) + 8, 512)))


class JsonMutator:
    """Canonical JSON whose values were changed, dropped, added or moved: past the parser, into what reads it."""

    _VALUES = (
        0,
        1,
        -1,
        2**31,
        2**63,
        10**400,
        0.5,
        5.0,
        -0.0,
        1e308,
        True,
        False,
        None,
        "",
        "a",
        "1",
        "F" * 64,
        "00" * 32,
    )
    _MORE = ("0" * 128, "zz" * 32, " ab", "caf\u00e9", "fedavg", [], {}, [0], [[0]], [None], {"a": 1}, [1.5, "x"])

    def __init__(self, valid: Sequence[bytes], seed: int) -> None:
        self._valid = [bytes(one) for one in valid]
        self._dice = Mutator([b"dice"], seed)
        self._pool = [*self._VALUES, *self._MORE]

    def next(self) -> bytes:
        """One to three changes to one valid encoding."""
        value = json.loads(self._valid[self._dice.below(len(self._valid))])
        for _ in range(1 + (self._dice.below(3) == 0) + (self._dice.below(9) == 0)):
            value = self._changed(value)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def _changed(self, value: Any) -> Any:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not inner or self._dice.below(12) == 0:
            return self._other(value)
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = keys[self._dice.below(len(keys))]
        way = self._dice.below(24)
        if way == 0:
            del value[key]
        elif way == 1 and isinstance(value, list):
            value.append(copy.deepcopy(value[key]))
        elif way == 2:
            other = keys[self._dice.below(len(keys))]
            value[key], value[other] = value[other], value[key]
        elif way == 3 and isinstance(value, dict):
            value[("extra", "", key.upper(), "layout")[self._dice.below(4)]] = self._other(0)
        else:
            value[key] = self._changed(value[key])
        return value

    def _other(self, value: Any) -> Any:
        if isinstance(value, int) and self._dice.below(2):
            return value + (1, -1, 256, 1 << 16)[self._dice.below(4)]
        if isinstance(value, str) and value and self._dice.below(2):
            at = self._dice.below(len(value))
            return value[:at] + "0aF~ "[self._dice.below(5)] + value[at + 1 :]
        return copy.deepcopy(self._pool[self._dice.below(len(self._pool))])
