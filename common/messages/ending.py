"""What ends a run or a request: RunClose and Refusal."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages.opening_round import Previous
from commonroot.common.messages.signed import Signed, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_uint,
)


@dataclass(frozen=True, slots=True)
class RunClose(Signed):
    """Coordinator to department: the run is over; the final backbone is the parcel's body.

    Wire    version: u8 | charter: 32 B | roster: 32 B | epoch: u32 | round: u32, the last | backbone version: u32 |
            broadcast: 32 B, SHA-256 of the body | previous: 68 B | signature: 64 B, coordinator, "run-close"
    Raises  Malformed: cut short, trailing bytes, a previous round beyond the last; WrongVersion
    Source  docs/adr, the secure sum, M5
    """

    charter: bytes
    roster: bytes
    epoch: int
    round: int
    version: int
    broadcast: bytes
    previous: Previous
    signature: bytes

    label: ClassVar[str] = "run-close"

    def __post_init__(self) -> None:
        what = "a run-close"
        for name in ("charter", "roster", "broadcast"):
            need_bytes(what, name, getattr(self, name), DIGEST_BYTES)
        for name in ("epoch", "round", "version"):
            need_uint(what, name, getattr(self, name), 32)
        if self.previous.round > self.round:
            raise Malformed(f"{what}: round {self.previous.round} lies beyond the last, {self.round}")
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        numbers = struct.pack(">III", self.epoch, self.round, self.version)
        return b"".join((version_byte(), self.charter, self.roster, numbers, self.broadcast, self.previous.encode()))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a run-close")
        charter, roster, epoch, number, version = r.digest(), r.digest(), r.u32(), r.u32(), r.u32()
        broadcast, previous, signature = r.digest(), Previous.take(r), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(charter, roster, epoch, number, version, broadcast, previous, signature)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Department to coordinator: why a request was refused; the code alone, never the text.

    Wire    version: u8 | round: u32 | code: 4 B ASCII, "CR" and two digits, or "C" and three
    Raises  Malformed: cut short, trailing bytes, another code; WrongVersion
    Source  ``errors``: codes never change meaning
    """

    round: int
    code: str

    def __post_init__(self) -> None:
        need_uint("a refusal", "round", self.round, 32)
        if not re.fullmatch(r"CR([0-9]{2}|[1-9][0-9]{2})", self.code):
            raise Malformed("a refusal's code is CR and two or three digits")

    def encode(self) -> bytes:
        """Nine bytes."""
        short = self.code if len(self.code) == 4 else "C" + self.code[2:]
        return version_byte() + self.round.to_bytes(4, "big") + short.encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a refusal")
        number, short = r.u32(), r.raw(4).decode("ascii", errors="replace")
        r.end()
        return cls(number, "CR" + short[1:] if re.fullmatch("C[0-9]{3}", short) else short)
