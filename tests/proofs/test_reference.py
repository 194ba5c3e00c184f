"""One small round recomputed from its secrets by ``reference``, and compared with the machines bit for bit.

Four departments, t_c = 1, so tau = 3.  All four upload; department 2 comes too late, so U = {0, 1, 3}, and members 0, 2
and 3 open it.  What the reference is given: each department's chains at round 0, and what it drew at random.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from proofs import reference
from sum_federation import Federation

from commonroot.common.messages import Masked, RoundOpen, Shares
from commonroot.common.secure_sum.coordinator import CoordinatorRound

N, TAU = 4, 3
SURVIVORS, OPENING = (0, 1, 3), (0, 2, 3)


@dataclass
class Sent:
    """One department's upload, and everything it was made from."""

    chains: dict[int, bytes]
    lanes: tuple[np.ndarray, np.ndarray]
    drawn: dict[int, bytes]
    masked: Masked
    head: bytes
    body: bytes

    @property
    def own(self) -> bytes:
        return self.drawn[32]

    def secrets(self, me: int, transcript: bytes) -> dict[int, bytes]:
        """b at its own place, s_ij at every other department's."""
        return {
            of: self.own if of == me else reference.pair_secret(self.chains[of], transcript)
            for of in (me, *(c for c in range(N) if c != me))
        }

    def coefficients(self, at: int) -> list[bytes]:
        """Of the secret at place ``at``, of the highest power first: drawn power by power, secret by secret."""
        drawn = self.drawn[(TAU - 1) * N * 32]
        return [drawn[(power * N + at) * 32 :][:32] for power in range(TAU - 1)]


@dataclass
class Played:
    """The whole round as the machines played it."""

    federation: Federation
    opening: RoundOpen
    transcript: bytes
    sent: list[Sent]
    at_work: CoordinatorRound
    answers: dict[int, Shares]


@pytest.fixture(scope="module", params=[1, 7, 300], ids=lambda r: f"round-{r}")
def played(request: pytest.FixtureRequest) -> Played:
    """Round 1, one a few steps on, and one in the second block of the ratchet."""
    federation = Federation(N, colluders=1, seed=5)
    opening = federation.opening(request.param)
    source, sent = federation.random, []
    at_work = federation.round(opening)
    for me in range(N):
        begun = federation.machines[me].memory.chains
        assert begun.at == 0
        chains = {peer: reference.chain_at(begun.blocks[peer], begun.rounds[peer], opening.round) for peer in range(N)}
        lanes = federation.lanes(me, opening)
        drawn: dict[int, bytes] = {}
        federation.random = lambda size, kept=drawn: kept.setdefault(size, source(size))
        head, body = federation.upload(me, opening)
        federation.random = source
        sent.append(Sent(chains, lanes, drawn, Masked.decode(head), head, body))
    for me in SURVIVORS:
        at_work.upload(me, sent[me].head, sent[me].body)
    at_work.fix()
    answers = {}
    for member in OPENING:
        reply, _ = federation.machines[member].answer(federation.confirm(at_work).open_for(member))
        at_work.shares(member, reply)
        answers[member] = Shares.decode(reply)
    transcript = reference.tagged_hash("transcript", opening.unsigned())
    return Played(federation, opening, transcript, sent, at_work, answers)


def masked_by_hand(me: int, sent: Sent, transcript: bytes) -> bytes:
    """y = x + PRG(b) + Σ ± PRG(s_ij), each kind of lanes in its own ring, little endian, one after the other."""
    parts = []
    for array, begin in zip(sent.lanes, reference.begins(sent.lanes[0].nbytes), strict=True):
        width = array.dtype.itemsize
        lanes = [int(lane) for lane in array]
        for of, secret in sent.secrets(me, transcript).items():
            sign = 1 if of == me else reference.pair_sign(me, of)
            lanes = reference.add_mask(lanes, width, begin, sign, secret)
        parts += [lane.to_bytes(width, "little") for lane in lanes]
    return b"".join(parts)


def test_the_transcript_is_the_hash_of_all_that_was_announced(played):
    assert played.at_work.transcript == played.transcript


def test_both_ends_of_every_edge_hold_one_chain_and_no_two_edges_share_one(played):
    chains = {(i, j): played.sent[i].chains[j] for i in range(N) for j in range(N)}
    assert all(chains[i, j] == chains[j, i] for i, j in chains)
    assert len(set(chains.values())) == N * (N - 1) // 2 + N


def test_every_masked_vector_is_recomputed_bit_for_bit(played):
    for me, sent in enumerate(played.sent):
        assert masked_by_hand(me, sent, played.transcript) == sent.body


def test_the_comparison_would_see_one_wrong_mask(played):
    sent = played.sent[0]
    wrong = Sent(sent.chains | {2: bytes(32)}, sent.lanes, sent.drawn, sent.masked, sent.head, sent.body)
    assert masked_by_hand(0, wrong, played.transcript) != sent.body


def test_every_commitment_and_signature_is_recomputed(played):
    for me, sent in enumerate(played.sent):
        made = [
            reference.commit_self(played.transcript, me, secret)
            if of == me
            else reference.commit_pair(played.transcript, secret)
            for of, secret in sent.secrets(me, played.transcript).items()
        ]
        assert list(sent.masked.commitments) == made
        assert sent.masked.body == reference.body_hash(sent.body)
        public = bytes.fromhex(played.federation.roster.departments[me].identity)
        signed = reference.PREFIX + b"masked\0" + sent.head[:-64]
        Ed25519PublicKey.from_public_bytes(public).verify(sent.head[-64:], signed)


def test_every_box_is_recomputed_bit_for_bit(played):
    """A box holds one share of b_i and of each s_ij, at the point of the member's number plus one."""
    for me, sent in enumerate(played.sent):
        secrets = list(sent.secrets(me, played.transcript).values())
        for member, box in enumerate(sent.masked.boxes):
            text = b"".join(
                reference.deal(secret, sent.coefficients(at), member + 1) for at, secret in enumerate(secrets)
            )
            made = reference.box(sent.chains[member], played.transcript, me, member, sent.drawn[16], text)
            assert box == made


def test_the_answers_are_the_shares_that_the_survivor_set_calls_for_and_no_others(played):
    """For i in {0, 1, 3}: a share of b_i and one of s_i2; never b_2, nor a secret between two survivors."""
    for member, answer in played.answers.items():
        expected = []
        for me in SURVIVORS:
            sent = played.sent[me]
            secrets = sent.secrets(me, played.transcript)
            for of in (me, 2):
                place = list(secrets).index(of)
                expected.append(reference.deal(secrets[of], sent.coefficients(place), member + 1))
        assert list(answer.shares) == expected


def test_unmasking_by_hand_gives_the_sum_that_the_coordinator_opens(played):
    """Shamir by any three answers, then y_0 + y_1 + y_3 - Σ PRG(b_i) - Σ ± PRG(s_i2)."""
    keys = [(me, of) for me in SURVIVORS for of in (me, 2)]
    secrets = {
        key: reference.join({member + 1: answer.shares[at] for member, answer in played.answers.items()})
        for at, key in enumerate(keys)
    }
    assert all(secrets[me, of] == played.sent[me].secrets(me, played.transcript)[of] for me, of in keys)
    opened = played.at_work.finish()
    at = 0
    for kind, begin in enumerate(reference.begins(opened[0].nbytes)):
        width, size = opened[kind].dtype.itemsize, opened[kind].size
        columns = [reference.words(played.sent[me].body[at : at + width * size], width) for me in SURVIVORS]
        total = [sum(column) % 2 ** (8 * width) for column in zip(*columns, strict=True)]
        for (me, of), secret in secrets.items():
            sign = -1 if of == me else -reference.pair_sign(me, of)
            total = reference.add_mask(total, width, begin, sign, secret)
        plain = [[int(lane) for lane in played.sent[me].lanes[kind]] for me in SURVIVORS]
        assert total == [sum(column) % 2 ** (8 * width) for column in zip(*plain, strict=True)]
        assert total == opened[kind].tolist()
        at += width * size


def test_the_reference_agrees_with_published_arithmetic():
    """FIPS 197, 4.2: {57}·{83} = {c1}, {53}·{ca} = {01}; RFC 5869's shape; GCM against the library's, odd lengths."""
    assert (reference.times(0x57, 0x83), reference.inverse(0x53)) == (0xC1, 0xCA)
    for size, bound in itertools.product((0, 1, 16, 47), (b"", b"bound to this")):
        text = bytes(range(size))
        assert reference.gcm(bytes(range(32)), text, bound) == AESGCM(bytes(range(32))).encrypt(bytes(12), text, bound)
