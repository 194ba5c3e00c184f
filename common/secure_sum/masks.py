"""Keystreams, and adding many of them to a vector in one pass.

A 32-byte secret yields one AES-256 key per lane type; every such key produces one keystream, once, so its nonce is
fixed.  The stream is AES-256-CTR (NIST SP 800-38A) with counter block ``0^12 ‖ i``, i = 2, 3, …: exactly what AES-GCM
with a zero nonce encrypts with.  Where an import-time self-test confirms that identity, GCM's encryptor is used: on
CPUs with VAES its keystream is faster than plain CTR's.  Its tag is never asked for.

``add_streams`` walks the vector in chunks and adds every stream to a chunk before it goes on, so the chunk and the
keystream buffer stay in the core's second-level cache whatever the vector's length is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_ZEROS: Final = bytes(CHUNK_BYTES)
#: A sign and a 32-byte secret: +1 adds the secret's streams, -1 subtracts them.
Signed = tuple[int, bytes]


def sign(me: int, peer: int) -> int:
    """The sign of the mask of edge (me, peer) in ``me``'s upload: the two ends differ, so their sum holds neither."""
    return 1 if me < peer else -1


def _ctr(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(12) + (2).to_bytes(4, "big"))).encryptor()


def _gcm(key: bytes) -> CipherContext:
    return Cipher(AES256(key), GCM(bytes(12))).encryptor()


def _same_stream() -> bool:
    """Does GCM's encryptor emit CTR's stream here, also across chunks that end within a block?"""
    key = bytes(range(32))
    left, right = _ctr(key), _gcm(key)
    return all(left.update(_ZEROS[:size]) == right.update(_ZEROS[:size]) for size in (16, 5, 4096, 11, 65536, 2))


_encryptor: Callable[[bytes], CipherContext] = _gcm if _same_stream() else _ctr


class Keystream:
    """The keystream of one secret for one lane type.  A secret and a label must serve one vector only."""

    __slots__ = ("_context",)

    def __init__(self, secret: bytes, label: str) -> None:
        self._context = _encryptor(derive(secret, f"keystream {label}"))

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Write the next ``out.size`` bytes of the stream; at most ``CHUNK_BYTES`` at a time are produced."""
        for at in range(0, out.size, CHUNK_BYTES):
            part = out[at : at + CHUNK_BYTES]
            self._context.update_into(memoryview(_ZEROS)[: part.size], part.data)


def add_streams(lanes16: NDArray[np.uint16], lanes64: NDArray[np.uint64], streams: Sequence[Signed]) -> None:
    """Add or subtract the keystreams of all secrets, in place, modulo 2^16 and 2^64.

    Parameters  lanes16, lanes64: contiguous vectors, little endian; streams: (+1 or -1, secret)
    Raises      ConfigError for a sign other than ±1 or an array that cannot be added to in place
    """
    if any(plus_minus not in (1, -1) for plus_minus, _ in streams):
        raise ConfigError("a mask is added (+1) or subtracted (-1)")
    for lanes, kind in ((lanes16, "<u2"), (lanes64, "<u8")):
        if lanes.ndim != 1 or lanes.dtype != np.dtype(kind) or not lanes.flags.c_contiguous:
            raise ConfigError(f"masks are added to a contiguous vector of {kind}, not {lanes.dtype} {lanes.shape}")
    _add(lanes16, "lanes16", streams)
    _add(lanes64, "lanes64", streams)


def _add(lanes: NDArray[Any], label: str, streams: Sequence[Signed]) -> None:
    if not lanes.size:
        return
    sources = [(np.add if plus_minus == 1 else np.subtract, Keystream(secret, label)) for plus_minus, secret in streams]
    width = lanes.dtype.itemsize
    step = CHUNK_BYTES // width
    buffer = np.empty(min(CHUNK_BYTES, lanes.size * width), dtype=np.uint8)
    for start in range(0, lanes.size, step):
        chunk = lanes[start : start + step]
        noise = buffer[: chunk.size * width]
        for combine, source in sources:
            source.fill(noise)
            combine(chunk, noise.view(lanes.dtype), out=chunk)


def body_bytes(length16: int, length64: int) -> int:
    """Length of an upload's body: the 16-bit lanes, then the 64-bit lanes, little endian."""
    return 2 * length16 + 8 * length64


def split_body(
    body: bytes | bytearray | memoryview, length16: int, length64: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Views of both kinds of lanes in a body of ``body_bytes(length16, length64)`` bytes."""
    return (
        np.frombuffer(body, dtype="<u2", count=length16),
        np.frombuffer(body, dtype="<u8", count=length64, offset=2 * length16),
    )


def join_body(lanes16: NDArray[np.uint16], lanes64: NDArray[np.uint64]) -> memoryview:
    """The body of two vectors: without a copy where they lie next to each other, as ``SumCodec.encode`` makes them."""
    base = lanes16.base
    if (
        isinstance(base, np.ndarray)
        and base is lanes64.base
        and base.dtype == np.uint8
        and base.ndim == 1
        and base.size == lanes16.nbytes + lanes64.nbytes
        and lanes16.ctypes.data == base.ctypes.data
        and lanes64.ctypes.data == base.ctypes.data + lanes16.nbytes
    ):
        return memoryview(base.data)
    return memoryview(b"".join((lanes16.tobytes(), lanes64.tobytes())))
