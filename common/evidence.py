"""What makes a refused message evidence: the signature of whoever sent it.

Only heads are signed, so only heads are kept.  A body that does not match its head's hash proves nothing to others; its
hash is noted beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from commonroot.common import parcel
from commonroot.common.errors import CommonrootError
from commonroot.common.greetings import Greet, Greeting, Introduce, Introduced
from commonroot.common.messages import (
    Confirm,
    Confirmed,
    Goodbye,
    Masked,
    Offer,
    Open,
    Previous,
    Ready,
    RoundOpen,
    RunClose,
    Shares,
    Signed,
    Train,
)
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, verify

#: Heads larger than this are kept by their hash alone.
LARGEST_HEAD: Final = 1 << 20
#: Codes of refusals that may be somebody's lie; the head is kept, and beside it the one that was accepted before.
TELLING: Final = frozenset(
    {
        "CR24",  # a round number used again, with other contents
        "CR25",  # a cohort that cannot be
        "CR26",  # more than the charter permits
        "CR27",  # a second survivor set
        "CR28",  # too few survivors
        "CR29",  # a box that was never sealed so
        "CR30",  # shares that were never dealt
        "CR31",  # two ends of an edge, two secrets
        "CR32",  # another survivor set for one backbone
        "CR34",  # another broadcast
        "CR35",  # another result
        "CR36",  # a message of another size than it must have
        "CR38",  # an opening that too few members confirmed
        "CR50",  # a cohort of strangers
        "CR52",  # two rosters of one epoch
        "CR54",  # two greetings, or one that was tampered with
    }
)

_KINDS: Final[dict[str, type[Signed]]] = {
    parcel.CHARTER: Offer,
    parcel.GOODBYE: Goodbye,
    parcel.TRAIN: Train,
    parcel.ROUND_OPEN: RoundOpen,
    parcel.CONFIRM: Confirm,
    parcel.OPEN: Open,
    parcel.RUN_CLOSE: RunClose,
    parcel.GREET: Greet,
    parcel.INTRODUCE: Introduce,
    parcel.TRAINED: Ready,
    parcel.MASKED: Masked,
    parcel.CONFIRMED: Confirmed,
    parcel.SHARES: Shares,
    parcel.GREETING: Greeting,
    parcel.INTRODUCED: Introduced,
}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One refused message.

    at        seconds since 1970, UTC, by the keeper's clock
    kind      of its parcel
    code      of the refusal
    signer    public key of whoever signed it, hex
    head      as it arrived; body: SHA-256 of what came with it
    against   kind of the message that was accepted and that this one contradicts
    accepted  its head; empty where there was none, or it is no longer kept
    """

    at: float
    kind: str
    code: str
    signer: str
    head: bytes
    body: bytes
    against: str
    accepted: bytes

    def describe(self) -> dict[str, Any]:
        """The exhibit as a flat record, its signatures verified now."""
        public = bytes.fromhex(self.signer)
        return {
            "at": self.at,
            "kind": self.kind,
            "code": self.code,
            "round": round_of(self.kind, self.head),
            "signer": self.signer,
            "signed": signed_by(public, self.kind, self.head),
            "contradicts_signed": signed_by(public, self.against, self.accepted) if self.accepted else None,
            "head": self.head.hex(),
            "against": self.against,
            "accepted": self.accepted.hex(),
            "body_sha256": self.body.hex(),
        }


def signed_by(public: bytes, kind: str, head: bytes) -> bool:
    """Is this the head of a parcel of that kind, under this key's signature?"""
    try:
        _message(kind, head).check(public, who="the sender")
    except (CommonrootError, KeyError):
        return False
    return True


def round_of(kind: str, head: bytes) -> int | None:
    """The round that a head is about, if it says so."""
    try:
        found = getattr(_message(kind, head), "round", None)
    except (CommonrootError, KeyError):
        return None
    return found if isinstance(found, int) else None


def previous_of(kind: str, head: bytes) -> int | None:
    """The round whose result a head announces (M5), if it announces any."""
    try:
        found = getattr(_message(kind, head), "previous", None)
    except (CommonrootError, KeyError):
        return None
    return found.round if isinstance(found, Previous) else None


def decoded(kind: str, head: bytes) -> Any:
    """The message that a head of that kind is; None where it is no message."""
    try:
        return _message(kind, head)
    except (CommonrootError, KeyError):
        return None


def is_signed(public: bytes, kind: str, head: bytes) -> bool:
    """Do the last 64 bytes sign the others under this key, as that kind is signed, be it a message or not?

    Somebody who signs bytes that no honest program makes has signed them all the same.
    """
    if kind not in _KINDS or len(head) <= SIGNATURE_BYTES:
        return False
    try:
        verify(public, _KINDS[kind].label, head[:-SIGNATURE_BYTES], head[-SIGNATURE_BYTES:], who="the sender")
    except CommonrootError:
        return False
    return True


def _message(kind: str, head: bytes) -> Any:
    return _KINDS[kind].decode(head)  # type: ignore[attr-defined]  # every signed message has it
