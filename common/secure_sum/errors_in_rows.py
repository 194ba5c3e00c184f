"""Which answers are wrong: error location in the Reed–Solomon code that shares are words of.

The shares of one dealer's secrets are many codewords, byte by byte, with errors in the same few rows.  H is a parity
check of the code of polynomials of degree < threshold at ``points``; H·Y holds only the errors' part, the syndromes.

suspect_rows   all words at once (Metzner, Kapturowski, 1990): combinations of H's rows that annihilate H·Y are, for
               linearly independent errors, zero exactly in the liars' columns.  Up to spare - 1 liars, where
               spare = answers - threshold.
located_rows   one word (Berlekamp, Massey, 1969): up to spare/2 liars, whatever their errors are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from commonroot.common.secure_sum.shares import EXP, LOG, PRODUCT, Bytes2, Bytes3, inverse

#: Words looked at before location is given up.
_WORDS = 8


def suspect_rows(points: Sequence[int], dealt: Bytes3, threshold: int) -> frozenset[int]:
    """Rows that Metzner and Kapturowski's procedure points at; empty where it cannot tell.

    Parameters  points: of the answers; dealt: (answers, secrets, 32), of one dealer; threshold: shares to a secret
    """
    spare = len(points) - threshold
    if spare < 2:
        return frozenset()
    check = _parity_check(points, spare)
    rank = _eliminate(_syndromes(check, dealt), check)
    if rank == 0 or rank == spare:
        return frozenset()
    return frozenset(np.flatnonzero(~check[rank:].any(axis=0)).tolist())


def located_rows(points: Sequence[int], dealt: Bytes3, threshold: int) -> frozenset[int]:
    """Rows in error in the first word that can be decoded; empty where there is none.  Parameters as above."""
    spare = len(points) - threshold
    if spare < 2:
        return frozenset()
    syndromes = _syndromes(_parity_check(points, spare), dealt)
    for word in np.flatnonzero(syndromes.any(axis=0))[:_WORDS].tolist():
        locator = _shortest_recurrence(syndromes[:, word].tolist())
        errors = len(locator) - 1
        rows = [at for at, x in enumerate(points) if _value(locator, inverse(x)) == 0]
        if 0 < errors <= spare // 2 and len(rows) == errors:
            return frozenset(rows)
    return frozenset()


def _parity_check(points: Sequence[int], spare: int) -> Bytes2:
    """Rows r = 0..spare-1: v_i · x_i^r with v_i = 1 / Π_{j≠i} (x_i - x_j)."""
    x = np.asarray(points, dtype=np.uint8)
    below = LOG[x[:, None] ^ x[None, :]].sum(axis=1)  # the diagonal is LOG[0] = 0: it multiplies by 1
    rows = np.empty((spare, len(points)), dtype=np.uint8)
    value = EXP[-below % 255]
    for row in rows:
        row[:] = value
        value = PRODUCT[value, x]
    return rows


def _syndromes(check: Bytes2, dealt: Bytes3) -> Bytes2:
    """H·Y: (spare, secrets · 32)."""
    received = dealt.reshape(len(dealt), -1)
    out = np.zeros((len(check), received.shape[1]), dtype=np.uint8)
    for column, row in enumerate(received):
        out ^= PRODUCT[check[:, column, None], row[None, :]]
    return out


def _shortest_recurrence(sequence: Sequence[int]) -> list[int]:
    """Λ with Λ_0 = 1 and Σ_i Λ_i · sequence[n - i] = 0 for all n ≥ L = degree: Massey's algorithm.

    For the syndromes of e ≤ spare/2 errors, Λ(z) = Π (1 - x_i·z) over the rows in error.
    """
    now, before = [1], [1]
    length, gap, last = 0, 1, 1
    for n, value in enumerate(sequence):
        discrepancy = value
        for i in range(1, min(length, len(now) - 1) + 1):
            discrepancy ^= int(PRODUCT[now[i], sequence[n - i]])
        if discrepancy == 0:
            gap += 1
            continue
        scale = int(PRODUCT[discrepancy, inverse(last)])
        longer = now + [0] * max(0, len(before) + gap - len(now))
        for i, each in enumerate(before):
            longer[i + gap] ^= int(PRODUCT[scale, each])
        if 2 * length <= n:
            before, last, gap = now, discrepancy, 1
            length = n + 1 - length
        else:
            gap += 1
        now = longer
    return (now + [0] * length)[: length + 1]


def _value(polynomial: Sequence[int], at: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = int(PRODUCT[value, at]) ^ coefficient
    return value


def _eliminate(matrix: Bytes2, companion: Bytes2) -> int:
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
