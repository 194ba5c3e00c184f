"""Keystreams against a block cipher and an HKDF spelled out by hand; masks against their sum."""

from __future__ import annotations

import hmac
import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum import masks
from commonroot.common.secure_sum.lanes import Layout
from commonroot.common.secure_sum.masks import (
    CHUNK_BYTES,
    Keystream,
    add_streams,
    fill_streams,
    join_body,
    sign,
    useful_threads,
)


def stream(secret: bytes, label: str, size: int) -> bytes:
    """The definition: HKDF-SHA-256 (RFC 5869) to a key, then AES-256(c_j) xor c_{j+1} for j = 0, 1, …"""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    key = hmac.digest(extracted, b"commonroot/1/keystream " + label.encode() + b"\0" + b"\1", "sha256")
    counters = [j.to_bytes(8, "little") * 2 for j in range(size // 16 + 2)]
    blocks = Cipher(AES256(key), ECB()).encryptor().update(b"".join(counters[:-1]))
    return bytes(x ^ c for x, c in zip(blocks, b"".join(counters[1:]), strict=True))[:size]


SECRET = bytes(range(32))


def lanes(n16: int, n64: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**16, n16, dtype=np.uint16), rng.integers(0, 2**64, n64, dtype=np.uint64)


@pytest.mark.parametrize("make", [masks._by_cfb, masks._by_definition])
def test_both_ways_emit_the_defined_stream(make, monkeypatch):
    monkeypatch.setattr(masks, "_emitter", make)
    size = 2 * CHUNK_BYTES + 78
    defined = stream(SECRET, "mask", size)
    out = np.empty(size, dtype=np.uint8)
    Keystream(SECRET, "mask").fill(out)
    assert out.tobytes() == defined
    fresh, none = np.full(size // 2, 7, dtype="<u2"), np.zeros(0, "<u8")
    fill_streams(fresh, none, [(1, SECRET)])
    assert fresh.tobytes() == defined
    added = np.zeros(size // 2, dtype="<u2")
    add_streams(added, none, [(1, SECRET)], threads=2)
    assert added.tobytes() == defined


@pytest.mark.parametrize("how", ["missing", "wrong in its last byte", "wrong after the first step"])
def test_a_library_whose_cfb_is_missing_or_another_is_not_used_for_it(how, monkeypatch):
    def other(key: AES256, first: int) -> masks.Emit:
        if how == "missing":
            raise ImportError("no CFB here")
        right, steps = masks._by_definition(key, first), []

        def emit(counters: masks.Counters, out: memoryview) -> None:
            right(counters, out)
            steps.append(out)
            if how == "wrong in its last byte" or len(steps) > 1:
                out[-1] ^= 1

        return emit

    monkeypatch.setattr(masks, "_by_cfb", other)
    assert masks._fastest() is masks._by_definition


def test_cfb_is_used_where_it_gives_the_defined_stream():
    assert masks._by_cfb is not masks._by_definition
    assert masks._fastest() is masks._by_cfb


def test_no_block_is_encrypted_twice_and_what_is_xored_is_known_to_everybody():
    """c_j are all different; xoring block j with c_{j+1} again leaves AES(c_j), which is counter mode's stream."""
    found = np.frombuffer(stream(SECRET, "x", 16 * 100), "<u8").reshape(100, 2)
    key = masks.Keystream(SECRET, "x")._key
    counters = np.repeat(np.arange(101, dtype="<u8"), 2).reshape(101, 2)
    assert len({row.tobytes() for row in counters}) == 101
    plain = Cipher(key, ECB()).encryptor().update(counters[:-1].tobytes())
    assert (found ^ counters[1:]).tobytes() == plain


@given(st.lists(st.integers(0, 300), max_size=8))
def test_a_stream_does_not_depend_on_how_it_is_cut(sizes):
    source = Keystream(SECRET, "x")
    parts = [np.empty(size, dtype=np.uint8) for size in sizes]
    for part in parts:
        source.fill(part)
    assert b"".join(part.tobytes() for part in parts) == stream(SECRET, "x", sum(sizes))


@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
@pytest.mark.parametrize("chunks", [1, 2])
def test_masks_are_the_same_on_both_sides_of_a_chunk_boundary(chunks, extra):
    n16, n64 = chunks * CHUNK_BYTES // 2 + extra, chunks * CHUNK_BYTES // 8 + extra
    zeros16, zeros64 = np.zeros(n16, dtype=np.uint16), np.zeros(n64, dtype=np.uint64)
    add_streams(zeros16, zeros64, [(1, SECRET)])
    behind = -(-2 * n16 // 16) * 16  # the first whole block after the bulk
    defined = stream(SECRET, "mask", behind + 8 * n64)
    assert np.array_equal(zeros16, np.frombuffer(defined[: 2 * n16], dtype="<u2"))
    assert np.array_equal(zeros64, np.frombuffer(defined[behind:], dtype="<u8"))


@given(n=st.integers(3, 8), n16=st.integers(0, 40), n64=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_the_pairwise_masks_of_all_departments_cancel(n, n16, n64, seed):
    draw = random.Random(seed).randbytes
    secrets = {(i, j): draw(32) for j in range(n) for i in range(j)}
    total16, total64 = np.zeros(n16, dtype=np.uint16), np.zeros(n64, dtype=np.uint64)
    for me in range(n):
        mine = lanes(n16, n64, me)
        add_streams(*mine, [(sign(me, p), secrets[min(me, p), max(me, p)]) for p in range(n) if p != me])
        total16 += mine[0]
        total64 += mine[1]
    plain = [lanes(n16, n64, me) for me in range(n)]
    assert np.array_equal(total16, sum((a for a, _ in plain), np.zeros(n16, dtype=np.uint16)))
    assert np.array_equal(total64, sum((b for _, b in plain), np.zeros(n64, dtype=np.uint64)))


@pytest.mark.parametrize("kind", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("over", [-3, 0, 1, 9_000])
def test_chunks_threads_and_a_fresh_start_all_give_the_defined_masks(kind, over):
    """Six and a bit chunks: +SECRET - other, by definition, by one thread and by two, added to zeros and filled."""
    width, other = np.dtype(kind).itemsize, bytes(32)
    size = 6 * CHUNK_BYTES // width + over
    behind = -(-width * size // 16) * 16
    plus, minus = (stream(secret, "mask", behind + 24) for secret in (SECRET, other))
    defined = np.frombuffer(plus[: width * size], kind) - np.frombuffer(minus[: width * size], kind)
    rest = np.frombuffer(plus[behind:], "<u8") - np.frombuffer(minus[behind:], "<u8")
    for threads in (1, 2, 5):
        for combine, start in ((add_streams, 0), (fill_streams, 7)):
            words, exact = np.full(size, start, dtype=kind), np.full(3, start, dtype="<u8")
            combine(words, exact, [(1, SECRET), (-1, other)], threads=threads)
            assert np.array_equal(words, defined)
            assert np.array_equal(exact, rest)
            if combine is fill_streams:  # whatever comes first
                fill_streams(words, exact, [(-1, other), (1, SECRET)], threads=threads)
                assert np.array_equal(words, defined)


@pytest.mark.parametrize("threads", [1, 2])
def test_more_streams_than_go_together_are_all_added_once(threads):
    """150 streams in passes of 64, 64 and 22."""
    secrets = [bytes([at]) * 32 for at in range(150)]
    size = CHUNK_BYTES // 2 + 100
    each = [np.zeros(size, "<u2") for _ in secrets]
    for words, secret in zip(each, secrets, strict=True):
        add_streams(words, np.zeros(0, "<u8"), [(1, secret)])
    for combine in (add_streams, fill_streams):
        words = np.zeros(size, "<u2")
        combine(words, np.zeros(0, "<u8"), [(1, secret) for secret in secrets], threads=threads)
        assert np.array_equal(words, sum(each, np.zeros(size, "<u2")))


def test_no_streams_leave_a_sum_as_it_was_and_a_fresh_mask_zero():
    a, b = lanes(9, 2)
    before = a.copy(), b.copy()
    add_streams(a, b, [])
    assert np.array_equal(a, before[0])
    fill_streams(a, b, [])
    assert not a.any()
    assert not b.any()


def test_a_failure_on_a_thread_is_not_swallowed(monkeypatch):
    def broken(key: object, first: int) -> object:
        raise RuntimeError("no cipher")

    monkeypatch.setattr(masks, "_emitter", broken)
    with pytest.raises(RuntimeError, match="no cipher"):
        add_streams(np.zeros(3 * CHUNK_BYTES, "<u2"), np.zeros(0, "<u8"), [(1, SECRET)], threads=2)


def test_threads_are_only_used_where_there_is_enough_to_do(monkeypatch):
    monkeypatch.setattr(masks.os, "cpu_count", lambda: 64)
    assert useful_threads(1000, 3) == 1
    assert useful_threads(20_000_000, 3) == 2
    monkeypatch.setattr(masks.os, "cpu_count", lambda: None)
    assert useful_threads(20_000_000, 3) == 1


def test_adding_then_subtracting_leaves_everything_as_it_was_and_wraps_without_a_word():
    a, b = lanes(1000, 100)
    before = a.copy(), b.copy()
    add_streams(a, b, [(1, SECRET), (-1, bytes(32))])
    assert not np.array_equal(a, before[0])
    assert not np.array_equal(b, before[1])
    add_streams(a, b, [(-1, SECRET), (1, bytes(32))])
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])


def test_what_cannot_be_masked_in_place_is_refused():
    a, b = lanes(8, 8)
    for bad in ((a[::2], b), (a, b[::2]), (a.astype(np.int16), b), (a, a), (a.reshape(2, 4), b)):
        with pytest.raises(ConfigError):
            add_streams(*bad, [(1, SECRET)])
    with pytest.raises(ConfigError):
        add_streams(a, b, [(0, SECRET)])


@given(n16=st.integers(0, 9), n64=st.integers(0, 5), together=st.booleans())
def test_a_body_is_both_kinds_of_lanes_in_order_with_or_without_a_copy(n16, n64, together):
    a, b = lanes(n16, n64)
    if together:
        buffer = np.concatenate([a.view(np.uint8), b.view(np.uint8)])
        a, b = buffer[: 2 * n16].view("<u2"), buffer[2 * n16 :].view("<u8")
    body = join_body(a, b)
    assert bytes(body) == a.tobytes() + b.tobytes()
    back = Layout("<u2", n16, n64).split(body)
    assert np.array_equal(back[0], a)
    assert np.array_equal(back[1], b)
    if together and n16 and n64:
        a[0] ^= 1
        assert bytes(body[:2]) == a[:1].tobytes()
