"""How the levels of bulk terms lie in ring elements, and where everything lies in an upload.

    name     word     elements a word   field      meant for
    uint16   uint16   1                 16 bits    up to 16 departments: half the bytes of float32
    3x21     uint64   3                 21 bits    up to 1,000: two thirds
    uint32   uint32   1                 32 bits    any number: as many as float32

Masks are added to whole words modulo 2^bits of the word.  Levels are never negative, and the sum of every field stays
below 2^bits of the field (``Lanes.levels`` sees to it), so in the true sum no field carries into the next one, and
once the masks are gone each field holds exactly the sum of its levels.

3x21 packs blocks of 3·K elements into K words: word k holds elements k, K + k and 2·K + k of its block, the first in
its lowest bits.  K is 2^15, for the last block a third of what is left, rounded up; what is missing there is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError, SumRejected

Words = NDArray[Any]
Words64 = NDArray[np.uint64]
LaneName = Literal["uint16", "3x21", "uint32"]
#: What a charter may say: one of them, or whichever is smallest for the roster.
LaneChoice = Literal["auto", "uint16", "3x21", "uint32"]

#: Elements per step of anything that walks over a vector: fewer make the calls felt, more leave the caches.
STEP: Final = 1 << 17
#: K of 3x21, elements of a whole block that share a field.  Both ends must have it alike.
_BLOCK: Final = 1 << 15
#: float32 carries no more than this many levels.
_MOST_LEVELS: Final = 1 << 24
_FEWEST_LEVELS: Final = 16


class Piece(NamedTuple):
    """Elements [start, stop) are one field of as many words, from ``word`` on."""

    start: int
    stop: int
    word: int
    field: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """One way to put levels into words.

    name    as in a charter
    word    NumPy's name of the word, little endian
    fields  elements per word
    bits    of each field
    meant   most departments for which ``choose`` takes it by itself
    """

    name: LaneName
    word: str
    fields: int
    bits: int
    meant: int

    @property
    def width(self) -> int:
        """Bytes per word."""
        return np.dtype(self.word).itemsize

    def levels(self, departments: int) -> int:
        """L, even: the highest level, such that the sum of ``departments`` levels leaves 1/16 of a field unused.

        Raises ConfigError where fewer than 16 levels are left.
        """
        found = min(_MOST_LEVELS, ((1 << self.bits) - 1) * 15 // 16 // departments) & ~1
        if found < _FEWEST_LEVELS:
            raise ConfigError(f"{departments} departments leave {found} levels in a lane of {self.name}")
        if departments * found >> self.bits or self.fields * self.bits > 8 * self.width:
            raise ConfigError(f"the sum of {departments} departments could wrap a lane of {self.name}")
        return found

    def words(self, elements: int) -> int:
        """Number of words for a vector."""
        return -(-elements // self.fields)

    def pieces(self, elements: int) -> Iterator[Piece]:
        """Where the elements of a vector go, in order, in steps of at most ``STEP``."""
        if self.fields == 1:
            for start in range(0, elements, STEP):
                yield Piece(start, min(start + STEP, elements), start, 0)
            return
        block = self.fields * _BLOCK
        for first in range(0, elements, block):
            here = min(block, elements - first)
            third = -(-here // self.fields)
            for field in range(self.fields):
                start, stop = min(field * third, here), min((field + 1) * third, here)
                if start < stop:
                    yield Piece(first + start, first + stop, first // self.fields, field)

    def put(self, signed: NDArray[np.int32], levels: int, words: Words, field: int, spare: Words64) -> bool:
        """Write levels ``signed + levels/2`` into one field of ``words``; field 0 comes first and overwrites.

        False where one of them is not in [0, levels]; the field must then be put again.  Of ``signed`` in uint16 lanes,
        16 bits count.  ``signed`` is used up; ``spare`` is room for as many words.
        """
        half = levels // 2
        if self.bits == 16:
            np.copyto(words, signed, casting="unsafe")  # modulo 2^16, so the offset may follow
            np.add(words, np.uint16(half), out=words)
            return int(words.max()) <= levels
        np.add(signed, np.int32(half), out=signed)
        found = signed.view(np.uint32)  # what is negative is large
        if int(found.max()) > levels:
            return False
        target = spare[: signed.size] if field else words
        np.copyto(target, found)
        if field:
            np.left_shift(target, np.uint64(field * self.bits), out=target)
            np.bitwise_or(words, target, out=words)
        return True

    def take(self, words: Words, field: int, most: int, out: NDArray[np.float64]) -> None:
        """The sums in one field of ``words``, into ``out``.

        Raises SumRejected where one lies beyond ``most``, which garbage does
        """
        if self.fields > 1:
            words = np.right_shift(words, np.uint64(field * self.bits))
            if field < self.fields - 1:
                np.bitwise_and(words, np.uint64((1 << self.bits) - 1), out=words)
        if words.size and int(words.max()) > most:
            raise SumRejected(f"a lane of {self.name} of the opened sum is out of range")
        np.copyto(out, words)

    def check_padding(self, words: Words, elements: int) -> None:
        """Raise SumRejected unless the unused fields of the last block are 0."""
        if self.fields == 1:
            return
        here = elements % (self.fields * _BLOCK)
        third = -(-here // self.fields)
        block = words[words.size - third :]
        for field in range(self.fields):
            used = min(max(here - field * third, 0), third)
            if ((block[used:] >> np.uint64(field * self.bits)) & np.uint64((1 << self.bits) - 1)).any():
                raise SumRejected(f"an unused lane of {self.name} of the opened sum is not zero")


UINT16: Final = Lanes("uint16", "<u2", 1, 16, 16)
THREE21: Final = Lanes("3x21", "<u8", 3, 21, 1000)
UINT32: Final = Lanes("uint32", "<u4", 1, 32, 1 << 31)
_BY_NAME: Final = {lanes.name: lanes for lanes in (UINT16, THREE21, UINT32)}


def choose(choice: LaneChoice, departments: int) -> Lanes:
    """The lanes a charter asks for; ``auto`` is the smallest meant for a roster of this size.

    Raises ConfigError where that many departments leave too few levels in them.
    """
    if choice == "auto":
        return next(lanes for lanes in _BY_NAME.values() if departments <= lanes.meant)
    found = _BY_NAME[choice]
    found.levels(departments)
    return found


@dataclass(frozen=True, slots=True)
class Layout:
    """An upload's body: ``bulk`` words of ``word``, then ``exact`` words of 64 bits, all little endian."""

    word: str
    bulk: int
    exact: int

    @property
    def bulk_bytes(self) -> int:
        """Bytes before the first exact word."""
        return np.dtype(self.word).itemsize * self.bulk

    @property
    def nbytes(self) -> int:
        """Bytes of the whole body."""
        return self.bulk_bytes + 8 * self.exact

    def split(self, body: bytes | bytearray | memoryview) -> tuple[Words, Words64]:
        """Views of both kinds of words in a body of ``nbytes`` bytes."""
        return (
            np.frombuffer(body, dtype=self.word, count=self.bulk),
            np.frombuffer(body, dtype="<u8", count=self.exact, offset=self.bulk_bytes),
        )

    def empty(self) -> tuple[Words, Words64]:
        """Both kinds of words side by side in one fresh buffer, so that ``masks.join_body`` needs no copy."""
        buffer = np.empty(self.nbytes, dtype=np.uint8)
        return buffer[: self.bulk_bytes].view(self.word), buffer[self.bulk_bytes :].view("<u8")

    def fits(self, bulk: Words, exact: Words64) -> bool:
        """Have these arrays the shape and type of this layout?"""
        return (bulk.dtype, exact.dtype, bulk.shape, exact.shape) == (
            np.dtype(self.word),
            np.dtype("<u8"),
            (self.bulk,),
            (self.exact,),
        )
