"""What a lying department forges: it signs with its own identity, unless a lie is about the signature.

A department may add anything to its masked vector: that is the same as lying about what was in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proofs.reference import body_hash
from proofs.stage import BIRCH, Make, Stage, parcel_of, resigned
from sum_federation import Federation

from commonroot.common import parcel
from commonroot.common.errors import CommonrootError
from commonroot.common.messages import Confirmed, Masked, Ready, Shares, box_bytes
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import Identity, sha256

KINDS = {parcel.TRAINED: Ready, parcel.MASKED: Masked, parcel.CONFIRMED: Confirmed, parcel.SHARES: Shares}


def altered(change: Callable[[Stage, str, Any], dict[str, Any]]) -> Make:
    """A reply with fields changed, under the department's own signature."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        message = KINDS[honest.kind].decode(honest.head)
        return parcel_of(resigned(message, stage.key(name), **change(stage, name, message)), honest)

    return make


def set_to(**changes: Any) -> Make:
    """Fields set to fixed values."""
    return altered(lambda stage, name, message: changes)


def under_another_key(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """Everything as it was, signed by a key that is not this department's."""
    return parcel_of(resigned(KINDS[honest.kind].decode(honest.head), Identity(bytes(range(32)))), honest)


def in_the_name_of_birch(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The reply says that it is birch's."""
    message = KINDS[honest.kind].decode(honest.head)
    field = "member" if honest.kind in (parcel.CONFIRMED, parcel.SHARES) else "sender"
    return parcel_of(resigned(message, stage.key(name), **{field: stage.number(BIRCH)}), honest)


def earlier(kind: str) -> Make:
    """The first reply of a kind that this department ever sent, again."""
    return lambda stage, name, honest: stage.sent(kind, name)[0]


def with_head(change: Callable[[bytes], bytes]) -> Make:
    """The head's bytes changed, nothing signed anew."""
    return lambda stage, name, honest: Parcel(honest.kind, change(honest.head), honest.body)


def with_body(change: Callable[[bytes], bytes]) -> Make:
    """The body changed, under the honest hash."""
    return lambda stage, name, honest: Parcel(honest.kind, honest.head, change(bytes(honest.body)))


def with_signed_body(change: Callable[[bytes], bytes]) -> Make:
    """The body changed, and signed for."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        body = change(bytes(honest.body))
        return parcel_of(resigned(Masked.decode(honest.head), stage.key(name), body=body_hash(body)), honest, body)

    return make


def with_something_else(reply: Parcel) -> Make:
    """Another reply altogether."""
    return lambda stage, name, honest: reply


# -- vectors -----------------------------------------------------------------------------------------------------------


def noise(body: bytes) -> bytes:
    return os.urandom(len(body))


def add_to_last_lane(amount: int) -> Callable[[bytes], bytes]:
    """The last lane of a body is a 64-bit scalar of the codec's own."""

    def change(body: bytes) -> bytes:
        lane = int.from_bytes(body[-8:], "little")
        return body[:-8] + ((lane + amount) % 2**64).to_bytes(8, "little")

    return change


def add_to_first_lane(amount: int) -> Callable[[bytes], bytes]:
    """The first 16 bits are the lowest of an update's first lane, at about the middle of its range."""

    def change(body: bytes) -> bytes:
        lane = int.from_bytes(body[:2], "little")
        return ((lane + amount) % 2**16).to_bytes(2, "little") + body[2:]

    return change


# -- boxes, commitments, shares ----------------------------------------------------------------------------------------


def noise_in_boxes(*members: int) -> Make:
    """Noise for some members where their boxes should be."""
    return altered(
        lambda stage, name, m: {
            "boxes": tuple(os.urandom(len(box)) if at in members else box for at, box in enumerate(m.boxes))
        }
    )


def fewer_boxes(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """As for a cohort of three."""
    others = Federation(3)
    small = Masked.decode(others.upload(0, others.opening())[0])
    fields = {"boxes": small.boxes, "commitments": small.commitments}
    return parcel_of(resigned(Masked.decode(honest.head), stage.key(name), **fields), honest)


def as_in_a_complete_graph(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """A box for each of 34 and a commitment for each, where the committee has 32 and the department 24 neighbours."""
    message = Masked.decode(honest.head)
    size = box_bytes(34)
    fields = {"boxes": (bytes(size),) * 34, "commitments": (bytes(32),) * 34}
    return parcel_of(resigned(message, stage.key(name), **fields), honest)


def commitments(*places: int) -> Make:
    """Other commitments at some places: the first is to the department's own secret, the rest to pairs in order."""
    return altered(
        lambda stage, name, m: {
            "commitments": tuple(sha256(c) if at in places else c for at, c in enumerate(m.commitments))
        }
    )


noise_for_shares = altered(lambda stage, name, m: {"shares": tuple(os.urandom(32) for _ in m.shares)})
one_share_less = altered(lambda stage, name, m: {"shares": m.shares[:-1]})
of_another_set = set_to(opened=sha256(b"another set"))


class Machines:
    """What a stage cannot show, because the coordinator asks only once: bare machines, and their refusals."""

    def __init__(self) -> None:
        self.refusals: set[tuple[str, str, str]] = set()
        self._outcome = "nothing began"

    def try_to(self, step: str, work: Callable[[], object]) -> None:
        try:
            work()
        except CommonrootError as error:
            self.refusals.add(("coordinator", step, error.code))

    def outcome(self) -> str:
        return self._outcome

    def opens(self, federation: Federation, at_work: Any, opening: Any) -> None:
        """Fix and open with everybody; is it the sum of what the first uploads held?"""
        everyone = at_work.fix()
        federation.answers(at_work, everyone)
        opened = [part.tolist() for part in at_work.finish()]
        self._outcome = "unharmed" if opened == list(federation.ring_sum(everyone, opening)) else "spoiled"


def two_uploads(root: Path) -> Machines:
    """Department 2 forgets that it uploaded (an old memory), uploads again, and sends both."""
    made, federation = Machines(), Federation(5)
    opening = federation.opening()
    old = federation.machines[2].memory.to_bytes()
    first = federation.upload(2, opening)
    federation.restart(2, old)
    second = federation.upload(2, opening)
    assert first[1] != second[1]
    federation.restart(2, old)
    federation.upload(2, opening)
    at_work = federation.gathered(opening, [0, 1, 3, 4])
    at_work.upload(2, *first)
    made.try_to(parcel.MASKED, lambda: at_work.upload(2, *second))
    made.opens(federation, at_work, opening)
    return made


def two_answers(root: Path) -> Machines:
    """Department 2 answers honestly, and then once more with other shares."""
    made, federation = Machines(), Federation(5)
    opening = federation.opening()
    at_work = federation.gathered(opening, range(5))
    at_work.fix()
    reply, _ = federation.machines[2].answer(at_work.open_for(2))
    at_work.shares(2, reply)
    told = Shares.decode(reply)
    other = resigned(told, federation.identities[2], shares=tuple(os.urandom(32) for _ in told.shares)).encode()
    made.try_to(parcel.SHARES, lambda: at_work.shares(2, other))
    made.opens(federation, at_work, opening)
    return made
