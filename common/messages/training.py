"""The ready stage, which comes before a round (docs/adr/0008): Train → Ready."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages.signed import Signed, SignedToMany, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, tagged_hash
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_uint,
)


@dataclass(frozen=True, slots=True)
class Train(SignedToMany):
    """M0, coordinator to departments: train on this broadcast, and wait; the broadcast itself is the parcel's body.

    Nothing is masked for it and no key depends on it: who answers merely becomes the cohort of the round that follows.

    Wire    version: u8 | charter: 32 B | roster: 32 B | epoch: u32 | round: u32, to come | backbone version: u32 |
            broadcast: 32 B, SHA-256 of the body | seconds: u32 | signature: 64 B, coordinator, "train"
    Raises  Malformed: cut short, trailing bytes, round 0; WrongVersion
    Source  docs/adr/0008, the ready stage
    """

    charter: bytes
    roster: bytes
    epoch: int
    round: int
    version: int
    broadcast: bytes
    seconds: int
    signature: bytes

    label: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        what = "a request to train"
        for name in ("charter", "roster", "broadcast"):
            need_bytes(what, name, getattr(self, name), DIGEST_BYTES)
        for name in ("epoch", "round", "version", "seconds"):
            need_uint(what, name, getattr(self, name), 32)
        if self.round == 0:
            raise Malformed(f"{what}: rounds are numbered from 1")
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    @property
    def digest(self) -> bytes:
        """32 bytes that name this request in the answers to it."""
        return tagged_hash("train", self.unsigned())

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        numbers = struct.pack(">III", self.epoch, self.round, self.version)
        return b"".join(
            (version_byte(), self.charter, self.roster, numbers, self.broadcast, self.seconds.to_bytes(4, "big"))
        )

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a request to train")
        charter, roster, epoch, number, version = r.digest(), r.digest(), r.u32(), r.u32(), r.u32()
        broadcast, seconds, signature = r.digest(), r.u32(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(charter, roster, epoch, number, version, broadcast, seconds, signature)


@dataclass(frozen=True, slots=True)
class Ready(Signed):
    """Department to coordinator: trained as ``Train`` asked, and waiting for the round to open.

    Wire    version: u8 | asked: 32 B, digest of the Train | sender: u16 | signature: 64 B, department, "ready"
    Raises  Malformed: cut short, trailing bytes; WrongVersion
    Source  docs/adr/0008, the ready stage
    """

    asked: bytes
    sender: int
    signature: bytes

    label: ClassVar[str] = "ready"

    def __post_init__(self) -> None:
        need_bytes("a readiness", "asked", self.asked, DIGEST_BYTES)
        need_uint("a readiness", "the sender", self.sender, 16)
        need_bytes("a readiness", "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join((version_byte(), self.asked, struct.pack(">H", self.sender)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a readiness")
        asked, sender, signature = r.digest(), r.u16(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(asked, sender, signature)
