"""Consent: Offer names a charter before anything is asked under it; by a Goodbye a department leaves."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from commonroot.common.messages.signed import Signed, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES
from commonroot.common.secure_sum.wire import DIGEST_BYTES, Reader, need_bytes, need_uint


@dataclass(frozen=True, slots=True)
class Offer(Signed):
    """Coordinator to department: this charter is meant for this run; the signed charter is the parcel's body.

    A department reads it and obeys nothing of it before it has approved the charter.  What it keeps is evidence: a run
    has one charter, and whoever was offered another one can show it.

    run     number of the run, from 1; 0 while the charter is offered and no run of it is queued

    Wire    version: u8 | run: u32 | charter: 32 B | roster: 32 B | epoch: u32 | signature: 64 B, coordinator, "offer"
    Raises  Malformed: cut short, trailing bytes; WrongVersion
    Source  docs/consent.md
    """

    run: int
    charter: bytes
    roster: bytes
    epoch: int
    signature: bytes

    label: ClassVar[str] = "offer"

    def __post_init__(self) -> None:
        what = "an offer"
        for name in ("charter", "roster"):
            need_bytes(what, name, getattr(self, name), DIGEST_BYTES)
        for name in ("run", "epoch"):
            need_uint(what, name, getattr(self, name), 32)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join(
            (version_byte(), struct.pack(">I", self.run), self.charter, self.roster, struct.pack(">I", self.epoch))
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an offer")
        run, charter, roster, epoch, signature = r.u32(), r.digest(), r.digest(), r.u32(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(run, charter, roster, epoch, signature)


@dataclass(frozen=True, slots=True)
class Goodbye(Signed):
    """Department to coordinator, in reply to whatever was asked: it has left for good and has no keys any more.

    Wire    version: u8 | roster: 32 B | epoch: u32 | sender: u16 | signature: 64 B, department, "goodbye"
    Raises  Malformed: cut short, trailing bytes; WrongVersion
    Source  docs/consent.md
    """

    roster: bytes
    epoch: int
    sender: int
    signature: bytes

    label: ClassVar[str] = "goodbye"

    def __post_init__(self) -> None:
        what = "a good-bye"
        need_bytes(what, "the roster", self.roster, DIGEST_BYTES)
        need_uint(what, "epoch", self.epoch, 32)
        need_uint(what, "the sender", self.sender, 16)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join((version_byte(), self.roster, struct.pack(">IH", self.epoch, self.sender)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a good-bye")
        roster, epoch, sender, signature = r.digest(), r.u32(), r.u16(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(roster, epoch, sender, signature)
