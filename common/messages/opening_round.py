"""A round opens: RoundOpen, and in it the result of the one before."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages.signed import SignedToMany, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, tagged_hash
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_increasing,
    need_uint,
    put_floats,
    put_ids,
)

NO_DIGEST = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Previous:
    """M5, the result of the last round that was opened; round 0 and zeros where none was.

    Wire    round: u32 | opened: 32 B, H(T, U) | aggregate: 32 B, hash of what was computed from the sum
    Raises  Malformed: digests of another length, or digests beside round 0
    Source  docs/adr, the secure sum, M5
    """

    round: int = 0
    opened: bytes = NO_DIGEST
    aggregate: bytes = NO_DIGEST

    def __post_init__(self) -> None:
        need_uint("the previous result", "round", self.round, 32)
        need_bytes("the previous result", "opened", self.opened, DIGEST_BYTES)
        need_bytes("the previous result", "aggregate", self.aggregate, DIGEST_BYTES)
        if self.round == 0 and (self.opened != NO_DIGEST or self.aggregate != NO_DIGEST):
            raise Malformed("the previous result has digests but no round")

    def encode(self) -> bytes:
        """68 bytes."""
        return self.round.to_bytes(4, "big") + self.opened + self.aggregate

    @classmethod
    def take(cls, reader: Reader) -> Previous:
        """The next 68 bytes of a message."""
        return cls(reader.u32(), reader.digest(), reader.digest())


@dataclass(frozen=True)
class RoundOpen(SignedToMany):
    """M1, coordinator to the cohort: a round opens; the broadcast itself is the parcel's body.

    Wire    version: u8 | charter: 32 B | roster: 32 B | epoch: u32 | round: u32 | backbone version: u32 | n: u16 |
            cohort: n × u16 | broadcast: 32 B, SHA-256 of the body | manifest: 32 B | k: u16 | bounds: k × float32 |
            upload_seconds: u32 | previous: 68 B | signature: 64 B, coordinator, "round-open"
    Raises  Malformed: cut short, trailing bytes, cohort not increasing, round 0, a bound that is no positive float32,
            a previous round that is not before this one; WrongVersion
    Source  docs/adr, the secure sum, M1
    """

    charter: bytes
    roster: bytes
    epoch: int
    round: int
    version: int
    cohort: tuple[int, ...]
    broadcast: bytes
    manifest: bytes
    bounds: tuple[float, ...]
    upload_seconds: int
    previous: Previous
    signature: bytes

    label: ClassVar[str] = "round-open"

    def __post_init__(self) -> None:
        what = "a round-open"
        for name in ("charter", "roster", "broadcast", "manifest"):
            need_bytes(what, name, getattr(self, name), DIGEST_BYTES)
        for name in ("epoch", "round", "version", "upload_seconds"):
            need_uint(what, name, getattr(self, name), 32)
        need_increasing(what, "the cohort", self.cohort)
        need_uint(what, "the number of bounds", len(self.bounds), 16)
        for bound in self.bounds:
            if not (math.isfinite(bound) and bound > 0 and _is_float32(bound)):
                raise Malformed(f"{what}: a bound is not a positive float32")
        if self.previous.round >= self.round:
            raise Malformed(f"{what}: round {self.round} cannot follow round {self.previous.round}")
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    @cached_property
    def asked(self) -> bytes:
        """32 bytes over what a department's values are a function of: the broadcast and the bounds.

        A retry of a version must repeat both.  Sums of the same values under other bounds are clipped elsewhere, and
        enough of them would show each value.
        """
        return tagged_hash("asked", self.broadcast, put_floats(self.bounds))

    @cached_property
    def transcript(self) -> bytes:
        """T, 32 bytes: everything above but the signature.  Keys, boxes and commitments are bound to it."""
        return tagged_hash("transcript", self.unsigned())

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join(
            (
                version_byte(),
                self.charter,
                self.roster,
                struct.pack(">III", self.epoch, self.round, self.version),
                put_ids(self.cohort),
                self.broadcast,
                self.manifest,
                put_floats(self.bounds),
                self.upload_seconds.to_bytes(4, "big"),
                self.previous.encode(),
            )
        )

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a round-open")
        charter, roster, epoch, number, version = r.digest(), r.digest(), r.u32(), r.u32(), r.u32()
        cohort, broadcast, manifest, bounds = r.ids(), r.digest(), r.digest(), r.floats()
        seconds, previous, signature = r.u32(), Previous.take(r), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(
            charter, roster, epoch, number, version, cohort, broadcast, manifest, bounds, seconds, previous, signature
        )


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack(">f", struct.pack(">f", value))[0] == value)
    except OverflowError:
        return False
