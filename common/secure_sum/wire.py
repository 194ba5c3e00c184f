"""Big-endian fields, read with care: what is cut short, too long or out of order is refused by name."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Sequence

from commonroot.common.errors import Malformed, WrongVersion

#: The version every message starts with; it changes whenever any encoding or derivation does.
PROTOCOL = 1
DIGEST_BYTES = 32


class Reader:
    """Takes fields off the front of a message and refuses, by the message's name, what does not fit."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._at = 0
        self._what = what
        version = self.u8()
        if version != PROTOCOL:
            raise WrongVersion(f"{what}: expected protocol version {PROTOCOL}, found {version}")

    def raw(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        if len(self._data) - self._at < size:
            raise Malformed(f"{self._what} is cut short: {size} bytes were expected at offset {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def u8(self) -> int:
        """One unsigned byte."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self.raw(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.raw(4), "big")

    def digest(self) -> bytes:
        """32 bytes."""
        return self.raw(DIGEST_BYTES)

    def ids(self) -> tuple[int, ...]:
        """A count and that many department numbers; their order is checked by the message itself."""
        count = self.u16()
        return struct.unpack(f">{count}H", self.raw(2 * count))

    def floats(self) -> tuple[float, ...]:
        """A count and that many float32."""
        count = self.u16()
        return struct.unpack(f">{count}f", self.raw(4 * count))

    def pieces(self, count: int, size: int) -> tuple[bytes, ...]:
        """``count`` fields of ``size`` bytes each."""
        block = self.raw(count * size)
        return tuple(block[at : at + size] for at in range(0, len(block), size)) if size else (b"",) * count

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise Malformed(f"{self._what} has {len(self._data) - self._at} trailing bytes")


def put_ids(ids: tuple[int, ...]) -> bytes:
    """The inverse of ``Reader.ids``."""
    return struct.pack(f">H{len(ids)}H", len(ids), *ids)


def put_floats(values: tuple[float, ...]) -> bytes:
    """The inverse of ``Reader.floats``."""
    return struct.pack(f">H{len(values)}f", len(values), *values)


def need_uint(what: str, name: str, value: int, bits: int) -> None:
    """Malformed unless ``value`` fits into ``bits``."""
    if not 0 <= value < 1 << bits:
        raise Malformed(f"{what}: {name} must fit into {bits} bits")


def need_bytes(what: str, name: str, value: bytes, size: int) -> None:
    """Malformed unless ``value`` is exactly ``size`` bytes."""
    if len(value) != size:
        raise Malformed(f"{what}: {name} must be {size} bytes, not {len(value)}")


def need_each_bytes(what: str, name: str, values: Sequence[bytes], size: int) -> None:
    """``need_bytes`` of every one; there are hundreds of them in a message."""
    if set(map(len, values)) - {size}:
        for value in values:
            need_bytes(what, name, value, size)


def need_increasing(what: str, name: str, ids: Iterable[int]) -> None:
    """Malformed unless the ids are u16, strictly increasing and at least one."""
    ids = tuple(ids)
    if not ids:
        raise Malformed(f"{what}: {name} is empty")
    if any(map(operator.ge, ids, ids[1:])) or ids[0] < 0 or ids[-1] > 0xFFFF:
        raise Malformed(f"{what}: the ids of {name} must be strictly increasing 16-bit numbers")
