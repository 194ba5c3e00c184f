"""The coordinator's part of a round beside FedAvg over the survivors' results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from commonroot.common.secure_sum.lanes import THREE21, UINT16, Lanes, Words
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_secure_sum_limits import Limit, Sizes, named
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, Tensors, Upload, updates
from commonroot.simulations.bench_timing import Cost, Work, in_turns

_BOUNDS: Final = {10: (0.45, 0.60, 0.75), 32: (0.6, 1.15, 2.2), 100: (0.6, 1.2, 2.7)}
#: Peers' results and uploads beyond so many bytes are the same ones again: no cache holds them.
_DISTINCT: Final = 1 << 30

Todo = dict[str, Work | Callable[[], object]]


def server_rows(sizes: Sizes) -> list[Row]:
    """Whole rounds at the coordinator; where a sparse graph is meant, the work on vectors and shares."""
    rows = []
    few, some = sizes.departments[-2:]
    for size in (sizes.large, sizes.small):
        rows += _rounds(Parts(few, updates(size)), size, sizes)
        rows += _rounds(Parts(some, updates(size), "3x21"), size, sizes)
        rows += _rounds(Parts(some, updates(size), "uint16"), size, sizes)
        for lanes in (THREE21, UINT16):
            rows += _graph(sizes, size, *sizes.graphs[0], lanes)
    return rows + _graph(sizes, sizes.small, *sizes.graphs[1], THREE21)


def _peer(values: Tensors, n: int, dropped: Sequence[int], body: memoryview, word: str, work: Todo) -> None:
    """FedAvg over what is left after each loss, the loop, and what cannot be left out."""
    from commonroot.simulations.bench_secure_sum_flower import add_loop, fedavg, plain_results

    flat = np.concatenate(list(values.values()))
    distinct = plain_results([values] * max(1, min(n, _DISTINCT // flat.nbytes)))
    results = [distinct[at % len(distinct)] for at in range(n)]
    for lost in dropped:
        work[f"fedavg {lost}"] = partial(fedavg, results[lost:])
    work["loop"] = lambda: add_loop([flat] * n)
    words: Words = np.frombuffer(body, word, count=body.nbytes // np.dtype(word).itemsize)
    total = np.zeros_like(words)
    work["add"] = lambda: np.add(total, words, out=total)
    work["limit"] = partial(Limit().mask, body.nbytes)
    work["hash"] = lambda: sha256(body)


def _rounds(parts: Parts, size: int, sizes: Sizes) -> list[Row]:
    n = parts.n
    uploads: dict[int, Upload] = {at: parts.upload(parts.reviewed(at)) for at in range(n)}
    dropped = [round(share * n) for share in sizes.drops]
    work: Todo = {}
    for lost in dropped:
        left = {at: uploads[at] for at in range(lost, n)}
        answers = parts.answers(left)
        for threads in (1, 2):
            work[f"ours {threads} {lost}"] = partial(parts.coordinate, left, answers, threads)
    _peer(parts.tensors, n, dropped, uploads[0].body, parts.codec.layout.word, work)
    streams = {lost: (n - lost) * (1 + lost) for lost in dropped}
    of = f"n = {n}, {named(size)}, {parts.codec.lanes.name}"
    return _compared("coordinator", of, n, streams, in_turns(work, sizes.times))


def _graph(sizes: Sizes, size: int, n: int, k: int, committee: int, lanes: Lanes) -> list[Row]:
    values = updates(size)
    kernels = Kernels(n, k, values, lanes, committee)
    bodies = [kernels.upload().body for _ in range(max(1, min(8, n)))]
    dropped = [round(share * n) for share in sizes.drops]
    work: Todo = {}
    for lost in dropped:
        for threads in (1, 2):
            work[f"ours {threads} {lost}"] = partial(kernels.coordinate, bodies, lost, threads)
    _peer(values, n, dropped, bodies[0], kernels.layout.word, work)
    streams = {lost: kernels.streams_after(lost) for lost in dropped}
    of = f"n = {n}, k = {k}, {named(size)}, {lanes.name}"
    return _compared("coordinator's work on vectors", of, n, streams, in_turns(work, sizes.times))


def _compared(who: str, of: str, n: int, streams: dict[int, int], cost: dict[str, Cost]) -> list[Row]:
    rows = [Row(f"an optimised torch.add_ loop ÷ FedAvg, {of}", cost["loop"].thread / cost["fedavg 0"].thread)]
    for at, (lost, count) in enumerate(streams.items()):
        plain, left, what = cost[f"fedavg {lost}"].thread, n - lost, f"{who} ÷ FedAvg, {of}, {lost} lost"
        one, two = cost[f"ours 1 {lost}"], cost[f"ours 2 {lost}"]
        masks = count * cost["limit"].thread
        limit = (masks + left * cost["add"].thread) / plain
        why = (
            f"{count} keystreams and their subtractions take {masks / plain:.3f} at the limit of this processor, "
            f"adding {left} uploads {limit - masks / plain:.3f}; the rest is signatures, shares and decoding"
        )
        if n in _BOUNDS:
            rows.append(Row(what, one.thread / plain, "<=", _BOUNDS[n][at], limit, why))
        else:
            rows.append(Row(what, one.thread / plain, limit=limit))
        rows += [
            Row(f"with two threads, wall ÷ FedAvg's wall: {what}", two.wall / cost[f"fedavg {lost}"].wall),
            Row(f"hashing these uploads once more ÷ FedAvg, {of}, {lost} lost", left * cost["hash"].thread / plain),
        ]
    return rows
