"""What the secure sum costs, beside the physical limit, Flower's plain path, FedAvg and Flower's SecAgg+, in one run.

CPU time of one thread unless a row says otherwise.  Each comparison is measured in turns and the medians are divided.
``limit`` is what the same row would show if nothing were done but what cannot be left out: keystreams and additions at
the speed that this processor reaches on data in its cache, one pass over the input, one hash.

"Client crypto" is encoding, masks, shares, boxes and signature.  The one SHA-256 of an upload, which Flower's names of
the pieces and the signature are both made of, is part of the way to the link, masked or plain: it is counted in the
whole path, and rows of their own show it.  At the coordinator, Flower's hub checks every object against its name as it
comes in, plain or masked; that is in neither side of a comparison.

``COMMONROOT_BENCH_QUICK=1`` runs everything but the deployed round at toy sizes in seconds; its figures say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console

from commonroot.common.secure_sum.lanes import THREE21, UINT16, UINT32
from commonroot.common.secure_sum.masks import CHUNK_BYTES, add_streams
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_secure_sum_clients import client_rows
from commonroot.simulations.bench_secure_sum_limits import FULL, QUICK, Limit, Sizes, named
from commonroot.simulations.bench_secure_sum_memory import property_rows
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, updates
from commonroot.simulations.bench_secure_sum_servers import server_rows
from commonroot.simulations.bench_timing import Work, in_turns


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


def kernel_rows(sizes: Sizes) -> list[Row]:
    """Masks beside keystream and addition alone, in cache; encoding beside a copy of its input."""
    streams, limit = 10, Limit()
    loops = max(1, 2 * streams * sizes.large // CHUNK_BYTES // 4)
    payload = os.urandom(2 * sizes.large)
    work: dict[str, Work | Callable[[], object]] = {
        "keystream": partial(limit.keystream, loops),
        "add": partial(limit.add, loops),
        "hash": lambda: sha256(payload),
    }
    for size in (sizes.small, sizes.large):
        vector, none = np.zeros(size, "<u2"), np.zeros(0, "<u8")
        secrets = [(1 if at % 2 else -1, os.urandom(32)) for at in range(streams)]
        work[f"masks {size}"] = partial(add_streams, vector, none, secrets)
        work[f"two threads {size}"] = partial(add_streams, vector, none, secrets, threads=2)
        values = updates(size)
        flat = np.concatenate(list(values.values()))
        work[f"copy {size}"] = partial(np.copyto, np.empty_like(flat), flat)
        for lanes in (UINT16, THREE21, UINT32):
            work[f"encode {lanes.name} {size}"] = Kernels(10, 9, values, lanes).encode
    cost = in_turns(work, sizes.times)
    done = loops * CHUNK_BYTES
    per_byte = (cost["keystream"].thread + cost["add"].thread) / done
    rows = [
        Row("keystream alone, in cache, GB/s", done / cost["keystream"].thread / 1e9),
        Row("16-bit addition alone, in cache, GB/s", done / cost["add"].thread / 1e9),
        Row("SHA-256, GB/s", len(payload) / cost["hash"].thread / 1e9),
        Row("copy of float32 values, GB/s", 4 * sizes.large / cost[f"copy {sizes.large}"].thread / 1e9),
    ]
    for size in (sizes.small, sizes.large):
        ours, two = cost[f"masks {size}"], cost[f"two threads {size}"]
        share = per_byte * 2 * size * streams / ours.thread
        of = f"mask kernel, {streams} streams, {named(size)}"
        rows += [
            Row(f"{of}: share of the limit 1/(1/keystream + 1/add)", share, ">=", 0.90, 1.0,
                "what is left is the derivation of keys and the calls of a short vector"),
            Row(f"{of}: speed-up on the wall by a second thread", ours.wall / two.wall),
        ]  # fmt: skip
        for lanes in (UINT16, THREE21, UINT32):
            what = f"encode {lanes.name}, {named(size)} ÷ copy of the float32 input"
            value = cost[f"encode {lanes.name} {size}"].thread / cost[f"copy {size}"].thread
            why = "a copy of so little stays in cache, the steps of the encoder do not get faster with it"
            rows.append(Row(what, value, "<=", 5.0, None, why) if lanes is UINT16 else Row(what, value))
    return rows


def secagg_rows(sizes: Sizes) -> list[Row]:
    """The same numbers, clients and losses by Flower's SecAgg+."""
    from commonroot.simulations.bench_secure_sum_flower import SecAggPlus

    n = sizes.departments[-2]
    values = updates(sizes.large)
    parts, theirs, limit = Parts(n, values), SecAggPlus(n, values), Limit()
    uploads = {at: parts.upload(parts.reviewed(at)) for at in range(n)}
    sent, body = theirs.client_upload(), uploads[0].body
    flat = np.concatenate(list(values.values()))
    work: dict[str, Work | Callable[[], object]] = {
        "client ours": Work(parts.upload, partial(parts.reviewed, 0)),
        "client theirs": theirs.client_upload,
        "hash": lambda: sha256(body),
        "copy": partial(np.copyto, np.empty_like(flat), flat),
        "limit": partial(limit.mask, 2 * sizes.large),
    }
    dropped = [round(share * n) for share in sizes.drops]
    for lost in dropped:
        left = {at: uploads[at] for at in range(lost, n)}
        answers = parts.answers(left)
        work[f"ours {lost}"] = partial(parts.coordinate, left, answers)
        # Whose bytes they are makes no difference to the time; one upload of theirs is 80 MB.
        work[f"theirs {lost}"] = partial(theirs.server, [sent] * (n - lost), lost)
    cost = {name: each.thread for name, each in in_turns(work, sizes.times).items()}
    of = f"n = {n}, {named(sizes.large)}"
    crypto = cost["client ours"] - cost["hash"]
    least = n * cost["limit"] + cost["copy"]
    size = sum(map(len, sent)) / (len(uploads[0].head) + body.nbytes)
    return [
        Row(f"Flower's SecAgg+ client ÷ ours, {of}", cost["client theirs"] / crypto, ">=", 15,
            cost["client theirs"] / least,
            f"the {n} keystreams of an upload take {n * cost['limit'] / crypto:.0%} of ours, at the limit"),
        Row(f"Flower's SecAgg+ client ÷ ours with the hash of the upload, {of}",
            cost["client theirs"] / cost["client ours"]),
        *(
            Row(f"Flower's SecAgg+ server ÷ ours, {of}, {lost} lost",
                cost[f"theirs {lost}"] / cost[f"ours {lost}"], ">=", 10)
            for lost in dropped
        ),
        Row(f"Flower's SecAgg+ upload ÷ ours, {of}: bytes", size, ">=", 4, sum(map(len, sent)) / body.nbytes,
            f"the vectors are as 4 to 1; shares, commitments and signature add {len(uploads[0].head):,} bytes to ours"),
        Row("Flower's SecAgg+ messages to a client in a round ÷ ours, nobody lost", 4 / 2, ">=", 2),
        Row("Flower's SecAgg+ messages to a client in a round ÷ ours, somebody lost", 4 / 3, ">=", 4 / 3),
    ]  # fmt: skip
