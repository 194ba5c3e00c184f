"""Keystreams, and adding many of them to a vector in one pass.

A 32-byte secret yields one AES-256 key.  Block j of its keystream is AES(c_j) xor c_{j+1}, where c_j
is the number j in 8 bytes, little endian, twice.  No block is encrypted twice under a key, so this is AES in counter
mode (NIST SP 800-38A) whose blocks are xored with numbers that everybody knows, and hides as much.  It is what AES-CFB
makes of the blocks c_1, c_2, … when they are *decrypted* under the initial vector c_0, and that is the point: OpenSSL 4
decrypts CFB with 512-bit vectors and does nothing else, where its counter mode uses 128-bit ones and its GCM also
hashes what it emits.  The package files CFB under "decrepit", for it does not authenticate messages; none is encrypted
here.  Where CFB is missing or slower, the definition is followed step by step.  A secret and a label serve one upload.

One stream masks both vectors of an upload: the bulk from block 0 on, the exact words from the first block behind it.
The vectors are walked in chunks, and every stream is added to a chunk before the next one is begun, so the chunk, the
counters and the keystream stay in the core's second-level cache whatever a vector's length is.  A stream can begin at
any block, so threads can share a vector: both the cipher and NumPy let go of the interpreter while they work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import derive

try:  # a mode that the library keeps for old data only, and may drop
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # pragma: no cover
    CFB = None  # type: ignore[assignment,misc]

#: Bytes of keystream per step, a multiple of the block.
CHUNK_BYTES: Final = 1 << 17
BLOCK_BYTES: Final = 16
#: Threads are started for at least this many bytes of keystream; below, they cost more than they save.
_WORTH_THREADS: Final = 1 << 23
#: Streams per pass over the vector: enough to make the pass cheap, few enough for their keys to stay in cache.
_TOGETHER: Final = 64
#: A sign and a 32-byte secret: +1 adds the secret's streams, -1 subtracts them.
Signed = tuple[int, bytes]
#: What the streams of uploads are called in key derivation.
MASK: Final = "mask"


def sign(me: int, peer: int) -> int:
    """The sign of the mask of edge (me, peer) in ``me``'s upload: the two ends differ, so their sum holds neither."""
    return 1 if me < peer else -1


#: c_0, c_1, …, as many as a chunk needs.
_FIRST_COUNTERS: Final = np.repeat(np.arange(CHUNK_BYTES // BLOCK_BYTES + 1, dtype="<u8"), 2)


class Counters:
    """The counter blocks that all streams of a chunk are made from, for ``most`` blocks at a time, at most a chunk."""

    __slots__ = ("_first", "_words", "after", "before", "most", "room")

    def __init__(self, most: int) -> None:
        self.most = most
        self._first = 0
        self._words = _FIRST_COUNTERS[: 2 * (most + 1)].copy()
        self._cut(most)

    def move(self, first: int, count: int) -> None:
        """To c_first … c_{first + count}: ``before`` has all but the last of them, ``after`` all but the first."""
        if first != self._first:
            np.add(self._words, np.uint64((first - self._first) % (1 << 64)), out=self._words)
            self._first = first
        if len(self.before) != count * BLOCK_BYTES:
            self._cut(count)

    def _cut(self, count: int) -> None:
        raw = self._words.view(np.uint8)
        self.before = raw[: count * BLOCK_BYTES].data
        self.after = raw[BLOCK_BYTES : (count + 1) * BLOCK_BYTES].data
        #: Scratch for whoever cannot do with a buffer of exactly so many bytes.
        self.room: NDArray[np.uint8] | None = None


#: Writes the next blocks of one stream: from the counters that have come up, to a buffer of as many bytes.
Emit = Callable[[Counters, memoryview], object]


def _by_cfb(key: AES256, first: int) -> Emit:
    """From block ``first`` on, through CFB."""
    update_into = Cipher(key, CFB(first.to_bytes(8, "little") * 2)).decryptor().update_into
    return lambda counters, out: update_into(counters.after, out)


def _by_definition(key: AES256, first: int) -> Emit:
    """The same one step after the other."""
    update_into = Cipher(key, ECB()).encryptor().update_into

    def emit(counters: Counters, out: memoryview) -> None:
        size = len(out)
        if counters.room is None:
            counters.room = np.empty(size + BLOCK_BYTES - 1, dtype=np.uint8)
        update_into(counters.before, counters.room.data)
        np.bitwise_xor(counters.room[:size], np.frombuffer(counters.after, np.uint8), out=np.frombuffer(out, np.uint8))

    return emit


def _fastest() -> Callable[[AES256, int], Emit]:
    """CFB where it is to be had and emits the defined stream over several steps."""
    key, first, count = AES256(bytes(range(32))), (1 << 40) - 7, 4096
    left, right = (np.empty(count * BLOCK_BYTES, dtype=np.uint8) for _ in range(2))
    try:
        emit, define = _by_cfb(key, first), _by_definition(key, first)
        counters = Counters(count)
        for turn in range(3):
            counters.move(first + turn * count, count)
            emit(counters, left.data)
            define(counters, right.data)
            if not np.array_equal(left, right):
                return _by_definition
    except Exception:  # whatever a build of the library without CFB in it raises
        return _by_definition
    return _by_cfb


_emitter: Callable[[AES256, int], Emit] = _fastest()


class Keystream:
    """The keystream of one secret for one label.  A secret and a label must serve one use only."""

    __slots__ = ("_counters", "_emit", "_key", "_next", "_rest")

    def __init__(self, secret: bytes, label: str) -> None:
        self._key = AES256(derive(secret, f"keystream {label}"))
        self._emit: Emit | None = None
        self._counters: Counters | None = None
        self._next = 0
        self._rest = np.empty(0, dtype=np.uint8)

    def blocks(self, first: int) -> Emit:
        """What emits block ``first`` and the ones after it."""
        return _emitter(self._key, first)

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Write the next ``out.size`` bytes of the stream."""
        at = min(self._rest.size, out.size)
        out[:at] = self._rest[:at]
        self._rest = self._rest[at:]
        while out.size - at >= BLOCK_BYTES:
            size = min(out.size - at, CHUNK_BYTES) & -BLOCK_BYTES
            self._emit_blocks(out[at : at + size])
            at += size
        if at < out.size:
            block = np.empty(BLOCK_BYTES, dtype=np.uint8)
            self._emit_blocks(block)
            out[at:], self._rest = block[: out.size - at], block[out.size - at :]

    def _emit_blocks(self, out: NDArray[np.uint8]) -> None:
        count = out.size // BLOCK_BYTES
        if self._emit is None:
            self._emit = self.blocks(0)
        if self._counters is None or self._counters.most < count:
            self._counters = Counters(count)
        self._counters.move(self._next, count)
        self._emit(self._counters, out.data)
        self._next += count


def add_streams(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed], *, threads: int = 1) -> None:
    """Add or subtract the keystreams of all secrets, in place, each word modulo 2 to the power of its bits.

    Parameters  bulk, exact: contiguous vectors, little endian, words of 16, 32 or 64 bits and of 64 bits;
                streams: (+1 or -1, secret); threads: how many share the work
    Raises      ConfigError for a sign other than ±1 or an array that cannot be added to in place
    """
    _check(bulk, exact, streams)
    _run(bulk, exact, streams, False, threads)


def fill_streams(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed], *, threads: int = 1) -> None:
    """``add_streams`` to zeros, whatever the arrays held before; the first stream is written instead of added."""
    _check(bulk, exact, streams)
    _run(bulk, exact, streams, True, threads)


def useful_threads(size: int, streams: int) -> int:
    """1 or 2: how many threads a vector of ``size`` bytes and so many streams is worth on this machine."""
    return min(2, os.cpu_count() or 1) if size * streams >= _WORTH_THREADS else 1


def _check(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed]) -> None:
    if any(plus_minus not in (1, -1) for plus_minus, _ in streams):
        raise ConfigError("a mask is added (+1) or subtracted (-1)")
    for words, kinds in ((bulk, ("<u2", "<u4", "<u8")), (exact, ("<u8",))):
        if words.ndim != 1 or words.dtype not in [np.dtype(k) for k in kinds] or not words.flags.c_contiguous:
            raise ConfigError(f"masks are added to a contiguous vector of {kinds}, not {words.dtype} {words.shape}")


class _Chunk(NamedTuple):
    """A part of a vector, and which blocks of every stream mask it."""

    words: NDArray[Any]
    first: int
    blocks: int


def _cut(bulk: NDArray[Any], exact: NDArray[np.uint64]) -> list[_Chunk]:
    """Both vectors in chunks, in the order of the streams."""
    found, first = [], 0
    for words in (bulk, exact):
        step = CHUNK_BYTES // words.dtype.itemsize
        for at in range(0, words.size, step):
            part = words[at : at + step]
            blocks = -(-part.nbytes // BLOCK_BYTES)
            found.append(_Chunk(part, first, blocks))
            first += blocks
    return found


def _run(bulk: NDArray[Any], exact: NDArray[np.uint64], streams: Sequence[Signed], fresh: bool, threads: int) -> None:
    """Divide the chunks of the vectors among threads."""
    chunks = _cut(bulk, exact)
    if not chunks or not streams:
        if fresh:
            bulk.fill(0)
            exact.fill(0)
        return
    threads = max(1, min(threads, len(chunks)))
    ends = [len(chunks) * at // threads for at in range(threads + 1)]
    with ThreadPoolExecutor(threads, "commonroot-mask") if threads > 1 else nullcontext() as pool:
        for at in range(0, len(streams), _TOGETHER):
            sources = [(plus_minus, Keystream(secret, MASK)) for plus_minus, secret in streams[at : at + _TOGETHER]]
            begin = fresh and at == 0
            if pool is None:
                _chunks(chunks, sources, begin)
                continue
            for done in [pool.submit(_chunks, chunks[first:end], sources, begin) for first, end in pairwise(ends)]:
                done.result()


def _chunks(chunks: Sequence[_Chunk], sources: Sequence[tuple[int, Keystream]], fresh: bool) -> None:
    """Combine all streams into some chunks, one after the other."""
    counters = Counters(max(chunk.blocks for chunk in chunks))
    buffer = np.empty(counters.most * BLOCK_BYTES, dtype=np.uint8)
    active = [
        (np.add if plus_minus == 1 else np.subtract, source.blocks(chunks[0].first)) for plus_minus, source in sources
    ]
    for words, first, blocks in chunks:
        counters.move(first, blocks)
        out = buffer[: blocks * BLOCK_BYTES].data
        noise = buffer[: words.nbytes].view(words.dtype)
        others = active
        if fresh:
            combine, emit = active[0]
            if words.nbytes == blocks * BLOCK_BYTES:
                emit(counters, words.view(np.uint8).data)
            else:
                emit(counters, out)
                np.copyto(words, noise)
            if combine is np.subtract:
                np.negative(words, out=words)
            others = active[1:]
        for combine, emit in others:
            emit(counters, out)
            combine(words, noise, words)  # in place; the third argument by position is the faster call


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
