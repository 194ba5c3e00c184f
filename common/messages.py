"""The wire of the secure sum: frozen messages, one encoding each.

Every message starts with the protocol version; numbers are big endian; departments are numbered by their position in
the roster (u16) and lists of them are strictly increasing.  What a peer signs is the whole encoding before the
signature, under a label of its own, so no signature can be moved to another kind of message.

M1 RoundOpen → M2 Masked → M3 Open → M4 Shares; M5, the result, rides in the next RoundOpen or RunClose (``Previous``).
Where somebody of the cohort was lost, Confirm → Confirmed precede M3: see docs/adr/0012.  With a ready stage, M0
Train → Ready precede M1, whose cohort is then those that are ready.
"""

from __future__ import annotations

import math
import re
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from commonroot.common.errors import BadSignature, Malformed
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, Identity, tagged_hash, verify
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    PROTOCOL,
    Reader,
    need_bytes,
    need_increasing,
    need_uint,
    put_floats,
    put_ids,
)

#: Random bytes in front of each box; they go into its key.
BOX_SALT_BYTES = 16
_TAG_BYTES = 16
SHARE_BYTES = 32
NO_DIGEST = bytes(DIGEST_BYTES)
#: Set in an upload's number of boxes where the number of commitments is another one and follows.
_TWO_COUNTS = 1 << 15
#: In the place of the size of an opening's boxes where they are of several.
_MANY_SIZES = 0xFFFF


def box_bytes(secrets: int) -> int:
    """Length of one box: a salt, a share of each of ``secrets`` secrets (b and the pairwise ones), a tag."""
    return BOX_SALT_BYTES + SHARE_BYTES * secrets + _TAG_BYTES


def opened_digest(transcript: bytes, survivors: tuple[int, ...]) -> bytes:
    """H(T, U), 32 bytes: one round opened for one survivor set."""
    return tagged_hash("opened", transcript, put_ids(survivors))


class _Signed(ABC):
    """What all signed messages share: bytes, then a signature over them under the message's own label."""

    __slots__ = ()
    label: ClassVar[str]
    signature: bytes

    @abstractmethod
    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""

    def encode(self) -> bytes:
        """The message's one encoding."""
        return self.unsigned() + self.signature

    @classmethod
    def signed(cls, identity: Identity, **fields: Any) -> Self:
        """A message with these fields, under ``identity``'s signature."""
        blank = cls(**(fields | {"signature": bytes(SIGNATURE_BYTES)}))
        return cls(**(fields | {"signature": identity.sign(cls.label, blank.unsigned())}))

    def check(self, public: bytes, *, who: str) -> None:
        """Raise BadSignature, naming ``who``, unless the signature is ``public``'s."""
        verify(public, self.label, self.unsigned(), self.signature, who=who)

    def is_by(self, public: bytes) -> bool:
        """Is the signature ``public``'s?"""
        try:
            self.check(public, who="the sender")
        except BadSignature:
            return False
        return True


def _version() -> bytes:
    return bytes([PROTOCOL])


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


@dataclass(frozen=True, slots=True)
class Train(_Signed):
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
            (_version(), self.charter, self.roster, numbers, self.broadcast, self.seconds.to_bytes(4, "big"))
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a request to train")
        charter, roster, epoch, number, version = r.digest(), r.digest(), r.u32(), r.u32(), r.u32()
        broadcast, seconds, signature = r.digest(), r.u32(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(charter, roster, epoch, number, version, broadcast, seconds, signature)


@dataclass(frozen=True, slots=True)
class Ready(_Signed):
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
        return b"".join((_version(), self.asked, struct.pack(">H", self.sender)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a readiness")
        asked, sender, signature = r.digest(), r.u16(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(asked, sender, signature)


@dataclass(frozen=True, slots=True)
class RoundOpen(_Signed):
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

    @property
    def asked(self) -> bytes:
        """32 bytes over what a department's values are a function of: the broadcast and the bounds.

        A retry of a version must repeat both.  Sums of the same values under other bounds are clipped elsewhere, and
        enough of them would show each value.
        """
        return tagged_hash("asked", self.broadcast, put_floats(self.bounds))

    @property
    def transcript(self) -> bytes:
        """T, 32 bytes: everything above but the signature.  Keys, boxes and commitments are bound to it."""
        return tagged_hash("transcript", self.unsigned())

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return b"".join(
            (
                _version(),
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
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a round-open")
        charter, roster, epoch, number, version = r.digest(), r.digest(), r.u32(), r.u32(), r.u32()
        cohort, broadcast, manifest, bounds = r.ids(), r.digest(), r.digest(), r.floats()
        seconds, previous, signature = r.u32(), Previous.take(r), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(
            charter, roster, epoch, number, version, cohort, broadcast, manifest, bounds, seconds, previous, signature
        )


@dataclass(frozen=True, slots=True)
class Masked(_Signed):
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
        for box in self.boxes:
            need_bytes(what, "a box", box, box_bytes(len(self.commitments)))
        for commitment in self.commitments:
            need_bytes(what, "a commitment", commitment, DIGEST_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (_version(), self.transcript, struct.pack(">H", self.sender), self.body)
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


@dataclass(frozen=True, slots=True)
class Confirm(_Signed):
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
        return b"".join((_version(), struct.pack(">I", self.round), self.transcript, put_ids(self.survivors)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a request to confirm")
        number, transcript, survivors, signature = r.u32(), r.digest(), r.ids(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, number, survivors, signature)


@dataclass(frozen=True, slots=True)
class Confirmed(_Signed):
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
        return b"".join((_version(), self.opened, struct.pack(">H", self.member)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a confirmation")
        opened, member, signature = r.digest(), r.u16(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(opened, member, signature)


@dataclass(frozen=True, slots=True)
class Open(_Signed):
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
        if any(len(box) >= _MANY_SIZES for box in self.boxes):
            raise Malformed(f"{what}: a box must be smaller than {_MANY_SIZES} bytes")
        if self.confirmed_by:
            need_increasing(what, "who confirmed", self.confirmed_by)
        if len(self.confirmations) != len(self.confirmed_by):
            raise Malformed(f"{what}: {len(self.confirmations)} confirmations by {len(self.confirmed_by)} members")
        for confirmation in self.confirmations:
            need_bytes(what, "a confirmation", confirmation, SIGNATURE_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    @property
    def opened(self) -> bytes:
        """H(T, U)."""
        return opened_digest(self.transcript, self.survivors)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (_version(), struct.pack(">I", self.round), self.transcript, put_ids(self.survivors))
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
class Shares(_Signed):
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
        for share in self.shares:
            need_bytes(what, "a share", share, SHARE_BYTES)
        need_bytes(what, "the signature", self.signature, SIGNATURE_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        head = (_version(), self.transcript, struct.pack(">H", self.member), self.opened)
        return b"".join((*head, struct.pack(">H", len(self.shares)), *self.shares))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an answer")
        transcript, member, opened = r.digest(), r.u16(), r.digest()
        shares, signature = r.pieces(r.u16(), SHARE_BYTES), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(transcript, member, opened, shares, signature)


@dataclass(frozen=True, slots=True)
class RunClose(_Signed):
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
        return b"".join((_version(), self.charter, self.roster, numbers, self.broadcast, self.previous.encode()))

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

    Wire    version: u8 | round: u32 | code: 4 B ASCII, "CR" and two digits
    Raises  Malformed: cut short, trailing bytes, another code; WrongVersion
    Source  ``errors``: codes never change meaning
    """

    round: int
    code: str

    def __post_init__(self) -> None:
        need_uint("a refusal", "round", self.round, 32)
        if not re.fullmatch(r"CR[0-9]{2}", self.code):
            raise Malformed("a refusal's code is CR and two digits")

    def encode(self) -> bytes:
        """Nine bytes."""
        return _version() + self.round.to_bytes(4, "big") + self.code.encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a refusal")
        number, code = r.u32(), r.raw(4)
        r.end()
        return cls(number, code.decode("ascii", errors="replace"))


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack(">f", struct.pack(">f", value))[0] == value)
    except OverflowError:
        return False
