"""Keystreams, and adding many of them to a vector in one pass.

A 32-byte secret yields one AES-256 key per kind of lanes.  The keystream of a key is AES-256-CTR (NIST SP 800-38A) in
segments of 2 MiB: segment s has counter blocks ``s: 12 bytes ‖ i: 4 bytes``, i = 2, 3, …, which is exactly what AES-GCM
with the nonce s encrypts with.  Where an import-time self-test confirms that identity, GCM's encryptor is used: on
CPUs with VAES its keystream is faster than plain CTR's.  Its tag is never asked for.  A secret and a label serve one
vector only, so no block is ever used twice.

The vector is walked in chunks, and every stream is added to a chunk before the next one is begun, so the chunk and the
keystream buffer stay in the core's second-level cache whatever the vector's length is.  Segments are independent of one
another, so threads can share a vector: both the cipher and NumPy let go of the interpreter while they work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import derive

#: Bytes of keystream per step.
CHUNK_BYTES: Final = 1 << 17
#: Bytes of keystream under one nonce; a multiple of the chunk.
SEGMENT_BYTES: Final = 1 << 21
#: Threads are started for at least this many bytes of keystream; below, they cost more than they save.
_WORTH_THREADS: Final = 1 << 23
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))
#: A sign and a 32-byte secret: +1 adds the secret's streams, -1 subtracts them.
Signed = tuple[int, bytes]
#: What the two kinds of words of an upload are called in key derivation.
BULK, EXACT = "bulk", "exact"


def sign(me: int, peer: int) -> int:
    """The sign of the mask of edge (me, peer) in ``me``'s upload: the two ends differ, so their sum holds neither."""
    return 1 if me < peer else -1


def _ctr(key: AES256, segment: int) -> CipherContext:
    return Cipher(key, CTR(segment.to_bytes(12, "big") + (2).to_bytes(4, "big"))).encryptor()


def _gcm(key: AES256, segment: int) -> CipherContext:
    return Cipher(key, GCM(segment.to_bytes(12, "big"))).encryptor()


def _same_stream() -> bool:
    """Does GCM's encryptor emit CTR's stream here, also across chunks that end within a block?"""
    key = AES256(bytes(range(32)))
    sizes = (16, 5, 4096, 11, 65536, 2)
    for segment in (0, 1, 1 << 40):
        left, right = _ctr(key, segment), _gcm(key, segment)
        if any(left.update(_ZEROS[:size]) != right.update(_ZEROS[:size]) for size in sizes):
            return False
    return True


_encryptor: Callable[[AES256, int], CipherContext] = _gcm if _same_stream() else _ctr


class Keystream:
    """The keystream of one secret for one label.  A secret and a label must serve one vector only."""

    __slots__ = ("_context", "_key", "_left", "_next")

    def __init__(self, secret: bytes, label: str) -> None:
        self._key = AES256(derive(secret, f"keystream {label}"))
        self._context: CipherContext | None = None
        self._left = self._next = 0

    def segment(self, number: int) -> CipherContext:
        """What encrypts with segment ``number`` of the stream, from its beginning."""
        return _encryptor(self._key, number)

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Write the next ``out.size`` bytes of the stream; at most ``CHUNK_BYTES`` at a time are produced."""
        at = 0
        while at < out.size:
            if self._context is None or not self._left:
                self._context = self.segment(self._next)
                self._left, self._next = SEGMENT_BYTES, self._next + 1
            size = min(out.size - at, self._left, CHUNK_BYTES)
            self._context.update_into(_ZEROS[:size], out[at : at + size].data)
            self._left -= size
            at += size


def add_streams(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed], *, threads: int = 1) -> None:
    """Add or subtract the keystreams of all secrets, in place, each word modulo 2 to the power of its bits.

    Parameters  bulk, exact: contiguous vectors, little endian, words of 16, 32 or 64 bits and of 64 bits;
                streams: (+1 or -1, secret); threads: how many share the work
    Raises      ConfigError for a sign other than ±1 or an array that cannot be added to in place
    """
    _check(bulk, exact, streams)
    _run(bulk, BULK, streams, False, threads)
    _run(exact, EXACT, streams, False, threads)


def fill_streams(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed], *, threads: int = 1) -> None:
    """``add_streams`` to zeros, whatever the arrays held before; the first stream is written instead of added."""
    _check(bulk, exact, streams)
    _run(bulk, BULK, streams, True, threads)
    _run(exact, EXACT, streams, True, threads)


def useful_threads(size: int, streams: int) -> int:
    """1 or 2: how many threads a vector of ``size`` bytes and so many streams is worth on this machine."""
    return min(2, os.cpu_count() or 1) if size * streams >= _WORTH_THREADS else 1


def _check(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed]) -> None:
    if any(plus_minus not in (1, -1) for plus_minus, _ in streams):
        raise ConfigError("a mask is added (+1) or subtracted (-1)")
    for words, kinds in ((bulk, ("<u2", "<u4", "<u8")), (exact, ("<u8",))):
        if words.ndim != 1 or words.dtype not in [np.dtype(k) for k in kinds] or not words.flags.c_contiguous:
            raise ConfigError(f"masks are added to a contiguous vector of {kinds}, not {words.dtype} {words.shape}")


def _run(words: NDArray[Any], label: str, streams: Sequence[Signed], fresh: bool, threads: int) -> None:
    """Divide the segments of a vector among threads."""
    if not words.size or not streams:
        if fresh:
            words.fill(0)
        return
    sources = [(plus_minus, Keystream(secret, label)) for plus_minus, secret in streams]
    segments = range(-(-words.nbytes // SEGMENT_BYTES))
    threads = min(threads, len(segments))
    if threads <= 1:
        _segments(words, sources, segments, fresh)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="commonroot-mask") as pool:
        for done in [pool.submit(_segments, words, sources, segments[at::threads], fresh) for at in range(threads)]:
            done.result()


def _segments(words: NDArray[Any], sources: Sequence[tuple[int, Keystream]], segments: range, fresh: bool) -> None:
    """Combine all streams into some segments of a vector."""
    width = words.dtype.itemsize
    step, segment = CHUNK_BYTES // width, SEGMENT_BYTES // width
    buffer = np.empty(min(CHUNK_BYTES, words.nbytes), dtype=np.uint8)
    noise, noise_bytes = buffer.view(words.dtype), buffer.data
    for number in segments:
        end = min((number + 1) * segment, words.size)
        active = [
            (np.add if plus_minus == 1 else np.subtract, source.segment(number).update_into)
            for plus_minus, source in sources
        ]
        first = active[0]
        for start in range(number * segment, end, step):
            chunk = words[start : min(start + step, end)]
            size = chunk.nbytes
            zeros, into, part = _ZEROS, noise_bytes, noise
            if size != CHUNK_BYTES:
                zeros, into, part = _ZEROS[:size], noise_bytes[:size], noise[: chunk.size]
            others = active
            if fresh:
                first[1](zeros, chunk.view(np.uint8).data)
                if first[0] is np.subtract:
                    np.negative(chunk, out=chunk)
                others = active[1:]
            for combine, update_into in others:
                update_into(zeros, into)
                combine(chunk, part, chunk)  # in place; the third argument by position is the faster call


def join_body(bulk: NDArray[Any], exact: NDArray[np.uint64]) -> memoryview:
    """The body of two vectors: without a copy where they lie next to each other, as ``Layout.empty`` makes them."""
    base = bulk.base
    if (
        isinstance(base, np.ndarray)
        and base is exact.base
        and base.dtype == np.uint8
        and base.ndim == 1
        and base.size == bulk.nbytes + exact.nbytes
        and bulk.ctypes.data == base.ctypes.data
        and exact.ctypes.data == base.ctypes.data + bulk.nbytes
    ):
        return memoryview(base.data)
    return memoryview(b"".join((bulk.tobytes(), exact.tobytes())))
