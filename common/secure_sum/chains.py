"""Pairwise key chains: agreed once per epoch, ratcheted forward each round, never back.

    root_ij   ← ``agreement.pair_root``: X25519 and ML-KEM-768, bound to the roster
    block     ← HKDF(root, "next block"), then HKDF(block, "next block")        once per 256 rounds
    chain     = HKDF(block, "rounds")                                           at a block's first round
    chain     ← HKDF(chain, "next")                                             each round

Two levels, so that a round number may skip far ahead at little cost (at most rounds_max / 256 + 256 steps) and what is
kept still says nothing about earlier rounds: the *next* block's key and the current round's chain.  Both ends agree
whatever rounds either of them sat out, and whenever they met: a pair that is introduced late derives its chain from
round 0 and forwards it to the round it is at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from commonroot.common.errors import ForeignState, StaleRound, UsageError
from commonroot.common.secure_sum.primitives import KEY_BYTES, derive

#: Rounds per block.
BLOCK = 256
#: In the place of a department that this one holds no chain with.
STRANGER = b""


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of one department with the others of its roster (and with itself), at one round.

    at       the round whose chains are held; 0 before the first
    blocks   per department, the key of the block after ``at``'s; ``STRANGER`` where there is none
    rounds   per department, the chain of round ``at``; ``STRANGER`` where there is none
    """

    at: int
    blocks: tuple[bytes, ...] = field(repr=False)
    rounds: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.at, int) or len(self.blocks) != len(self.rounds):
            raise ForeignState("key chains are one round number and two keys per department")
        for block, chain in zip(self.blocks, self.rounds, strict=True):
            if (len(block), len(chain)) not in ((KEY_BYTES, KEY_BYTES), (0, 0)):
                raise ForeignState(f"the keys of a chain are {KEY_BYTES} bytes")

    @classmethod
    def begin(cls, departments: int, me: int, own: bytes) -> Chains:
        """Round 0 of an epoch, before anybody was met.  ``own``: 32 fresh secret bytes, for boxes to oneself."""
        strangers = (STRANGER,) * departments
        return cls(0, strangers, strangers).meet({me: own})

    def meet(self, roots: Mapping[int, bytes]) -> Chains:
        """With more pairs, from their roots at round 0 to the round held here.

        Raises UsageError for a pair that has a chain already: it may have been used, and is never replaced.
        """
        blocks, rounds = list(self.blocks), list(self.rounds)
        for peer, root in roots.items():
            if self.holds(peer):
                raise UsageError(f"there is a chain with department {peer} already")
            pair = Chains(0, (derive(root, "next block"),), (derive(root, "rounds"),)).forward(self.at)
            (blocks[peer],), (rounds[peer],) = pair.blocks, pair.rounds
        return Chains(self.at, tuple(blocks), tuple(rounds))

    def holds(self, peer: int) -> bool:
        """Is there a chain with this department?"""
        return self.rounds[peer] != STRANGER

    def forward(self, to: int) -> Chains:
        """The chains of a later round; what is returned cannot be turned back.  StaleRound for an earlier one."""
        if to < self.at:
            raise StaleRound(f"the keys of round {to} were erased; this department is at round {self.at}")
        if to == self.at:
            return self
        blocks, rounds, done = self.blocks, self.rounds, self.at
        if to // BLOCK > done // BLOCK:
            for _ in range(done // BLOCK + 1, to // BLOCK):
                blocks = _step(blocks, "next block")
            rounds = _step(blocks, "rounds")
            blocks = _step(blocks, "next block")
            done = to // BLOCK * BLOCK
        for _ in range(done, to):
            rounds = _step(rounds, "next")
        return Chains(to, blocks, rounds)


def _step(keys: tuple[bytes, ...], label: str) -> tuple[bytes, ...]:
    return tuple(derive(key, label) if key else STRANGER for key in keys)
