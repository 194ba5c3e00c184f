"""The bytes of a coordinator's round after its survivor set was fixed: a hash, a header, the masked sum.

Layout  SHA-256 of the rest: 32 B | header length: u32 | header: canonical JSON | per survivor its boxes, then its
        commitments | the body of the sum, as of an upload
        The header has, per survivor, how many boxes of what size and how many commitments there are.  Boxes are most of
        it where there are many departments: 0.3 MB for each of 1,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from commonroot.common import canonical
from commonroot.common.errors import ForeignState, Malformed
from commonroot.common.secure_sum.lanes import Layout, Words, Words64
from commonroot.common.secure_sum.primitives import same, sha256
from commonroot.common.secure_sum.wire import DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is kept; ``heads``, ``boxes`` and ``commitments`` are per survivor, in order."""

    opening: bytes
    floor: int
    survivors: tuple[int, ...]
    heads: tuple[bytes, ...]
    boxes: tuple[tuple[bytes, ...], ...] = field(repr=False)
    commitments: tuple[tuple[bytes, ...], ...] = field(repr=False)
    bulk: Words = field(repr=False)
    exact: Words64 = field(repr=False)

    @property
    def layout(self) -> Layout:
        """Where everything lies in an upload of this round."""
        return Layout(self.bulk.dtype.str, self.bulk.size, self.exact.size)


def encode(snapshot: Snapshot) -> bytes:
    """One buffer; the sums are copied once."""
    header = canonical.dumps(
        {
            "layout": 3,
            "opening": snapshot.opening.hex(),
            "floor": snapshot.floor,
            "survivors": list(snapshot.survivors),
            "heads": [head.hex() for head in snapshot.heads],
            "sizes": [
                [len(boxes), len(boxes[0]), len(commitments)]
                for boxes, commitments in zip(snapshot.boxes, snapshot.commitments, strict=True)
            ],
            "words": [snapshot.layout.word, snapshot.layout.bulk, snapshot.layout.exact],
        }
    )
    parts: list[bytes | memoryview] = [len(header).to_bytes(4, "big"), header]
    for boxes, commitments in zip(snapshot.boxes, snapshot.commitments, strict=True):
        parts += (*boxes, *commitments)
    parts += (snapshot.bulk.view("u1").data, snapshot.exact.view("u1").data)
    return b"".join((sha256(*parts), *parts))


def decode(data: bytes) -> Snapshot:
    """The inverse, with fresh arrays; ForeignState for anything cut short, changed or of another layout."""
    view = memoryview(data)
    if len(view) < 36 or not same(bytes(view[:32]), sha256(view[32:])):
        raise ForeignState("the round's snapshot is damaged")
    at = 36 + int.from_bytes(view[32:36], "big")
    try:
        header = canonical.loads(bytes(view[36:at]), what="the round's snapshot")
        layout = Layout(*header["words"])
        if header["layout"] != 3:
            raise ForeignState("the round's snapshot has another layout")
        boxes, commitments = [], []
        for count, size, committed in header["sizes"]:
            boxes.append(tuple(_cut(view[at : at + count * size], size)))
            at += count * size
            commitments.append(tuple(_cut(view[at : at + committed * DIGEST_BYTES], DIGEST_BYTES)))
            at += committed * DIGEST_BYTES
        if len(view) - at != layout.nbytes:
            raise ForeignState("the round's snapshot has another layout")
        bulk, exact = layout.split(view[at:])
        return Snapshot(
            bytes.fromhex(header["opening"]),
            header["floor"],
            tuple(header["survivors"]),
            tuple(map(bytes.fromhex, header["heads"])),
            tuple(boxes),
            tuple(commitments),
            bulk.copy(),
            exact.copy(),
        )
    except (Malformed, KeyError, TypeError, ValueError) as error:
        raise ForeignState("the round's snapshot is damaged") from error


def _cut(block: memoryview, size: int) -> Iterator[bytes]:
    return (bytes(block[at : at + size]) for at in range(0, len(block), size))
