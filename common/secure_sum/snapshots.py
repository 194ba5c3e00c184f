"""The bytes of a coordinator's round after its survivor set was fixed: a hash, a header, the masked sum.

Layout  SHA-256 of the rest: 32 B | header length: u32 | header: canonical JSON | sum16: n × u16 LE | sum64: m × u64 LE
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commonroot.common import canonical
from commonroot.common.errors import ForeignState, Malformed
from commonroot.common.secure_sum.masks import body_bytes, split_body
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
    sum16: NDArray[np.uint16] = field(repr=False)
    sum64: NDArray[np.uint64] = field(repr=False)


def encode(snapshot: Snapshot) -> bytes:
    """One buffer; the sums are copied once."""
    header = canonical.dumps(
        {
            "layout": 1,
            "opening": snapshot.opening.hex(),
            "floor": snapshot.floor,
            "survivors": list(snapshot.survivors),
            "heads": [head.hex() for head in snapshot.heads],
            "boxes": [[box.hex() for box in boxes] for boxes in snapshot.boxes],
            "commitments": [[each.hex() for each in row] for row in snapshot.commitments],
            "lengths": [snapshot.sum16.size, snapshot.sum64.size],
        }
    )
    parts = (len(header).to_bytes(4, "big"), header, snapshot.sum16.data.cast("B"), snapshot.sum64.data.cast("B"))
    return b"".join((sha256(*parts), *parts))


def decode(data: bytes) -> Snapshot:
    """The inverse, with fresh arrays; ForeignState for anything cut short, changed or of another layout."""
    view = memoryview(data)
    if len(view) < 36 or not same(bytes(view[:32]), sha256(view[32:])):
        raise ForeignState("the round's snapshot is damaged")
    at = 36 + int.from_bytes(view[32:36], "big")
    try:
        header = canonical.loads(bytes(view[36:at]), what="the round's snapshot")
        length16, length64 = header["lengths"]
        if header["layout"] != 1 or len(view) - at != body_bytes(length16, length64):
            raise ForeignState("the round's snapshot has another layout")
        sum16, sum64 = split_body(view[at:], length16, length64)
        return Snapshot(
            bytes.fromhex(header["opening"]),
            header["floor"],
            tuple(header["survivors"]),
            tuple(map(bytes.fromhex, header["heads"])),
            tuple(tuple(map(bytes.fromhex, boxes)) for boxes in header["boxes"]),
            tuple(tuple(map(bytes.fromhex, row)) for row in header["commitments"]),
            sum16.copy(),
            sum64.copy(),
        )
    except (Malformed, KeyError, TypeError, ValueError) as error:
        raise ForeignState("the round's snapshot is damaged") from error
