"""Who opens: the committee of an epoch, the points of its shares, and whom each department needs key chains with.

Up to 32 departments everyone is on it.  Beyond, m of them are, drawn by the roster's digest and fixed for the epoch:
two opening quorums of one committee share an honest member (2·tau > m + t_c) even if every colluder sits on it, so the
draw need not be fair.  Two committees would share nobody for certain, which is why it never changes within an epoch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from commonroot.common.roster import Roster
from commonroot.common.secure_sum.graph import MaskGraph, shuffled


@dataclass(frozen=True)
class Committee:
    """The opening committee of one epoch: ``members`` in order of their numbers."""

    members: tuple[int, ...]

    @classmethod
    def of(cls, roster: Roster) -> Committee:
        """The committee that a roster's parameters and digest define."""
        n, m = len(roster.departments), roster.parameters.committee
        if m is None:
            return cls(tuple(range(n)))
        return cls(tuple(sorted(shuffled("committee", roster.digest, n)[:m])))

    def points(self) -> dict[int, int]:
        """At which point of the field each member's shares are taken: 1, 2, … in order; 0 is the secret's."""
        return {member: at + 1 for at, member in enumerate(self.members)}

    def within(self, cohort: Collection[int]) -> tuple[int, ...]:
        """The members that take part in a round, in order."""
        inside = set(cohort)
        return tuple(member for member in self.members if member in inside)


def peers_of(roster: Roster, department: int) -> tuple[int, ...]:
    """With whom a department needs a key chain, in order, itself left out: its neighbours and the committee.

    A member needs one with everybody, since everybody sends it a box.  A member also keeps a key for its own box.
    """
    committee = Committee.of(roster).members
    if department in committee:
        return tuple(other for other in range(len(roster.departments)) if other != department)
    return tuple(sorted({*MaskGraph.of(roster).neighbours(department), *committee}))
