"""What an upload weighs, that the sum is exact, and what the coordinator keeps in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

from commonroot.common.secure_sum.lanes import THREE21, LaneChoice
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_secure_sum_limits import Sizes, named
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, Upload, updates

_MIB = 1 << 20


def property_rows(sizes: Sizes) -> list[Row]:
    """Rows that no clock has a part in."""
    few, some = sizes.departments[-2:]
    rows, beyond = [], {}
    for size in (sizes.small, sizes.large):
        values = updates(size)
        plans: list[tuple[int, LaneChoice, float]] = [(few, "uint16", 0.505), (some, "3x21", 0.68)]
        for n, lanes, bound in plans:
            parts = Parts(n, values, lanes)
            sent = parts.upload(parts.reviewed(0))
            of = f"{named(size)}, {lanes}, n = {n}"
            share = (len(sent.head) + sent.body.nbytes) / (4 * size)
            rows += [
                Row(f"upload ÷ float32, {of}", share, "<=", bound),
                Row(f"words of the opened ring sum that differ from the sum of the encoded words, {of}",
                    parts.wrong_words(), "<=", 0),
            ]  # fmt: skip
            if size == sizes.small:
                beyond[f"n = {n}"] = _beyond(parts)
    for n, k, committee in sizes.graphs:
        kernels = Kernels(n, k, updates(sizes.small), THREE21, committee)
        beyond[f"n = {n}, its vectors"] = _beyond_graph(kernels)
    why = "the sealed boxes and commitments of all departments for all are kept until they are sent on"
    what = "coordinator's peak memory beyond one accumulator and one upload"
    return rows + [Row(f"{what}, {of}: MiB", found / _MIB, "<=", 1.0, None, why) for of, found in beyond.items()]


def _beyond(parts: Parts) -> int:
    """Bytes at the peak of a whole round up to the unmasked sum, less one accumulator and one upload."""
    uploads = {at: parts.upload(parts.reviewed(at)) for at in range(parts.n)}
    answers = parts.answers(uploads)

    def arriving() -> Iterator[tuple[int, Upload]]:
        for who, sent in uploads.items():
            yield who, Upload(sent.head, memoryview(bytearray(sent.body)), sent.pieces)

    tracemalloc.start()
    try:
        parts.unmask(arriving(), answers)
        return tracemalloc.get_traced_memory()[1] - 2 * parts.codec.layout.nbytes
    finally:
        tracemalloc.stop()


def _beyond_graph(kernels: Kernels) -> int:
    body = kernels.upload().body
    tracemalloc.start()
    try:
        kernels.unmask((memoryview(bytearray(body)) for _ in range(kernels.n)), 0)
        return tracemalloc.get_traced_memory()[1] - 2 * kernels.layout.nbytes
    finally:
        tracemalloc.stop()
