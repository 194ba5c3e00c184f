"""Opening the sum for one survivor set: Open → Shares."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages.signed import Signed, version_byte
from commonroot.common.messages.survivors import opened_digest
from commonroot.common.messages.upload import SHARE_BYTES
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_each_bytes,
    need_increasing,
    need_uint,
    put_ids,
)

#: In the place of the size of an opening's boxes where they are of several.
_MANY_SIZES = 0xFFFF


@dataclass(frozen=True, slots=True)
class Open(Signed):
    """M3, coordinator to a committee member: the survivor set, and the boxes addressed to this member.

    boxes          one per survivor, in order, as that survivor uploaded it for this member
    confirmed_by   members whose confirmations of this very set come along; none where the whole cohort survived
    confirmations  the signatures of their ``Confirmed``, in order

    Wire    version: u8 | round: u32 | transcript: 32 B | n: u16 | survivors: n × u16 | sizes | boxes, one after the
            other | c: u16 | confirmed by: c × u16 | confirmations: c × 64 B | signature: 64 B, coordinator, "open"
            sizes: size: u16 where all boxes are of one size, otherwise 0xFFFF: u16 | n × u16
    Raises  Malformed: cut short, trailing bytes, ids not increasing, another number of boxes or confirmations, one size
            given for each box; WrongVersion
    Source  docs/adr, the secure sum, M3
    """

    transcript: bytes
    round: int
    survivors: tuple[int, ...]
    boxes: tuple[bytes, ...] = field(repr=False)
    confirmed_by: tuple[int, ...]
    confirmations: tuple[bytes, ...] = field(repr=False)
    signature: bytes

    label: ClassVar[str] = "open"

    def __post_init__(self) -> None:
        what = "an opening"
        need_bytes(what, "the transcript", self.transcript, DIGEST_BYTES)
        need_uint(what, "round", self.round, 32)
        need_increasing(what, "the survivor set", self.survivors)
        if len(self.boxes) != len(self.survivors):
            raise Malformed(f"{what}: {len(self.boxes)} boxes for {len(self.survivors)} survivors")
        if max(map(len, self.boxes)) >= _MANY_SIZES:
            raise Malformed(f"{what}: a box must be smaller than {_MANY_SIZES} bytes")
        if self.confirmed_by:
            need_increasing(what, "who confirmed", self.confirmed_by)
        if len(self.confirmations) != len(self.confirmed_by):
            raise Malformed(f"{what}: {len(self.confirmations)} confirmations by {len(self.confirmed_by)} members")
        need_each_bytes(what, "a confirmation", self.confirmations, SIGNATURE_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    @property
    def opened(self) -> bytes:
        """H(T, U)."""
        return opened_digest(self.transcript, self.survivors)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (version_byte(), struct.pack(">I", self.round), self.transcript, put_ids(self.survivors))
        each = [len(box) for box in self.boxes]
        alike = len(set(each)) == 1
        sizes = struct.pack(">H", each[0]) if alike else struct.pack(f">{1 + len(each)}H", _MANY_SIZES, *each)
        return b"".join((*head, sizes, *self.boxes, put_ids(self.confirmed_by), *self.confirmations))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an opening")
        number, transcript, survivors, size = r.u32(), r.digest(), r.ids(), r.u16()
        if size == _MANY_SIZES:
            sizes = [r.u16() for _ in survivors]
            if len(set(sizes)) < 2:
                raise Malformed("an opening gives one size for each box")
            boxes = tuple(map(r.raw, sizes))
        else:
            boxes = r.pieces(len(survivors), size)
        confirmed_by = r.ids()
        confirmations = r.pieces(len(confirmed_by), SIGNATURE_BYTES)
        signature = r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, number, survivors, boxes, confirmed_by, confirmations, signature)


@dataclass(frozen=True, slots=True)
class Shares(Signed):
    """M4, committee member to coordinator: the shares that this survivor set calls for.

    shares   for each survivor i in order: of b_i, then of s_ij for each neighbour j in the cohort outside the survivor
             set

    Wire    version: u8 | transcript: 32 B | member: u16 | opened: 32 B, H(T, U) | n: u16 | shares: n × 32 B |
            signature: 64 B, department, "shares"
    Raises  Malformed: cut short, trailing bytes, no share; WrongVersion
    Source  docs/adr, the secure sum, M4
    """

    transcript: bytes
    member: int
    opened: bytes
    shares: tuple[bytes, ...] = field(repr=False)
    signature: bytes

    label: ClassVar[str] = "shares"

    def __post_init__(self) -> None:
        what = "an answer"
        need_bytes(what, "the transcript", self.transcript, DIGEST_BYTES)
        need_uint(what, "the member", self.member, 16)
        need_bytes(what, "opened", self.opened, DIGEST_BYTES)
        need_uint(what, "the number of shares", len(self.shares), 16)
        if not self.shares:
            raise Malformed(f"{what} without shares")
        need_each_bytes(what, "a share", self.shares, SHARE_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (version_byte(), self.transcript, struct.pack(">H", self.member), self.opened)
        return b"".join((*head, struct.pack(">H", len(self.shares)), *self.shares))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an answer")
        transcript, member, opened = r.digest(), r.u16(), r.digest()
        shares, signature = r.pieces(r.u16(), SHARE_BYTES), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, member, opened, shares, signature)
