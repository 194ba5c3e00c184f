"""One hash of an upload's body, for the signature and for the link.

The body is cut into pieces of 5 MiB.  A piece's digest is the SHA-256 of a short header and the piece, and what is
signed is the hash of these digests.  The header is the one under which Flower stores such a piece by its hash, so the
link names the pieces by digests that were made for the signature, and the coordinator, whose hub checks every piece
against its name when it arrives, need not hash the body once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from commonroot.common.secure_sum.primitives import sha256, tagged_hash

PIECE_BYTES: Final = 5 * 1024 * 1024

Body = bytes | bytearray | memoryview


def piece_header(size: int) -> bytes:
    """What stands in front of a piece of ``size`` bytes."""
    return b"ArrayChunk  %d\0" % size


def cut(body: Body) -> Iterator[memoryview]:
    """The pieces of a contiguous buffer, in order, without copies."""
    view = memoryview(body)
    if view.nbytes:
        view = view.cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def digests(body: Body) -> tuple[bytes, ...]:
    """Of every piece, 32 bytes."""
    return tuple(sha256(piece_header(len(piece)), piece) for piece in cut(body))


def body_digest(pieces: Sequence[bytes]) -> bytes:
    """What a department signs for a body with these ``digests``."""
    return tagged_hash("body", *pieces)
