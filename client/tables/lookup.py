"""Rows of numbers that are a function of a code: written by looking each one up, several columns' at a time."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Tables are joined up to about this many bytes, which a core keeps at hand.
_JOINED: Final = 1 << 17
#: A whole row is looked up where at least this share of it is found there.
_SHARE: Final = 0.25


class Lookup:
    """What writes, for a stretch of rows, the row of numbers that belongs to each one's code."""

    def __init__(self, codes: NDArray[Any], table: NDArray[np.float32]) -> None:
        """``codes``: (n,) whole numbers, rows of ``table`` (codes, width)."""
        self.codes, self.table = codes, table

    def __call__(self, rows: slice, out: NDArray[np.float32]) -> None:
        at = self.codes[rows].astype(np.intp, copy=False)
        if out.flags.c_contiguous:
            self.table.take(at, axis=0, out=out, mode="clip")  # checked modes copy twice
            return
        fours, ones = self._columns
        for place, four in enumerate(fours):
            out[:, 4 * place : 4 * place + 4].view(np.complex128)[:, 0] = four.take(at)
        for place, one in enumerate(ones, start=4 * len(fours)):
            out[:, place] = one.take(at)

    @cached_property
    def _columns(self) -> tuple[list[NDArray[np.complex128]], list[NDArray[np.float32]]]:
        """The table's columns, four at a time as one number that is moved as such; then those that are left."""
        width = self.table.shape[1]
        whole = width // 4 * 4
        fours = [
            np.ascontiguousarray(self.table[:, at : at + 4]).view(np.complex128)[:, 0] for at in range(0, whole, 4)
        ]
        return fours, [np.ascontiguousarray(self.table[:, at]) for at in range(whole, width)]


def joined(lookups: Iterable[tuple[slice, Lookup]], width: int) -> tuple[Lookup | None, list[tuple[slice, Lookup]]]:
    """(one lookup of whole rows, with zeros in the columns of others; those that are not part of it).

    lookups  with the columns that each fills
    width    of a row
    """
    left = sorted(lookups, key=lambda one: len(one[1].table))
    found, covered = Lookup(np.empty(0, dtype=np.uint8), np.zeros((1, width), dtype=np.float32)), 0
    taken = 0
    for columns, one in left:
        size = len(found.table) * len(one.table)
        if size * width * 4 > _JOINED:
            break
        found = Lookup(_paired(found, one) if taken else one.codes, np.repeat(found.table, len(one.table), axis=0))
        found.table.reshape(-1, len(one.table), width)[:, :, columns] = one.table
        covered += one.table.shape[1]
        taken += 1
    return (found, left[taken:]) if covered >= _SHARE * width else (None, left)


def _paired(one: Lookup, other: Lookup) -> NDArray[Any]:
    """(n,) a code for each pair of codes."""
    wide = np.min_scalar_type(len(one.table) * len(other.table))
    codes = one.codes.astype(wide)
    codes *= wide.type(len(other.table))
    np.add(codes, other.codes, out=codes, casting="unsafe")
    return codes
