"""Federations beyond the complete graph, set up fast: chains exist where ``peers_of`` says, and no key was agreed on.

An agreement takes a moment for each pair, and 1,000 departments are 140,000 pairs.  Both ends take the first key of
their chain from a hash instead; everything after it is the real thing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from sum_federation import Federation

from commonroot.common.messages import RoundOpen
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.chains import STRANGER, Chains
from commonroot.common.secure_sum.committee import Committee, peers_of
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.graph import MaskGraph
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256


class LargeFederation(Federation):
    """``Federation`` of more than 32 departments, with its graph and committee at hand."""

    def __init__(self, n: int, **options: object) -> None:
        super().__init__(n, **options)
        self.graph = MaskGraph.of(self.roster)
        self.committee = Committee.of(self.roster).members
        self.parameters = self.roster.parameters

    def _acquainted(self, private: list[AgreementKey]) -> list[DepartmentMemory]:
        return [self._memory(department) for department in range(len(private))]

    def _memory(self, department: int) -> DepartmentMemory:
        n = len(self.roster.departments)
        roots = [STRANGER] * n
        for peer in (*peers_of(self.roster, department), department):
            lo, hi = sorted((department, peer))
            roots[peer] = sha256(b"root", lo.to_bytes(2, "big"), hi.to_bytes(2, "big"))
        blocks = tuple(root and sha256(b"block", root) for root in roots)
        return DepartmentMemory(self.roster.digest, 1, department, Chains(0, blocks, tuple(roots)))

    def lost(self, share: float, seed: int = 0, *, of: Iterable[int] | None = None) -> set[int]:
        """This share of the departments, at random."""
        among = sorted(range(self.n) if of is None else of)
        return set(random.Random(seed).sample(among, round(share * len(among))))

    def row(self, start: int, length: int) -> list[int]:
        """Departments that stand next to each other on the ring."""
        return [self.graph.order[(start + at) % self.n] for at in range(length)]

    def fixed(self, opening: RoundOpen, uploading: Iterable[int]) -> CoordinatorRound:
        """A coordinator that holds these uploads and has settled on them."""
        at_work = self.gathered(opening, sorted(uploading))
        at_work.fix()
        return at_work
