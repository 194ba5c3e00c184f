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
#: In the place of a department that this one holds no chain with.
STRANGER = b""


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
                blocks = _step(blocks, "next block")
            rounds = _step(blocks, "rounds")
            blocks = _step(blocks, "next block")
            done = to // BLOCK * BLOCK
        for _ in range(done, to):
            rounds = _step(rounds, "next")
        return Chains(to, blocks, rounds)


def _step(keys: tuple[bytes, ...], label: str) -> tuple[bytes, ...]:
    return tuple(derive(key, label) if key else STRANGER for key in keys)
