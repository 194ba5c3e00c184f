"""What travels over a link, whatever the link is: a kind, a head, and a body.

The head is one encoded message of ``messages``; the body is the bulk that belongs to it (a backbone, a masked vector),
empty for most kinds.  Flower links, the in-memory network of a simulation and the wire audit all carry exactly this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Coordinator to department.
CHARTER: Final = "charter"  # head: messages.Offer, body: the signed charter; asks whether it is approved
TRAIN: Final = "train"  # head: messages.Train, body: the broadcast
ROUND_OPEN: Final = "round-open"  # head: messages.RoundOpen, body: the broadcast, or nothing after TRAINED
CONFIRM: Final = "confirm"  # head: messages.Confirm; only where somebody of the cohort was lost
OPEN: Final = "open"  # head: messages.Open
RUN_CLOSE: Final = "run-close"  # head: messages.RunClose, body: the final broadcast
GREET: Final = "greet"  # head: greetings.Greet
INTRODUCE: Final = "introduce"  # head: greetings.Introduce, body: the others' letters
#: Department to coordinator.
READY: Final = "ready"  # empty: the charter is approved and the data fits it
TRAINED: Final = "trained"  # head: messages.Ready
MASKED: Final = "masked"  # head: messages.Masked, body: the masked vector
CONFIRMED: Final = "confirmed"  # head: messages.Confirmed
SHARES: Final = "shares"  # head: messages.Shares
CLOSED: Final = "closed"  # empty: the final backbone was taken over
REFUSAL: Final = "refusal"  # head: messages.Refusal
GREETING: Final = "greeting"  # head: greetings.Greeting, body: its ciphertexts
INTRODUCED: Final = "introduced"  # head: greetings.Introduced
GOODBYE: Final = "goodbye"  # head: messages.Goodbye; in the place of any other reply

TO_DEPARTMENT: Final = frozenset({CHARTER, GREET, INTRODUCE, TRAIN, ROUND_OPEN, CONFIRM, OPEN, RUN_CLOSE})
TO_COORDINATOR: Final = frozenset(
    {READY, GREETING, INTRODUCED, TRAINED, MASKED, CONFIRMED, SHARES, CLOSED, REFUSAL, GOODBYE}
)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message on a link.  ``body`` may be any contiguous buffer; receivers must not write to it.

    ``pieces`` are the digests of the body's pieces (``secure_sum.pieces``), or empty where they are not known.  They do
    not travel: a sender has just made them, and a link sets them only where it checked the received body against them.
    """

    kind: str
    head: bytes = field(default=b"", repr=False)
    body: bytes | bytearray | memoryview = field(default=b"", repr=False)
    pieces: tuple[bytes, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.head) + memoryview(self.body).nbytes
