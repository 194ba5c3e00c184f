"""Pairwise key chains: agreed once per epoch, ratcheted forward each round, never back.

    root_ij   = HKDF(X25519 shared secret, salt = roster digest, info = "pair" ‖ lo ‖ hi)
    block     ← HKDF(block, "next block")        once per 256 rounds
    chain     = HKDF(block, "rounds")            at a block's first round
    chain     ← HKDF(chain, "next")              each round

Two levels, so that a round number may skip far ahead at little cost (at most rounds_max / 256 + 256 steps) and what is
kept still says nothing about earlier rounds: the *next* block's key and the current round's chain.  Both ends agree
whatever rounds either of them sat out.  Roots are made from a list of shared secrets, so that a second key agreement
(ML-KEM) can be appended to each without touching the ratchet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from commonroot.common.errors import ForeignState, KeyFileError, StaleRound, UsageError
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import KEY_BYTES, Random, agree, agreement_public, derive

#: Rounds per block.
BLOCK = 256


def agreements(private: bytes, roster: Roster, me: int, random: Random) -> list[bytes]:
    """One shared secret per department of the roster; a fresh random one at one's own place, for boxes to oneself.

    Raises KeyFileError unless ``private`` belongs to the agreement key that the roster lists for ``me``.
    """
    if agreement_public(private).hex() != roster.departments[me].agreement:
        raise KeyFileError("the agreement key is not the one this epoch's roster lists for this department")
    return [
        random(KEY_BYTES) if at == me else agree(private, bytes.fromhex(member.agreement))
        for at, member in enumerate(roster.departments)
    ]


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of one department with everyone in the roster (and with itself), at one round.

    at       the round whose chains are held; 0 before the first
    blocks   per department, the key of the block after ``at``'s
    rounds   per department, the chain of round ``at``
    """

    at: int
    blocks: tuple[bytes, ...] = field(repr=False)
    rounds: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        keys = (*self.blocks, *self.rounds)
        if not isinstance(self.at, int) or len(self.blocks) != len(self.rounds):
            raise ForeignState("key chains are one round number and two keys per department")
        if any(len(key) != KEY_BYTES for key in keys):
            raise ForeignState(f"the keys of a chain are {KEY_BYTES} bytes")

    @classmethod
    def begin(cls, secrets: Sequence[bytes], roster: Roster, me: int) -> Chains:
        """Round 0 of an epoch, from ``agreements``; the agreement key and ``secrets`` are to be erased afterwards."""
        if len(secrets) != len(roster.departments):
            raise UsageError(f"expected {len(roster.departments)} shared secrets, found {len(secrets)}")
        roots = [
            derive(
                secret, "pair", min(me, peer).to_bytes(2, "big") + max(me, peer).to_bytes(2, "big"), salt=roster.digest
            )
            for peer, secret in enumerate(secrets)
        ]
        return cls(
            0, tuple(derive(root, "next block") for root in roots), tuple(derive(root, "rounds") for root in roots)
        )

    def forward(self, to: int) -> Chains:
        """The chains of a later round; what is returned cannot be turned back.  StaleRound for an earlier one."""
        if to < self.at:
            raise StaleRound(f"the keys of round {to} were erased; this department is at round {self.at}")
        if to == self.at:
            return self
        blocks, rounds, done = self.blocks, self.rounds, self.at
        if to // BLOCK > done // BLOCK:
            for _ in range(done // BLOCK + 1, to // BLOCK):
                blocks = tuple(derive(key, "next block") for key in blocks)
            rounds = tuple(derive(key, "rounds") for key in blocks)
            blocks = tuple(derive(key, "next block") for key in blocks)
            done = to // BLOCK * BLOCK
        for _ in range(done, to):
            rounds = tuple(derive(key, "next") for key in rounds)
        return Chains(to, blocks, rounds)
