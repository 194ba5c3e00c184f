"""The wire of the secure sum: frozen messages, one encoding each.

Every message starts with the protocol version; numbers are big endian; departments are numbered by their position in
the roster (u16) and lists of them are strictly increasing.  What a peer signs is the whole encoding before the
signature, under a label of its own, so no signature can be moved to another kind of message.

M1 RoundOpen → M2 Masked → M3 Open → M4 Shares; M5, the result, rides in the next RoundOpen or RunClose (``Previous``).
Where somebody of the cohort was lost, Confirm → Confirmed precede M3: see docs/adr/0012.  With a ready stage, M0
Train → Ready precede M1, whose cohort is then those that are ready.
"""

from commonroot.common.messages.consenting import Goodbye, Offer
from commonroot.common.messages.ending import Refusal, RunClose
from commonroot.common.messages.opening_round import NO_DIGEST, Previous, RoundOpen
from commonroot.common.messages.opening_sum import Open, Shares
from commonroot.common.messages.signed import Signed
from commonroot.common.messages.survivors import Confirm, Confirmed, opened_digest
from commonroot.common.messages.training import Ready, Train
from commonroot.common.messages.upload import BOX_SALT_BYTES, SHARE_BYTES, Masked, box_bytes

__all__ = [
    "BOX_SALT_BYTES",
    "NO_DIGEST",
    "SHARE_BYTES",
    "Confirm",
    "Confirmed",
    "Goodbye",
    "Masked",
    "Offer",
    "Open",
    "Previous",
    "Ready",
    "Refusal",
    "RoundOpen",
    "RunClose",
    "Shares",
    "Signed",
    "Train",
    "box_bytes",
    "opened_digest",
]
