"""The bytes of a coordinator's round after its survivor set was fixed: a hash, a header, the masked sum.

Layout  SHA-256 of the rest: 32 B | header length: u32 | header: canonical JSON | the body of the sum, as of an upload
"""

from __future__ import annotations

from dataclasses import dataclass, field

from commonroot.common import canonical
from commonroot.common.errors import ForeignState, Malformed
from commonroot.common.secure_sum.lanes import Layout, Words, Words64
from commonroot.common.secure_sum.primitives import same, sha256


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
            "layout": 2,
            "opening": snapshot.opening.hex(),
            "floor": snapshot.floor,
            "survivors": list(snapshot.survivors),
            "heads": [head.hex() for head in snapshot.heads],
            "boxes": [[box.hex() for box in boxes] for boxes in snapshot.boxes],
            "commitments": [[each.hex() for each in row] for row in snapshot.commitments],
            "words": [snapshot.layout.word, snapshot.layout.bulk, snapshot.layout.exact],
        }
    )
    parts = (len(header).to_bytes(4, "big"), header, snapshot.bulk.view("u1").data, snapshot.exact.view("u1").data)
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
        if header["layout"] != 2 or len(view) - at != layout.nbytes:
            raise ForeignState("the round's snapshot has another layout")
        bulk, exact = layout.split(view[at:])
        return Snapshot(
            bytes.fromhex(header["opening"]),
            header["floor"],
            tuple(header["survivors"]),
            tuple(map(bytes.fromhex, header["heads"])),
            tuple(tuple(map(bytes.fromhex, boxes)) for boxes in header["boxes"]),
            tuple(tuple(map(bytes.fromhex, row)) for row in header["commitments"]),
            bulk.copy(),
            exact.copy(),
        )
    except (Malformed, KeyError, TypeError, ValueError) as error:
        raise ForeignState("the round's snapshot is damaged") from error
