"""One hash for the signature and for the link."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from flwr.app import Array
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from sum_federation import Federation

from commonroot.common.errors import BroadcastMismatch
from commonroot.common.secure_sum.pieces import PIECE_BYTES, body_digest, cut, digests

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [1, 1000, 5 * MIB, 5 * MIB + 1, 11 * MIB])
def test_pieces_are_named_as_flower_names_its_chunks(size):
    """5 MiB each; otherwise every piece would be hashed once more on its way."""
    assert PIECE_BYTES == FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    body = np.random.default_rng(size).bytes(size)
    theirs = Array("uint8", (size,), "bytes", body).slice_array()
    assert [digest.hex() for digest in digests(body)] == [name for name, _ in theirs]


def test_the_digest_of_a_body_spelled_out():
    body = bytes(range(256)) * (6 * MIB // 256)
    first = hashlib.sha256(b"ArrayChunk  5242880\0" + body[: 5 * MIB]).digest()
    second = hashlib.sha256(b"ArrayChunk  1048576\0" + body[5 * MIB :]).digest()
    of = b"commonroot/1/body\0" + b"".join((32).to_bytes(8, "big") + each for each in (first, second))
    assert digests(body) == (first, second)
    assert body_digest(digests(body)) == hashlib.sha256(of).digest()


def test_pieces_make_up_the_body_whatever_buffer_it_is():
    numbers = np.arange(1_000_000, dtype=np.int64)
    assert b"".join(cut(memoryview(numbers))) == numbers.tobytes()
    assert [len(piece) for piece in cut(memoryview(numbers))] == [5 * MIB, 8_000_000 - 5 * MIB]
    assert list(cut(b"")) == []
    assert digests(numbers.data) == digests(numbers.tobytes())


def test_a_department_knows_the_pieces_of_what_it_masked_and_the_coordinator_takes_them_or_makes_them():
    federation = Federation(3)
    opening = federation.opening()
    told, silent = federation.round(opening), federation.round(opening)
    for who in range(3):
        head, body = federation.upload(who, opening)
        pieces = federation.machines[who].pieces
        assert pieces == digests(body)
        assert told.upload(who, head, body, pieces)
        assert silent.upload(who, head, body)
    assert told.fix() == silent.fix() == (0, 1, 2)


def test_pieces_that_were_not_signed_are_refused():
    federation = Federation(3)
    opening = federation.opening()
    head, body = federation.upload(0, opening)
    wrong = [digests(body + b"x"), digests(body) * 2, (bytes(32),)]
    for pieces in wrong:
        with pytest.raises(BroadcastMismatch, match="d0"):
            federation.round(opening).upload(0, head, body, pieces)
    with pytest.raises(BroadcastMismatch):
        federation.round(opening).upload(0, head, bytes(len(body)))
