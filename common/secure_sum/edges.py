"""What both ends of the protocol derive alike: secrets of edges, keys of boxes, commitments, the layout of shares."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from commonroot.common.messages import BOX_SALT_BYTES, box_bytes
from commonroot.common.roster import Parameters, Roster
from commonroot.common.secure_sum.committee import Committee
from commonroot.common.secure_sum.graph import MaskGraph
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


def cohort_fault(roster: Roster, cohort: Collection[int], floor: int) -> str | None:
    """Why no sum over this cohort could be opened even if nobody were lost; None where one could.

    Parameters  cohort: numbers from the roster; floor: the charter's ``cohort.floor``
    """
    return _fault(_Asked(roster.digest, tuple(cohort), roster), floor)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A cohort of a roster, told by its digest: comparing rosters by what they hold would take longer than the rest."""

    digest: bytes
    cohort: tuple[int, ...]
    roster: Roster = field(compare=False)


@lru_cache(maxsize=4)
def _edges(asked: _Asked) -> RoundEdges:
    return RoundEdges(asked.roster, asked.cohort)


@lru_cache(maxsize=4)
def _fault(asked: _Asked, floor: int) -> str | None:
    roster, cohort = asked.roster, asked.cohort
    parameters = roster.parameters
    least = smallest_cohort(parameters, floor)
    if len(cohort) < least:
        return f"a cohort of {len(cohort)}: at least {least} are needed"
    members = len(Committee.of(roster).within(cohort))
    if members < parameters.opening_quorum:
        return f"{members} members of the opening committee are in the cohort, {parameters.opening_quorum} must be"
    return MaskGraph.of(roster).thin(cohort, parameters.colluders)


class RoundEdges:
    """One round of one cohort: who holds boxes, along which edges there are masks, and what the messages hold.

    Edges and boxes that lead outside the cohort do not exist: nobody masks for a department that was not asked.
    """

    def __init__(self, roster: Roster, cohort: tuple[int, ...]) -> None:
        """``RoundEdges.of`` remembers what others have worked out about the same round."""
        self.cohort = cohort
        self._graph = MaskGraph.of(roster)
        committee = Committee.of(roster)
        #: Committee members in the cohort, in order: for each of them a department seals one box.
        self.members: tuple[int, ...] = committee.within(cohort)
        points = committee.points()
        #: The points of ``members``.
        self.points: tuple[int, ...] = tuple(points[member] for member in self.members)
        self._neighbours: dict[int, tuple[int, ...]] = {}
        self._rows: dict[int, dict[int, int]] = {}

    @classmethod
    def of(cls, roster: Roster, cohort: tuple[int, ...]) -> RoundEdges:
        """One round's, for all who ask about it: the same for every department, and each asks several times."""
        return _edges(_Asked(roster.digest, cohort, roster))

    @cached_property
    def _inside(self) -> frozenset[int]:
        return frozenset(self.cohort)

    def neighbours(self, department: int) -> tuple[int, ...]:
        """Those of the cohort that a department shares a mask with, in order."""
        found = self._neighbours.get(department)
        if found is None:
            found = tuple(other for other in self._graph.neighbours(department) if other in self._inside)
            self._neighbours[department] = found
        return found

    def partners(self, department: int) -> tuple[int, ...]:
        """Those of the cohort that a department needs a chain with in this round, in order, itself left out."""
        needed = self._inside if department in self.members else {*self.neighbours(department), *self.members}
        return tuple(sorted(other for other in needed if other != department))

    def dealt(self, department: int) -> tuple[int, ...]:
        """Whose secrets a department deals shares of and commits to: its own b first, then s with each neighbour."""
        return (department, *self.neighbours(department))

    def row(self, dealer: int, of: int) -> int:
        """Where the share of ``of`` stands among those that ``dealer`` deals."""
        rows = self._rows.get(dealer)
        if rows is None:
            rows = self._rows[dealer] = {each: row for row, each in enumerate(self.dealt(dealer))}
        return rows[of]

    def box_bytes(self, sender: int) -> int:
        """Length of one box that ``sender`` seals."""
        return box_bytes(len(self.neighbours(sender)) + 1)

    def wanted(self, survivors: Iterable[int]) -> list[tuple[int, int]]:
        """Which shares a survivor set calls for, in the order of ``messages.Shares``.

        (i, i) stands for b_i of survivor i, (i, j) for s_ij with a neighbour j outside the set.  U decides the kind:
        for every department either its own secret or its pairwise ones, never both.  Absent departments that are no
        survivor's neighbour cost nothing.
        """
        order = tuple(survivors)
        inside = set(order)
        if inside == self._inside:  # as in most rounds
            return [(i, i) for i in order]
        return [(i, j) for i in order for j in self.dealt(i) if j == i or j not in inside]
