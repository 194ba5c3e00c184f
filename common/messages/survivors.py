"""Committing to a survivor set where somebody was lost (docs/adr/0012): Confirm → Confirmed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from commonroot.common.messages.signed import Signed, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, tagged_hash
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_increasing,
    need_uint,
    put_ids,
)


def opened_digest(transcript: bytes, survivors: tuple[int, ...]) -> bytes:
    """H(T, U), 32 bytes: one round opened for one survivor set."""
    return tagged_hash("opened", transcript, put_ids(survivors))


@dataclass(frozen=True, slots=True)
class Confirm(Signed):
    """Coordinator to a committee member: not everyone is left; commit to this survivor set before shares are asked for.

    Wire    version: u8 | round: u32 | transcript: 32 B | n: u16 | survivors: n × u16 | signature: 64 B, coordinator,
            "confirm"
    Raises  Malformed: cut short, trailing bytes, ids not increasing; WrongVersion
    Source  docs/adr/0012; the consistency check of Bonawitz et al., 2017, doi:10.1145/3133956.3133982
    """

    transcript: bytes
    round: int
    survivors: tuple[int, ...]
    signature: bytes

    label: ClassVar[str] = "confirm"

    def __post_init__(self) -> None:
        what = "a request to confirm"
        need_bytes(what, "the transcript", self.transcript, DIGEST_BYTES)
        need_uint(what, "round", self.round, 32)
        need_increasing(what, "the survivor set", self.survivors)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    @property
    def opened(self) -> bytes:
        """H(T, U)."""
        return opened_digest(self.transcript, self.survivors)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join((version_byte(), struct.pack(">I", self.round), self.transcript, put_ids(self.survivors)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a request to confirm")
        number, transcript, survivors, signature = r.u32(), r.digest(), r.ids(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, number, survivors, signature)


@dataclass(frozen=True, slots=True)
class Confirmed(Signed):
    """Committee member to coordinator, and in Open to the others: this is the one survivor set that I open this round.

    The same bytes each time: an Ed25519 signature is a function of its key and of what is signed.

    Wire    version: u8 | opened: 32 B, H(T, U) | member: u16 | signature: 64 B, department, "confirmed"
    Raises  Malformed: cut short, trailing bytes; WrongVersion
    Source  docs/adr/0012
    """

    opened: bytes
    member: int
    signature: bytes

    label: ClassVar[str] = "confirmed"

    def __post_init__(self) -> None:
        what = "a confirmation"
        need_bytes(what, "opened", self.opened, DIGEST_BYTES)
        need_uint(what, "the member", self.member, 16)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join((version_byte(), self.opened, struct.pack(">H", self.member)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a confirmation")
        opened, member, signature = r.digest(), r.u16(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(opened, member, signature)
