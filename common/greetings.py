"""The wire of an epoch's beginning: departments countersign a roster and meet; the coordinator only carries letters.

Greet → Greeting, then Introduce → Introduced.  What the coordinator carries is signed by whoever wrote it, over the
roster's digest, so it can withhold a greeting but not change, swap, replay or invent one.  Encodings and signatures
follow the rules of ``messages``.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from commonroot.common.errors import Malformed
from commonroot.common.messages import Signed
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, verify
from commonroot.common.secure_sum.wire import (
    DIGEST_BYTES,
    PROTOCOL,
    Reader,
    need_bytes,
    need_increasing,
    need_uint,
    put_ids,
)

#: Under which a department signs a roster's digest.
COUNTERSIGNATURE = "roster-countersignature"


def _start(roster: bytes, epoch: int) -> bytes:
    return bytes([PROTOCOL]) + roster + epoch.to_bytes(4, "big")


def _need_common(what: str, message: Greet | Greeting | Introduce | Introduced) -> None:
    need_bytes(what, "the roster's digest", message.roster, DIGEST_BYTES)
    need_uint(what, "epoch", message.epoch, 32)
    need_bytes(what, "the signature", message.signature, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Greet(Signed):
    """Coordinator to department: asks for the greeting of an epoch.

    Wire    version: u8 | roster: 32 B | epoch: u32 | signature: 64 B, coordinator, "greet"
    Raises  Malformed: cut short, trailing bytes; WrongVersion
    Source  docs/adr, epochs
    """

    roster: bytes
    epoch: int
    signature: bytes

    label: ClassVar[str] = "greet"

    def __post_init__(self) -> None:
        _need_common("a request to greet", self)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return _start(self.roster, self.epoch)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a request to greet")
        roster, epoch, signature = r.digest(), r.u32(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(roster, epoch, signature)


@dataclass(frozen=True, slots=True)
class Greeting(Signed):
    """Department to every other, through the coordinator: this roster is the one I see, and here are our secrets.

    countersignature  over the roster's digest alone, so that it can be kept and shown without the rest
    to                the departments encapsulated to: those with higher numbers that a chain is needed with
    sealed            a digest of each ciphertext, in order; the ciphertexts themselves travel in the body

    Wire    version: u8 | roster: 32 B | epoch: u32 | sender: u16 | countersignature: 64 B | n: u16 | to: n × u16 |
            sealed: n × 32 B | signature: 64 B, department, "greeting"
    Raises  Malformed: cut short, trailing bytes, ids not increasing or not above the sender; WrongVersion
    Source  docs/adr, epochs
    """

    roster: bytes
    epoch: int
    sender: int
    countersignature: bytes
    to: tuple[int, ...]
    sealed: tuple[bytes, ...]
    signature: bytes

    label: ClassVar[str] = "greeting"

    def __post_init__(self) -> None:
        what = "a greeting"
        _need_common(what, self)
        need_uint(what, "the sender", self.sender, 16)
        need_bytes(what, "the countersignature", self.countersignature, SIGNATURE_BYTES)
        if any(left >= right for left, right in itertools.pairwise((self.sender, *self.to))):
            raise Malformed(f"{what}: it is addressed to increasing numbers above its sender's")
        if len(self.sealed) != len(self.to):
            raise Malformed(f"{what}: {len(self.sealed)} ciphertexts to {len(self.to)} departments")
        for digest in self.sealed:
            need_bytes(what, "the digest of a ciphertext", digest, DIGEST_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        sender = struct.pack(">H", self.sender)
        return b"".join(
            (_start(self.roster, self.epoch), sender, self.countersignature, put_ids(self.to), *self.sealed)
        )

    def check_countersignature(self, public: bytes, *, who: str) -> None:
        """Raise BadSignature, naming ``who``, unless the roster's digest is countersigned by ``public``."""
        verify(public, COUNTERSIGNATURE, self.roster, self.countersignature, who=who)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "a greeting")
        roster, epoch, sender, countersignature = r.digest(), r.u32(), r.u16(), r.raw(SIGNATURE_BYTES)
        to = r.ids()
        sealed, signature = r.pieces(len(to), DIGEST_BYTES), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(roster, epoch, sender, countersignature, to, sealed, signature)


@dataclass(frozen=True, slots=True)
class Introduce(Signed):
    """Coordinator to department: others' greetings, in the body (``letters``).

    who     whose greetings they are, in order

    Wire    version: u8 | roster: 32 B | epoch: u32 | n: u16 | who: n × u16 | body: 32 B, SHA-256 |
            signature: 64 B, coordinator, "introduce"
    Raises  Malformed: cut short, trailing bytes, ids not increasing; WrongVersion
    Source  docs/adr, epochs
    """

    roster: bytes
    epoch: int
    who: tuple[int, ...]
    body: bytes
    signature: bytes

    label: ClassVar[str] = "introduce"

    def __post_init__(self) -> None:
        what = "an introduction"
        _need_common(what, self)
        need_increasing(what, "who is introduced", self.who)
        need_bytes(what, "the body's hash", self.body, DIGEST_BYTES)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return _start(self.roster, self.epoch) + put_ids(self.who) + self.body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an introduction")
        roster, epoch, who, body, signature = r.digest(), r.u32(), r.ids(), r.digest(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(roster, epoch, who, body, signature)


@dataclass(frozen=True, slots=True)
class Introduced(Signed):
    """Department to coordinator: whose greetings this department has verified, its own included.

    Wire    version: u8 | roster: 32 B | epoch: u32 | sender: u16 | n: u16 | met: n × u16 |
            signature: 64 B, department, "introduced"
    Raises  Malformed: cut short, trailing bytes, ids not increasing; WrongVersion
    Source  docs/adr, epochs
    """

    roster: bytes
    epoch: int
    sender: int
    met: tuple[int, ...]
    signature: bytes

    label: ClassVar[str] = "introduced"

    def __post_init__(self) -> None:
        what = "an answer to an introduction"
        _need_common(what, self)
        need_uint(what, "the sender", self.sender, 16)
        need_increasing(what, "who was met", self.met)

    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""
        return _start(self.roster, self.epoch) + struct.pack(">H", self.sender) + put_ids(self.met)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""
        r = Reader(data, "an answer to an introduction")
        roster, epoch, sender, met, signature = r.digest(), r.u32(), r.u16(), r.ids(), r.raw(SIGNATURE_BYTES)
        r.end()
        return cls(roster, epoch, sender, met, signature)


def put_letters(letters: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The body of an introduction: per department, in order, its greeting and the ciphertext for the one addressed.

    Wire    version: u8 | per letter: size: u16 | greeting: size B | size: u16 | ciphertext: size B, may be empty
    """
    parts = [bytes([PROTOCOL])]
    for greeting, ciphertext in letters:
        parts += [struct.pack(">H", len(greeting)), greeting, struct.pack(">H", len(ciphertext)), ciphertext]
    return b"".join(parts)


def take_letters(data: bytes | bytearray | memoryview, count: int) -> list[tuple[Greeting, bytes]]:
    """The inverse: ``count`` greetings, each with a ciphertext or nothing.  Malformed, WrongVersion."""
    r = Reader(bytes(data), "the letters of an introduction")
    found = [(Greeting.decode(r.raw(r.u16())), r.raw(r.u16())) for _ in range(count)]
    r.end()
    return found
