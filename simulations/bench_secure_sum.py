"""What the secure sum costs, beside the physical limit, Flower's plain path, FedAvg and Flower's SecAgg+, in one run.

CPU time of one thread unless a row says otherwise.  Each comparison is measured in turns and the medians are divided.
A department's crypto includes the one hash of its upload, which both its signature and Flower's names of the pieces are
made of.  At the coordinator, Flower's hub checks every object against its name as it comes in, plain or masked; that
is in neither side of a comparison, and what it would cost to hash once more is a row of its own.

``COMMONROOT_BENCH_QUICK=1`` runs everything but the deployed round at toy sizes in seconds; its figures say nothing.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from rich.console import Console

from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.lanes import THREE21, UINT16, UINT32, Lanes
from commonroot.common.secure_sum.masks import CHUNK_BYTES, Keystream, add_streams
from commonroot.common.secure_sum.precompute import Prepared
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, Upload, updates
from commonroot.simulations.bench_timing import Work, in_turns


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    large, small, many   parameters: where a target names 10^7; elsewhere; with 100 results in memory at once
    times                repetitions of everything
    departments          of the client rows; the last two of the coordinator rows
    deployed             rounds of the deployed federation; 0 leaves it out
    """

    large: int
    small: int
    many: int
    times: int
    departments: tuple[int, ...]
    deployed: int


FULL: Final = Sizes(10_000_000, 1_000_000, 1_000_000, 5, (3, 10, 32), 6)
QUICK: Final = Sizes(20_000, 10_000, 5_000, 2, (3, 6, 8), 0)

_CRYPTO = {3: 0.25, 10: 0.40, 32: 0.80, 100: 1.05}
_WHOLE = {3: 0.7, 10: 0.9, 32: 1.35, 100: 1.6}
_SERVER = {10: (0.45, 0.60, 0.75), 32: (0.6, 1.15, 2.2), 100: (0.6, 1.2, 2.7)}
_DROPS = (0.0, 0.1, 0.3)
_MIB = 1 << 20


def run(console: Console) -> list[Row]:
    """Every row."""
    return measure(console, QUICK if os.environ.get("COMMONROOT_BENCH_QUICK") == "1" else FULL)


def measure(console: Console, sizes: Sizes) -> list[Row]:
    """Every row at the given sizes."""
    parts: list[tuple[str, Callable[[Sizes], list[Row]]]] = [
        ("the mask kernel and the encoder beside their limits", kernel_rows),
        ("a department beside Flower's plain client path", client_rows),
        ("exactness, size and memory", property_rows),
        ("the coordinator beside FedAvg", server_rows),
        ("Flower's SecAgg+", secagg_rows),
    ]
    rows: list[Row] = []
    for what, part in parts:
        console.print(f"{what} …")
        rows += part(sizes)
    if sizes.deployed:
        from commonroot.simulations.bench_secure_sum_deployed import deployed_rows

        console.print("deployed federations of five departments, masked and in the clear …")
        rows += deployed_rows(sizes.deployed)
    return rows


def _named(parameters: int) -> str:
    return f"{parameters:.0e}".replace("e+0", "e") + " parameters"


def _bounded(what: str, value: float, bounds: dict[int, float], n: int) -> Row:
    return Row(what, value, "<=", bounds[n]) if n in bounds else Row(what, value)


# -- limits ------------------------------------------------------------------------------------------------------------


def work_at_the_limit(size: int) -> Callable[[], object]:
    """Keystream and addition of one mask of ``size`` bytes, both in cache: nothing less can be done."""
    noise, chunk = np.empty(CHUNK_BYTES, np.uint8), np.zeros(CHUNK_BYTES // 2, np.uint16)
    zeros, words = memoryview(bytes(CHUNK_BYTES)), noise.view(np.uint16)
    source = Keystream(os.urandom(32), "limit").segment(0)
    steps = -(-size // CHUNK_BYTES)

    def once() -> None:
        for _ in range(steps):
            source.update_into(zeros, noise.data)
            np.add(chunk, words, out=chunk)

    return once


def kernel_rows(sizes: Sizes) -> list[Row]:
    """Masks beside keystream and addition alone, in cache; encoding beside a copy of its input."""
    streams = 10
    noise, chunk = np.empty(CHUNK_BYTES, np.uint8), np.zeros(CHUNK_BYTES // 2, np.uint16)
    zeros, words = memoryview(bytes(CHUNK_BYTES)), noise.view(np.uint16)
    loops = max(1, 2 * streams * sizes.large // CHUNK_BYTES // 4)
    source = Keystream(os.urandom(32), "limit").segment(0)
    work: dict[str, Work | Callable[[], object]] = {
        "keystream": lambda: [source.update_into(zeros, noise.data) for _ in range(loops)],
        "add": lambda: [np.add(chunk, words, out=chunk) for _ in range(loops)],
    }
    lengths = (sizes.small, sizes.large)
    for length in lengths:
        vector, none = np.zeros(length, "<u2"), np.zeros(0, "<u8")
        secrets = [(1 if at % 2 else -1, os.urandom(32)) for at in range(streams)]
        work[f"masks {length}"] = partial(add_streams, vector, none, secrets)
        work[f"two threads {length}"] = partial(add_streams, vector, none, secrets, threads=2)
    values = updates(sizes.large)
    flat = np.concatenate(list(values.values()))
    target = np.empty_like(flat)
    work["copy"] = lambda: np.copyto(target, flat)
    codecs = {lanes.name: Kernels(10, 9, values, lanes) for lanes in (UINT16, THREE21, UINT32)}
    for name, kernels in codecs.items():
        work[f"encode {name}"] = kernels.encode
    cost = in_turns(work, sizes.times)
    per_byte = (cost["keystream"].thread + cost["add"].thread) / (loops * CHUNK_BYTES)
    rows = [
        Row("keystream alone, GB/s", loops * CHUNK_BYTES / cost["keystream"].thread / 1e9),
        Row("16-bit addition alone, in cache, GB/s", loops * CHUNK_BYTES / cost["add"].thread / 1e9),
    ]
    for length in lengths:
        limit = per_byte * 2 * length * streams
        rows.append(
            Row(f"mask kernel, {streams} streams, {_named(length)}: share of the limit 1/(1/keystream + 1/add)",
                limit / cost[f"masks {length}"].thread, ">=", 0.90)
        )  # fmt: skip
        speed_up = cost[f"masks {length}"].wall / cost[f"two threads {length}"].wall
        rows.append(Row(f"mask kernel, {_named(length)}: speed-up on the wall by a second thread", speed_up))
    for name in codecs:
        what = f"encode {name}, {_named(sizes.large)} ÷ copy of the float32 input"
        value = cost[f"encode {name}"].thread / cost["copy"].thread
        rows.append(Row(what, value, "<=", 5.0) if name == UINT16.name else Row(what, value))
    return rows


# -- a department ------------------------------------------------------------------------------------------------------


def client_rows(sizes: Sizes) -> list[Row]:
    """Encoding, masks, shares, signature, and the way to Flower's objects, beside Flower's own way."""
    from commonroot.simulations.bench_secure_sum_flower import plain_reply, secure_reply

    values = updates(sizes.large)
    work: dict[str, Work | Callable[[], object]] = {"plain": lambda: plain_reply(values)}
    ready: dict[int, Parts] = {n: Parts(n, values, "uint16") for n in sizes.departments}
    for n, parts in ready.items():
        sent = parts.upload(parts.reviewed(0))
        work[f"crypto {n}"] = Work(parts.upload, partial(parts.reviewed, 0))
        work[f"ahead {n}"] = Work(partial(_upload, parts), parts.reviewed_and_prepared)
        work[f"link {n}"] = partial(secure_reply, sent.head, sent.body, sent.pieces)
    graph = Kernels(100, 36, values, UINT16)
    sent = graph.upload()
    work["crypto 100"] = graph.upload
    work["ahead 100"] = Work(graph.upload, graph.masks)
    work["link 100"] = partial(secure_reply, sent.head, sent.body, sent.pieces)
    work["hash"] = lambda: sha256(sent.body)
    work["keystream"] = work_at_the_limit(2 * sizes.large)
    cost = {name: each.thread for name, each in in_turns(work, sizes.times).items()}
    plain, hashed, limit = cost["plain"], cost["hash"], cost["keystream"]
    size = f"{_named(sizes.large)}, uint16"
    rows = [
        Row(
            f"Flower's plain client path (arrays, records, hashes), {_named(sizes.large)}: CPU milliseconds",
            1e3 * plain,
        ),
        Row(f"SHA-256 of a masked body, {size} ÷ plain path", hashed / plain),
    ]
    for n in (*sizes.departments, 100):
        of = f"n = {n}{' (k = 36)' if n == 100 else ''}"
        crypto, ahead, link = cost[f"crypto {n}"], cost[f"ahead {n}"], cost[f"link {n}"]
        rows += [
            _bounded(f"client crypto ÷ plain path, {size}, {of}", crypto / plain, _CRYPTO, n),
            Row(
                f"of it keystreams at the limit of the mask kernel, {of}",
                limit * ((36 if n == 100 else n - 1) + 1) / plain,
            ),
            Row(f"client crypto on the critical path, masks made ahead ÷ plain path, {of}", ahead / plain, "<=", 0.20),
            _bounded(f"whole secure client path ÷ plain path, {of}", (crypto + link) / plain, _WHOLE, n),
            Row(f"whole secure client path, masks made ahead ÷ plain path, {of}", (ahead + link) / plain),
        ]
    return rows


def _upload(parts: Parts, ready: tuple[DepartmentMachine, Prepared]) -> Upload:
    return parts.upload(*ready)


def _hash(uploads: dict[int, Upload]) -> None:
    for sent in uploads.values():
        sha256(sent.body)


# -- the coordinator ---------------------------------------------------------------------------------------------------


def server_rows(sizes: Sizes) -> list[Row]:
    """Whole rounds at the coordinator beside FedAvg over the survivors' results."""
    few, some = sizes.departments[-2:]
    rows = _rounds(Parts(few, updates(sizes.large)), sizes.large, sizes.times)
    rows += _rounds(Parts(some, updates(sizes.small), "3x21"), sizes.small, sizes.times)
    rows += _rounds(Parts(some, updates(sizes.small), "uint16"), sizes.small, sizes.times)
    return rows + _graph(sizes, THREE21) + _graph(sizes, UINT16)


def _rounds(parts: Parts, parameters: int, times: int) -> list[Row]:
    from commonroot.simulations.bench_secure_sum_flower import add_loop, fedavg, plain_results

    results = plain_results([parts.tensors] * parts.n)
    uploads = {at: parts.upload(parts.reviewed(at)) for at in range(parts.n)}
    dropped = [round(share * parts.n) for share in _DROPS]
    work: dict[str, Work | Callable[[], object]] = {}
    for lost in dropped:
        left = {at: uploads[at] for at in range(lost, parts.n)}
        answers = parts.answers(left)
        work[f"ours {lost}"] = partial(parts.coordinate, left, answers)
        work[f"two {lost}"] = partial(parts.coordinate, left, answers, 2)
        work[f"fedavg {lost}"] = partial(fedavg, results[lost:])
        work[f"hash {lost}"] = partial(_hash, left)
    tensors = [np.concatenate(list(parts.tensors.values()))] * parts.n
    work["loop"] = lambda: add_loop(tensors)
    cost = in_turns(work, times)
    of = f"n = {parts.n}, {_named(parameters)}, {parts.codec.lanes.name}"
    rows = [Row(f"an optimised torch.add_ loop ÷ FedAvg, {of}", cost["loop"].thread / cost["fedavg 0"].thread)]
    for at, lost in enumerate(dropped):
        ours, plain, hashed = (cost[f"{what} {lost}"].thread for what in ("ours", "fedavg", "hash"))
        bounds = {n: three[at] for n, three in _SERVER.items()}
        after = f"{of}, {lost} lost"
        rows += [
            _bounded(f"coordinator ÷ FedAvg, {after}", ours / plain, bounds, parts.n),
            Row(f"hashing these uploads once more ÷ FedAvg, {after}", hashed / plain),
            Row(f"coordinator with two threads, wall ÷ one thread, {after}",
                cost[f"two {lost}"].wall / cost[f"ours {lost}"].wall),
        ]  # fmt: skip
    return rows


def _graph(sizes: Sizes, lanes: Lanes) -> list[Row]:
    """n = 100, k = 36: the vector work alone, messages of a sparse graph left out."""
    from commonroot.simulations.bench_secure_sum_flower import fedavg, plain_results

    values = updates(sizes.many)
    kernels = Kernels(100, 36, values, lanes)
    results, body = plain_results([values] * 100), kernels.upload().body
    work: dict[str, Work | Callable[[], object]] = {}
    for lost in (0, 10, 30):
        work[f"ours {lost}"] = partial(kernels.coordinate, body, lost)
        work[f"fedavg {lost}"] = partial(fedavg, results[lost:])
    cost = {name: each.thread for name, each in in_turns(work, sizes.times).items()}
    rows = []
    for at, lost in enumerate((0, 10, 30)):
        what = f"coordinator's vector work ÷ FedAvg, n = 100, k = 36, {_named(sizes.many)}, {lanes.name}, {lost} lost"
        rows.append(Row(what, cost[f"ours {lost}"] / cost[f"fedavg {lost}"], "<=", _SERVER[100][at]))
    return rows


# -- properties --------------------------------------------------------------------------------------------------------


def property_rows(sizes: Sizes) -> list[Row]:
    """What an upload weighs, that the sum is exact, and what the coordinator keeps in memory."""
    few, some = sizes.departments[-2:]
    values = updates(sizes.small)
    small, large = Parts(few, values), Parts(some, values, "3x21")
    rows = []
    for parts, bound in ((small, 0.505), (large, 0.68)):
        sent = parts.upload(parts.reviewed(0))
        share = (len(sent.head) + sent.body.nbytes) / (4 * sizes.small)
        what = f"upload ÷ float32, {_named(sizes.small)}, {parts.codec.lanes.name}, n = {parts.n}"
        rows.append(Row(what, share, "<=", bound))
    rows += [
        Row(f"words of the opened ring sum that differ from the sum of the encoded words, {parts.codec.lanes.name}",
            parts.wrong_words(), "<=", 0)
        for parts in (small, large)
    ]  # fmt: skip
    beyond = {parts.n: _beyond(parts) for parts in (small, large)}
    rows += [
        Row(f"coordinator's peak memory beyond one accumulator and one upload, n = {n}: MiB", found / _MIB, "<=", 1.0)
        for n, found in beyond.items()
    ]
    graph = _beyond_graph(Kernels(100, 36, values, THREE21))
    rows.append(Row("the same for vectors alone, n = 100: MiB", graph / _MIB, "<=", 1.0))
    return rows


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


# -- SecAgg+ -----------------------------------------------------------------------------------------------------------


def secagg_rows(sizes: Sizes) -> list[Row]:
    """The same numbers, clients and losses by Flower's SecAgg+."""
    from commonroot.simulations.bench_secure_sum_flower import SecAggPlus

    n = sizes.departments[-2]
    values = updates(sizes.large)
    parts, theirs = Parts(n, values), SecAggPlus(n, values)
    uploads = {at: parts.upload(parts.reviewed(at)) for at in range(n)}
    sent = theirs.client_upload()
    work: dict[str, Work | Callable[[], object]] = {
        "client ours": Work(parts.upload, partial(parts.reviewed, 0)),
        "client theirs": theirs.client_upload,
    }
    dropped = [round(share * n) for share in _DROPS]
    for lost in dropped:
        left = {at: uploads[at] for at in range(lost, n)}
        answers = parts.answers(left)
        work[f"ours {lost}"] = partial(parts.coordinate, left, answers)
        # Whose bytes they are makes no difference to the time; one upload of theirs is 80 MB.
        work[f"theirs {lost}"] = partial(theirs.server, [sent] * (n - lost), lost)
    cost = {name: each.thread for name, each in in_turns(work, sizes.times).items()}
    of = f"n = {n}, {_named(sizes.large)}"
    size = sum(map(len, sent)) / (len(uploads[0].head) + uploads[0].body.nbytes)
    return [
        Row(f"Flower's SecAgg+ client ÷ ours, {of}", cost["client theirs"] / cost["client ours"], ">=", 15),
        *(
            Row(f"Flower's SecAgg+ server ÷ ours, {of}, {lost} lost",
                cost[f"theirs {lost}"] / cost[f"ours {lost}"], ">=", 10)
            for lost in dropped
        ),
        Row(f"Flower's SecAgg+ upload ÷ ours, {of}: bytes", size, ">=", 3.9),
        Row("Flower's SecAgg+ messages to a client in a round ÷ ours", 4 / 2, ">=", 2),
    ]  # fmt: skip
