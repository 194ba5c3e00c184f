"""``labels``: each department knows so many of the labels, and never meets another.

The skew of McMahan, Moore, Ramage, Hampson, Agüera y Arcas, 2017, arXiv:1602.05629, section 3, who cut the rows sorted
by label into shards and gave each client two.  Here it is labels that are dealt, frequent ones to more departments, so
that a department has exactly so many and departments can be of one size.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.by.base import Codes, Config, Random, Weights

#: Times that departments trade a label with each other, so that labels do not come in the same company.
_TRADES: Final = 16


class Labels(Config):
    """Label skew by number.

    classes  labels that each department has
    column   whose values count as labels; the target where not given
    bins     numbers of more different values than this are cut into so many labels of the same size
    """

    kind: Literal["labels"]
    classes: Annotated[int, Field(ge=2, le=1000)] = 2
    column: Annotated[str, Field(min_length=1)] | None = None
    bins: Annotated[int, Field(ge=2, le=1000)] = 20

    def weights(self, counts: Codes, departments: int, random: Random) -> Weights:
        """1 for a label that a department has, ``classes`` of them in a row, and 0 for the others."""
        kinds = len(counts)
        if self.classes > kinds:
            raise ConfigError(f"classes: {self.classes} of {kinds} labels", hint=f"at most {kinds}")
        if self.classes * departments < kinds:
            raise ConfigError(
                f"classes: {departments} departments with {self.classes} labels each leave some of {kinds} to nobody",
                hint=f"at least {-(-kinds // departments)}",
            )
        holders = _holders(counts, departments, self.classes)
        # label by label around the table of departments: nobody is passed twice by one label
        order = random.permutation(kinds)
        slots = np.repeat(order, holders[order])
        held = random.permutation(departments)[np.arange(len(slots)) % departments]
        found = np.zeros((departments, kinds), dtype=np.bool_)
        found[held, slots] = True
        for _ in range(_TRADES * self.classes):
            _trade(found, random)
        return found.astype(np.float64)


def _holders(counts: Codes, departments: int, classes: int) -> Codes:
    """(kinds,) how many departments have each label: 1 to all of them, in proportion to its rows, ``departments`` ·
    ``classes`` together."""
    slots = departments * classes
    found: Codes = np.clip(counts * slots // counts.sum(), 1, departments)
    while (left := slots - int(found.sum())) != 0:
        # who is furthest below (or above) its share and may still change
        short = (counts / counts.sum() * slots - found) * np.sign(left)
        free = found < departments if left > 0 else found > 1
        at = np.argsort(np.where(free, -short, np.inf), kind="stable")[: min(abs(left), int(free.sum()))]
        found[at] += np.sign(left)
    return found


def _trade(held: NDArray[np.bool_], random: Random) -> None:
    """Departments in pairs: each gives the other a label that it has and the other has not, where both can."""
    order = random.permutation(len(held))
    half = len(order) // 2
    one, other = order[:half], order[half : 2 * half]
    dice = random.random((2, half, held.shape[1]))
    give = np.where(held[one] & ~held[other], dice[0], -1.0)
    take = np.where(held[other] & ~held[one], dice[1], -1.0)
    both = (give.max(axis=1, initial=-1.0) >= 0) & (take.max(axis=1, initial=-1.0) >= 0)
    one, other = one[both], other[both]
    given, taken = give[both].argmax(axis=1), take[both].argmax(axis=1)
    held[one, given], held[other, given] = False, True
    held[one, taken], held[other, taken] = True, False
