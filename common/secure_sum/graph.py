"""Who shares a mask with whom, and which survivor sets leave honest survivors connected.

Up to 32 departments the graph is complete.  Beyond, departments stand on a ring, in an order that follows from the
roster, and each is joined to the k/2 before it and the k/2 after it.  Masks exist along edges whose ends are both in
the round's cohort; a department outside the cohort is missing like any other that is lost.

What a sum hides it hides because the honest survivors are connected by masks that nobody else knows (Bell et al., 2020,
doi:10.1145/3372297.3417885).  There the graph is drawn at random and connected with high probability; here
it is fixed for an epoch, and every member of the committee *checks* before it opens:

Window rule     every k/2 consecutive positions of the ring hold at least s = ⌊t_c/2⌋ + 1 survivors.

Guarantee       whichever t_c departments collude, the honest survivors are connected.  Proof: go round the ring from
                one honest survivor to the next.  Steps of at most k/2 positions are edges.  If at most one step is
                longer, the honest survivors form a path, and are connected.  If two steps were longer, each would pass
                over k/2 consecutive positions without an honest survivor, and not over the same ones; the rule puts
                s survivors into either, all of them colluders: 2·s ≥ t_c + 1 of them, one more than there are.

Nothing is assumed about where colluders stand or who drops out, so it does not matter that whoever signs the roster, or
chooses a key in it, might influence the order.  The order only spreads faults: a row of neighbours in the roster
(one site, one data centre) that fails together is not a row of the ring.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import tagged_hash


def survivors_per_window(colluders: int) -> int:
    """s of the window rule: two windows of colluders alone would need one more colluder than there are."""
    return colluders // 2 + 1


@lru_cache(maxsize=16)
def shuffled(label: str, digest: bytes, departments: int) -> tuple[int, ...]:
    """All departments in an order that follows from the roster's digest alone, another one for each label."""
    return tuple(sorted(range(departments), key=lambda i: tagged_hash(label, digest, i.to_bytes(2, "big"))))


@dataclass(frozen=True)
class MaskGraph:
    """The mask graph of one epoch.

    order  departments by their position on the ring; in the complete graph, by number
    reach  k/2: a department's neighbours are this many positions before and after it; None: all others
    """

    order: tuple[int, ...] = field(repr=False)
    reach: int | None = None

    @classmethod
    def of(cls, roster: Roster) -> MaskGraph:
        """The graph that a roster's parameters and digest define."""
        n, degree = len(roster.departments), roster.parameters.degree
        return cls(tuple(range(n))) if degree is None else _ring(roster.digest, n, degree // 2)

    @cached_property
    def _position(self) -> dict[int, int]:
        return {department: at for at, department in enumerate(self.order)}

    @cached_property
    def _found(self) -> dict[int, tuple[int, ...]]:
        return {}

    def neighbours(self, department: int) -> tuple[int, ...]:
        """Those it shares a mask with, in order of their numbers."""
        if self.reach is None:
            return tuple(other for other in self.order if other != department)
        found = self._found.get(department)
        if found is None:
            at, n = self._position[department], len(self.order)
            steps = (*range(-self.reach, 0), *range(1, self.reach + 1))
            found = self._found[department] = tuple(sorted(self.order[(at + step) % n] for step in steps))
        return found

    def thinnest_window(self, present: Collection[int]) -> int:
        """Fewest departments of ``present`` in any k/2 consecutive positions; all of them in the complete graph."""
        if self.reach is None:
            return len(present)
        held = np.isin(np.asarray(self.order), np.asarray(sorted(present), dtype=int)).astype(np.int64)
        before = np.concatenate(([0], np.cumsum(np.concatenate((held, held[: self.reach - 1])))))
        return int((before[self.reach :] - before[: -self.reach]).min())

    def thin(self, present: Collection[int], colluders: int) -> str | None:
        """What the window rule says against a survivor set, or a cohort one is to come from; None where it holds."""
        if self.reach is None:
            return None
        least, found = survivors_per_window(colluders), self.thinnest_window(present)
        if found >= least:
            return None
        return f"{found} of some {self.reach} departments in a row on the mask ring are there, {least} must be"


@lru_cache(maxsize=16)
def _ring(digest: bytes, departments: int, reach: int) -> MaskGraph:
    """One graph for all that ask about the same roster: it remembers the neighbours it has worked out."""
    return MaskGraph(shuffled("ring", digest, departments), reach)
