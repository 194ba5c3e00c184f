"""What both ends of the protocol derive alike: secrets of edges, keys of boxes, commitments, the layout of shares."""

from __future__ import annotations

from collections.abc import Iterable

from commonroot.common.messages import BOX_SALT_BYTES
from commonroot.common.roster import Parameters
from commonroot.common.secure_sum.primitives import derive, seal, tagged_hash, unseal


def smallest_cohort(parameters: Parameters, floor: int) -> int:
    """The fewest departments a round may open with: the larger of both floors, and the opening quorum.

    With fewer than the quorum nothing could ever be opened: only the cohort sees a round's transcript.
    """
    return max(parameters.survivors_min, floor, parameters.opening_quorum)


def pair_secret(chain: bytes, transcript: bytes) -> bytes:
    """s_ij, 32 bytes: the same at both ends of an edge, another for every transcript."""
    return derive(chain, "mask", transcript)


def commit_self(transcript: bytes, department: int, secret: bytes) -> bytes:
    """The commitment to b_i."""
    return tagged_hash("b", transcript, department.to_bytes(2, "big"), secret)


def commit_pair(transcript: bytes, secret: bytes) -> bytes:
    """The commitment to s_ij; both ends of the edge make the same one."""
    return tagged_hash("p", transcript, secret)


def seal_box(chain: bytes, transcript: bytes, sender: int, member: int, salt: bytes, text: bytes) -> bytes:
    """A box from ``sender`` to ``member``.

    ``salt`` is fresh for every upload: a department whose memory was rolled back may upload twice under one transcript,
    and no key may seal two boxes.
    """
    bound_to = _bound_to(transcript, sender, member)
    return salt + seal(derive(chain, "box", bound_to, salt=salt), text, bound_to)


def open_box(chain: bytes, transcript: bytes, sender: int, member: int, box: bytes) -> bytes:
    """The inverse; BadBox, naming the sender, where it does not open."""
    bound_to = _bound_to(transcript, sender, member)
    key = derive(chain, "box", bound_to, salt=box[:BOX_SALT_BYTES])
    return unseal(key, box[BOX_SALT_BYTES:], bound_to, who=f"department {sender}")


def _bound_to(transcript: bytes, sender: int, member: int) -> bytes:
    return transcript + sender.to_bytes(2, "big") + member.to_bytes(2, "big")


def others(cohort: Iterable[int], department: int) -> tuple[int, ...]:
    """The cohort without one department, in order: its neighbours in the complete mask graph."""
    return tuple(c for c in cohort if c != department)


def wanted(cohort: Iterable[int], survivors: Iterable[int]) -> list[tuple[int, int]]:
    """Which shares a survivor set calls for, in the order of ``messages.Shares``.

    (i, i) stands for b_i of survivor i, (i, j) for s_ij with j outside the set.  U decides the kind: for every
    department either its own secret or its pairwise ones, never both.
    """
    inside = tuple(survivors)
    outside = tuple(c for c in cohort if c not in inside)
    return [(i, j) for i in inside for j in (i, *outside)]
