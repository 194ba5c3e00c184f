"""Secrets from shares some of which lie.

Every secret was committed to when its shares were dealt, so a candidate is checked, never trusted.  Usually the first
``threshold`` answers recover everything.  Where they do not, the liars are found by algebra, in polynomial time
(``errors_in_rows``), and what they did to one dealer's secrets is tried on all others at once.  With k answers, and
whatever the liars agree on, up to (k - threshold)/2 of them are left out for certain; up to k - threshold - 1 where
their errors are linearly independent, as those of liars who do not act in concert are.  What remains, such as exactly
k - threshold liars, is searched for within a fixed number of tries.

Naming is stricter than recovering.  Two liars can choose errors that cancel at 0: the secret is right, the polynomial
is not, and honest shares off it would look like lies.  Two polynomials of degree < threshold that agree at 0 agree at
threshold - 2 more points at most, so a wrong one has at most threshold - 2 honest answers on it, plus the liars'.
Where at least threshold + colluders - 1 answers lie on one polynomial it is the dealer's, and whoever is off it lied;
where fewer do, nobody is named.  "Lied" is said of the answer: a dealer that sealed a share off its own polynomial
makes its receiver look so, about this dealer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from commonroot.common.secure_sum.errors_in_rows import located_rows, suspect_rows
from commonroot.common.secure_sum.shares import Bytes2, Bytes3, interpolate

#: Subsets tried per dealer beyond those that algebra points at, and for all dealers together.
TRIES = 2_000
TRIES_TOGETHER = 2 * TRIES

Rows = tuple[int, ...]
Holds = Callable[[int, bytes], bool]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the answers yield.

    secrets   (k, 32), rows of ``failed`` dealers are void
    liars     rows of the answers that contradict the dealt polynomial, as far as that can be told
    doubtful  do some answers contradict others, and it cannot be told whose fault that is?
    failed    dealers whose secrets do not come back; more than ``colluders`` of them mean that answers lie, and then
              the rest of those in doubt is not looked into
    """

    secrets: Bytes2 = field(repr=False)
    liars: Rows
    doubtful: bool
    failed: tuple[int, ...]


def recover(
    points: Sequence[int], shares: Bytes3, dealers: Sequence[int], threshold: int, holds: Holds, *, colluders: int
) -> Recovered:
    """Recover every secret and name who lied.

    Parameters  points: of the answers, distinct, at least ``threshold``; shares: (answers, secrets, 32);
                dealers: of each secret; holds(s, secret): does this secret fit the commitment to secret s?
                colluders: the most members that lie in concert; nobody honest is named unless there are more
    """
    case = _Case(points, shares, dealers, threshold, holds)
    pending = case.settle(tuple(range(threshold)), list(case.columns))
    failed: list[int] = []
    while pending:
        rows = case.find(pending[0])
        if rows is None:
            failed.append(pending.pop(0))
            if len(failed) > colluders:
                failed, pending = failed + pending, []
        else:
            pending = case.settle(rows, pending)
    liars, doubtful = case.liars(threshold + colluders - 1)
    return Recovered(case.secrets, liars, doubtful, tuple(failed))


class _Case:
    """The answers and what was made of them so far: in ``good``, by dealer, rows whose secrets fit all commitments."""

    def __init__(
        self, points: Sequence[int], shares: Bytes3, dealers: Sequence[int], threshold: int, holds: Holds
    ) -> None:
        self.points, self.shares, self.threshold, self.holds = tuple(points), shares, threshold, holds
        self.columns: dict[int, list[int]] = {}
        for s, dealer in enumerate(dealers):
            self.columns.setdefault(dealer, []).append(s)
        self.secrets: Bytes2 = np.zeros(shares.shape[1:], dtype=np.uint8)
        self.good: dict[int, Rows] = {}
        self._tries = TRIES_TOGETHER

    def settle(self, rows: Rows, dealers: list[int]) -> list[int]:
        """Take the secrets that these rows yield wherever they fit all of a dealer's commitments; who is left over."""
        columns = [s for dealer in dealers for s in self.columns[dealer]]
        found = interpolate([self.points[row] for row in rows], self._of(rows, columns))
        left, at = [], 0
        for dealer in dealers:
            own = self.columns[dealer]
            values = found[at : at + len(own)]
            at += len(own)
            if all(self.holds(s, value.tobytes()) for s, value in zip(own, values, strict=True)):
                self.secrets[own] = values
                self.good[dealer] = rows
            else:
                left.append(dealer)
        return left

    def find(self, dealer: int) -> Rows | None:
        """``threshold`` rows whose shares fit all commitments of one dealer, or None."""
        own = self.columns[dealer]
        dealt = self.shares[:, own]
        for rows in self._candidates(dealt):
            chosen, picked = [self.points[row] for row in rows], dealt[list(rows)]
            # One secret first: most wrong subsets already fail there.
            if self.holds(own[0], interpolate(chosen, picked[:, :1]).tobytes()):
                found = interpolate(chosen, picked)
                if all(self.holds(s, value.tobytes()) for s, value in zip(own, found, strict=True)):
                    return rows
        return None

    def _candidates(self, dealt: Bytes3) -> Iterator[Rows]:
        """Rows without those at fault as far as algebra goes, then whatever few can be left out."""
        rows = tuple(range(len(self.points)))
        kept = rows
        while len(kept) > self.threshold:
            points, part = [self.points[row] for row in kept], dealt[list(kept)]
            wrong = suspect_rows(points, part, self.threshold) or located_rows(points, part, self.threshold)
            kept = tuple(row for at, row in enumerate(kept) if at not in wrong)
            if not wrong or len(kept) < self.threshold:
                break
            yield kept[: self.threshold]
        yield from self._few_left_out(rows)

    def _few_left_out(self, rows: Rows) -> Iterator[Rows]:
        """Without one, without two, …: until the tries for this dealer or for all of them are used up."""
        seen: set[Rows] = set()
        left_out = (
            out for size in range(1, len(rows) - self.threshold + 1) for out in itertools.combinations(rows, size)
        )
        for out in itertools.islice(left_out, 20 * TRIES):
            if not self._tries or len(seen) >= TRIES:
                return
            candidate = tuple(itertools.islice((row for row in rows if row not in out), self.threshold))
            if candidate not in seen:
                seen.add(candidate)
                self._tries -= 1
                yield candidate

    def liars(self, agreeing: int) -> tuple[Rows, bool]:
        """Rows off a polynomial that at least ``agreeing`` answers lie on; are rows off one that fewer lie on?"""
        out: set[int] = set()
        doubtful = False
        for good in dict.fromkeys(self.good.values()):
            dealers = [dealer for dealer, rows in self.good.items() if rows == good]
            columns = [s for dealer in dealers for s in self.columns[dealer]]
            starts = np.cumsum([0, *(len(self.columns[dealer]) for dealer in dealers[:-1])])
            chosen, picked = [self.points[row] for row in good], self._of(good, columns)
            others = [row for row in range(len(self.points)) if row not in good]
            off = np.zeros((len(others), len(dealers)), dtype=bool)
            for each, row in zip(off, others, strict=True):
                wrong = (interpolate(chosen, picked, self.points[row]) != self._of((row,), columns)[0]).any(axis=1)
                np.logical_or.reduceat(wrong, starts, out=each)
            named = len(self.points) - off.sum(axis=0) >= agreeing
            out.update(row for row, each in zip(others, off, strict=True) if each[named].any())
            doubtful = doubtful or bool(off[:, ~named].any())
        return tuple(sorted(out)), doubtful

    def _of(self, rows: Rows, columns: list[int]) -> Bytes3:
        if len(columns) == self.shares.shape[1]:  # all of them, in their order or in the dealers'
            picked = self.shares[list(rows)]
            return picked if columns == list(range(len(columns))) else picked[:, columns]
        return self.shares[np.ix_(rows, columns)]
