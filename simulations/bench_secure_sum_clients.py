"""A department's part of a round beside Flower's own way to send the same numbers in the clear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.lanes import UINT16
from commonroot.common.secure_sum.precompute import Prepared
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_secure_sum_limits import Limit, Sizes, named
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, Upload, updates
from commonroot.simulations.bench_timing import Work, in_turns

_CRYPTO: Final = {3: 0.25, 10: 0.40, 32: 0.80, 100: 1.05}
_WHOLE: Final = {3: 0.7, 10: 0.9, 32: 1.35, 100: 1.6}
_AHEAD: Final = 0.20


def client_rows(sizes: Sizes) -> list[Row]:
    """Encoding, masks, shares, signature, and the way to Flower's objects, beside Flower's own way."""
    return [row for size in (sizes.large, sizes.small) for row in _rows(sizes, size)]


def _rows(sizes: Sizes, size: int) -> list[Row]:
    from commonroot.simulations.bench_secure_sum_flower import plain_reply, secure_reply

    values, limit = updates(size), Limit()
    flat = np.concatenate(list(values.values()))
    work: dict[str, Work | Callable[[], object]] = {
        "plain": lambda: plain_reply(values),
        "limit": partial(limit.mask, 2 * size),
        "copy": partial(np.copyto, np.empty_like(flat), flat),
    }
    streams: dict[int, int] = {}
    for n in sizes.departments:
        parts = Parts(n, values, "uint16")
        sent = parts.upload(parts.reviewed(0))
        streams[n] = n
        work[f"crypto {n}"] = Work(parts.upload, partial(parts.reviewed, 0))
        work[f"ahead {n}"] = Work(partial(_upload, parts), parts.reviewed_and_prepared)
        work[f"link {n}"] = partial(secure_reply, sent.head, sent.body, sent.pieces)
        for threads in (1, 2):
            work[f"prepare {threads} {n}"] = Work(partial(_prepare, parts, threads), partial(parts.reviewed, 0))
    n, k, committee = sizes.graphs[0]
    graph = Kernels(n, k, values, UINT16, committee)
    sent = graph.upload()
    streams[n] = k + 1
    work[f"crypto {n}"] = graph.upload
    work[f"ahead {n}"] = Work(graph.upload, graph.masks)
    work[f"link {n}"] = partial(secure_reply, sent.head, sent.body, sent.pieces)
    for threads in (1, 2):
        work[f"prepare {threads} {n}"] = partial(graph.masks, threads)
    body = sent.body
    work["hash"] = lambda: sha256(body)
    costs = in_turns(work, sizes.times)
    cost = {name: each.thread for name, each in costs.items()}
    plain, hashed, copy = cost["plain"], cost["hash"], cost["copy"]
    at = f"{named(size)}, uint16"
    rows = [
        Row(f"Flower's plain client path (arrays, records, hashes), {named(size)}: CPU milliseconds", 1e3 * plain),
        Row(f"SHA-256 of a masked body, {at} ÷ plain path", hashed / plain),
    ]
    for n, count in streams.items():
        of = f"{at}, n = {n}" + (f" (k = {count - 1})" if count != n else "")
        crypto, ahead, link = cost[f"crypto {n}"], cost[f"ahead {n}"], cost[f"link {n}"]
        masks = count * cost["limit"]
        why = (
            f"{count} keystreams and their additions take {masks / plain:.3f} at the limit of this processor, "
            f"one pass over the input {copy / plain:.3f}; the rest is rounding, shares and a signature"
        )
        aimed = n if size == sizes.large else 0  # the targets are for it
        rows += [
            _row(f"client crypto ÷ plain path, {of}", (crypto - hashed) / plain, _CRYPTO.get(aimed),
                 (masks + copy) / plain, why),
            Row(f"client crypto with the hash of the upload ÷ plain path, {of}", crypto / plain),
            _row(f"client crypto on the critical path, masks made ahead ÷ plain path, {of}",
                 (ahead - hashed) / plain, _AHEAD if aimed else None, copy / plain,
                 "the encoder is a dozen passes of NumPy over values in cache"),
            Row(f"the critical path with the hash of the upload ÷ plain path, {of}", ahead / plain),
            _row(f"whole secure client path ÷ plain path, {of}", (crypto + link) / plain, _WHOLE.get(aimed),
                 (masks + copy + hashed) / plain, why),
            Row(f"whole secure client path, masks made ahead ÷ plain path, {of}", (ahead + link) / plain),
            Row(f"making masks ahead with two threads, wall ÷ one thread, {of}",
                costs[f"prepare 2 {n}"].wall / costs[f"prepare 1 {n}"].wall),
        ]  # fmt: skip
    return rows


def _row(what: str, value: float, bound: float | None, limit: float, why: str) -> Row:
    return Row(what, value, limit=limit) if bound is None else Row(what, value, "<=", bound, limit, why)


def _upload(parts: Parts, ready: tuple[DepartmentMachine, Prepared]) -> Upload:
    return parts.upload(*ready)


def _prepare(parts: Parts, threads: int, machine: DepartmentMachine) -> Prepared:
    return parts.prepared(machine, threads)
