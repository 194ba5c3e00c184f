"""An upload: Masked, with its boxes and commitments."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages.signed import Signed, version_byte
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    Reader,
    need_bytes,
    need_each_bytes,
    need_uint,
)

#: Random bytes in front of each box; they go into its key.
BOX_SALT_BYTES = 16
_TAG_BYTES = 16
SHARE_BYTES = 32
#: Set in an upload's number of boxes where the number of commitments is another one and follows.
_TWO_COUNTS = 1 << 15


def box_bytes(secrets: int) -> int:
    """Length of one box: a salt, a share of each of ``secrets`` secrets (b and the pairwise ones), a tag."""
    return BOX_SALT_BYTES + SHARE_BYTES * secrets + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Masked(Signed):
    """M2, department to coordinator: the head of an upload; the masked vector is the parcel's body.

    boxes        one per committee member in the cohort, in order, the sender's own included if it is one
    commitments  to b_i first, then to s_ij for every neighbour j in the cohort, in order

    In a complete graph with everyone on the committee, both are as many as the cohort, and their number is given once.

    Wire    version: u8 | transcript: 32 B | sender: u16 | body: 32 B, its digest | counts | boxes: b × (32·c + 32) B |
            commitments: c × 32 B | signature: 64 B, department, "masked"
            counts: b: u16 where c = b, otherwise (2^15 + b): u16 | c: u16
    Raises  Malformed: cut short, trailing bytes, boxes or commitments of the wrong number or size, equal numbers given
            twice; WrongVersion
    Source  docs/adr, the secure sum, M2
    """

    transcript: bytes
    sender: int
    body: bytes
    boxes: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)
    signature: bytes

    label: ClassVar[str] = "masked"

    def __post_init__(self) -> None:
        what = "an upload"
        need_bytes(what, "the transcript", self.transcript, DIGEST_BYTES)
        need_uint(what, "the sender", self.sender, 16)
        need_bytes(what, "the body's hash", self.body, DIGEST_BYTES)
        need_uint(what, "the number of boxes", len(self.boxes), 15)
        need_uint(what, "the number of commitments", len(self.commitments), 15)
        if not self.boxes or not self.commitments:
            raise Malformed(f"{what}: {len(self.boxes)} boxes and {len(self.commitments)} commitments")
        need_each_bytes(what, "a box", self.boxes, box_bytes(len(self.commitments)))
        need_each_bytes(what, "a commitment", self.commitments, DIGEST_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (version_byte(), self.transcript, struct.pack(">H", self.sender), self.body)
        boxes, commitments = len(self.boxes), len(self.commitments)
        alike = boxes == commitments
        counts = struct.pack(">H", boxes) if alike else struct.pack(">HH", _TWO_COUNTS | boxes, commitments)
        return b"".join((*head, counts, *self.boxes, *self.commitments))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an upload")
        transcript, sender, body, sealed = r.digest(), r.u16(), r.digest(), r.u16()
        committed = sealed
        if sealed & _TWO_COUNTS:
            sealed, committed = sealed & ~_TWO_COUNTS, r.u16()
            if sealed == committed:
                raise Malformed("an upload gives one number twice")
        boxes, commitments = r.pieces(sealed, box_bytes(committed)), r.pieces(committed, DIGEST_BYTES)
        signature = r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, sender, body, boxes, commitments, signature)
