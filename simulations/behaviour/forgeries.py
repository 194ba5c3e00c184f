"""What a coordinator with its own key can forge from what it asked in earnest: small functions, one for each lie.

Every forgery bears a good signature, so it is refused for what it says or not at all.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np

from commonroot.common import parcel
from commonroot.common.canonical import dumps, loads
from commonroot.common.charter import SignedCharter
from commonroot.common.messages import Offer, Open, RoundOpen, Train
from commonroot.common.messages.signed import Signed
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import Identity, sha256

Message = TypeVar("Message", bound=Signed)
#: How far a forged backbone lies from the true one, in every number: near enough to have come of honest rounds.
_NEAR = np.float32(0.01)


def resigned(message: Message, key: Identity, **changes: Any) -> Message:
    """The same message with other contents, under the coordinator's signature."""
    fields = {one.name: getattr(message, one.name) for one in dataclasses.fields(message)}  # type: ignore[arg-type]
    return type(message).signed(key, **(fields | changes))


def fewer_survivors(asked: Open, key: Identity, *, left: int) -> Parcel:
    """The first ``left`` of the survivors, and nobody's confirmation."""
    forged = resigned(
        asked,
        key,
        survivors=asked.survivors[:left],
        boxes=asked.boxes[:left],
        confirmed_by=(),
        confirmations=(),
    )
    return Parcel(parcel.OPEN, forged.encode())


def opening_of(opened: RoundOpen, key: Identity) -> Parcel:
    """Everybody's sum under this transcript, asked of somebody who may have masked under another."""
    forged = Open.signed(
        key,
        transcript=opened.transcript,
        round=opened.round,
        survivors=opened.cohort,
        boxes=(b"",) * len(opened.cohort),
        confirmed_by=(),
        confirmations=(),
    )
    return Parcel(parcel.OPEN, forged.encode())


def older(opened: RoundOpen, key: Identity, body: bytes) -> Parcel:
    """The backbone before this one, asked for again as if it were the next round."""
    forged = resigned(opened, key, round=opened.round + 1, version=opened.version - 1, broadcast=sha256(body))
    return Parcel(parcel.ROUND_OPEN, forged.encode(), body)


def another_backbone(message: RoundOpen | Train, key: Identity, body: bytes, *, empty: bool) -> Parcel:
    """The same round on a backbone beside the true one, ``body``; ``empty``: it was sent before, forged likewise."""
    other = (np.frombuffer(body, "<f4") + _NEAR).tobytes()
    forged = resigned(message, key, broadcast=sha256(other))
    kind = parcel.TRAIN if isinstance(message, Train) else parcel.ROUND_OPEN
    return Parcel(kind, forged.encode(), b"" if empty else other)


def another_cohort(opened: RoundOpen, key: Identity, me: int, body: bytes) -> Parcel:
    """The same round without one of the others."""
    others = [who for who in opened.cohort if who != me]
    forged = resigned(opened, key, cohort=tuple(sorted((*others[:-1], me))))
    return Parcel(parcel.ROUND_OPEN, forged.encode(), body)


def another_charter(offer: Offer, key: Identity, body: bytes) -> Parcel:
    """The charter with one number changed: one round more."""
    value = loads(body, what="the charter")
    value["charter"]["rounds"] += 1
    changed = SignedCharter.sign(SignedCharter.from_json(dumps(value)).charter, key)
    forged = resigned(offer, key, charter=changed.charter.digest)
    return Parcel(parcel.CHARTER, forged.encode(), changed.to_json())
