"""Secrets from shares some of which lie.

Every secret was committed to when its shares were dealt, so a candidate is checked, never trusted.  Usually the first
``threshold`` answers recover everything.  Where they do not, the liars are found by linear algebra: the shares of one
dealer's secrets are many codewords of one Reed–Solomon code with errors in the same few rows, and rows of the parity
check that annihilate the errors show where these are (Metzner, Kapturowski, 1990: up to k - threshold - 1 liars among k
answers when their errors are linearly independent, in polynomial time).  What remains, such as exactly k - threshold
liars, or liars who agree on one error, is searched for within a fixed number of tries.

Naming is stricter than recovering.  Two liars can choose errors that cancel at 0: the secret is right, the polynomial
is not, and honest shares off it would look like lies.  Two polynomials of degree < threshold that agree at 0 agree at
threshold - 2 more points at most, so a wrong one has at most threshold - 2 honest answers on it, plus the liars'.
Where at least threshold + colluders - 1 answers lie on one polynomial it is the dealer's, and whoever is off it lied;
where fewer do, nobody is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commonroot.common.secure_sum.shares import PRODUCT, Bytes2, Bytes3, interpolate, inverse

#: Subsets tried per dealer beyond those that linear algebra points at.
TRIES = 2_000


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the answers yield.

    secrets   (k, 32), rows of ``failed`` dealers are void
    liars     rows of the answers that contradict the dealt polynomial, as far as that can be told
    failed    dealers whose secrets no subset tried recovers
    """

    secrets: Bytes2 = field(repr=False)
    liars: tuple[int, ...]
    failed: tuple[int, ...]


def recover(
    points: Sequence[int],
    shares: Bytes3,
    dealers: Sequence[int],
    threshold: int,
    holds: Callable[[int, bytes], bool],
    *,
    colluders: int,
) -> Recovered:
    """Recover every secret and name who lied.

    Parameters  points: of the answers, distinct, at least ``threshold``; shares: (answers, secrets, 32);
                dealers: of each secret; holds(s, secret): does this secret fit the commitment to secret s?
                colluders: the most members that lie in concert; nobody honest is named unless there are more
    """
    columns = {d: [s for s, dealer in enumerate(dealers) if dealer == d] for d in dict.fromkeys(dealers)}
    first = tuple(range(threshold))
    secrets = interpolate(points[:threshold], shares[:threshold])
    liars: set[int] = set()
    failed: list[int] = []
    last_good = first
    for dealer, own in columns.items():
        dealt = shares[:, own]
        good: tuple[int, ...] | None = first
        if not all(holds(s, secrets[s].tobytes()) for s in own):
            good = _find(points, dealt, own, threshold, holds, last_good)
        if good is None:
            failed.append(dealer)
            continue
        last_good = good
        chosen = [points[at] for at in good]
        if good != first:
            secrets[own] = interpolate(chosen, dealt[list(good)])
        off = [
            row
            for row in range(len(points))
            if row not in good and not np.array_equal(interpolate(chosen, dealt[list(good)], points[row]), dealt[row])
        ]
        if len(points) - len(off) >= threshold + colluders - 1:
            liars.update(off)
    return Recovered(secrets, tuple(sorted(liars)), tuple(failed))


def _find(
    points: Sequence[int],
    dealt: Bytes3,
    own: Sequence[int],
    threshold: int,
    holds: Callable[[int, bytes], bool],
    hint: tuple[int, ...],
) -> tuple[int, ...] | None:
    """``threshold`` rows whose shares fit all commitments of one dealer, or None."""
    for rows in _candidates(points, dealt, threshold, hint):
        chosen, picked = [points[at] for at in rows], dealt[list(rows)]
        # One secret first: most wrong subsets already fail there.
        if holds(own[0], interpolate(chosen, picked[:, :1]).tobytes()):
            found = interpolate(chosen, picked)
            if all(holds(s, value.tobytes()) for s, value in zip(own, found, strict=True)):
                return rows
    return None


def _candidates(
    points: Sequence[int], dealt: Bytes3, threshold: int, hint: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    rows = range(len(points))
    yield hint
    suspects = suspect_rows(points, dealt, threshold)
    honest = tuple(row for row in rows if row not in suspects)
    if len(honest) >= threshold:
        yield honest[:threshold]
    leave_out = (
        tuple(row for row in rows if row not in out)[:threshold]
        for size in range(1, len(points) - threshold + 1)
        for out in itertools.combinations(rows, size)
    )
    yield from itertools.islice(dict.fromkeys(itertools.islice(leave_out, 20 * TRIES)), TRIES)


def suspect_rows(points: Sequence[int], dealt: Bytes3, threshold: int) -> frozenset[int]:
    """Rows that Metzner and Kapturowski's procedure points at; empty where it cannot tell.

    H is a parity check of the code of polynomials of degree < threshold at ``points``; H·Y holds only the errors'
    part.  Combinations of H's rows that annihilate it are, for independent errors, zero exactly in the liars' columns.
    """
    spare = len(points) - threshold
    if spare < 2:
        return frozenset()
    check = _parity_check(points, spare)
    received = dealt.reshape(len(points), -1)
    syndromes = np.zeros((spare, received.shape[1]), dtype=np.uint8)
    for column, row in enumerate(received):
        syndromes ^= PRODUCT[check[:, column, None], row[None, :]]
    rank = _eliminate(syndromes, check)
    if rank == 0 or rank == spare:
        return frozenset()
    return frozenset(np.flatnonzero(~check[rank:].any(axis=0)).tolist())


def _parity_check(points: Sequence[int], spare: int) -> NDArray[np.uint8]:
    """Rows r = 0..spare-1: v_i · x_i^r with v_i = 1 / Π_{j≠i} (x_i - x_j)."""
    rows = np.zeros((spare, len(points)), dtype=np.uint8)
    for column, x in enumerate(points):
        below = 1
        for other in points:
            if other != x:
                below = int(PRODUCT[below, x ^ other])
        value = inverse(below)
        for row in range(spare):
            rows[row, column] = value
            value = int(PRODUCT[value, x])
    return rows


def _eliminate(matrix: NDArray[np.uint8], companion: NDArray[np.uint8]) -> int:
    """Bring ``matrix`` into echelon form, in place, doing the same to ``companion``; return the rank."""
    rank = 0
    while rank < matrix.shape[0]:
        columns = np.flatnonzero(matrix[rank:].any(axis=0))
        if not columns.size:
            break
        column = int(columns[0])
        pivot = rank + int(np.flatnonzero(matrix[rank:, column])[0])
        for both in (matrix, companion):
            both[[rank, pivot]] = both[[pivot, rank]]
        scale = inverse(int(matrix[rank, column]))
        for row in range(rank + 1, matrix.shape[0]):
            times = int(PRODUCT[scale, matrix[row, column]])
            if times:
                for both in (matrix, companion):
                    both[row] ^= PRODUCT[times][both[rank]]
        rank += 1
    return rank
