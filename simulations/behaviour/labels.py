"""``label-flip``: trains on labels that are not the rows' own, and otherwise does everything as it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.client.learner import DepartmentLearner
from commonroot.client.tables.rows import Prepared, Rows
from commonroot.common.charter import Charter
from commonroot.simulations.behaviour.misbehaving import Misbehaviour

#: Targets with more values than this are amounts and no labels.
_MOST_LABELS: Final = 1000


class LabelFlip(Misbehaviour):
    """Labels take each other's places: every label becomes the next one; amounts change places among the rows."""

    kind: Literal["label-flip"]
    flips: ClassVar[bool] = True

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"training is on permuted labels{self.when}: {whom}"


class FlippedLearner(DepartmentLearner):
    """A learner whose rows to train and validate on have other labels than they had."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"memory": None}))  # what it finds is of other labels
        self._flipped: dict[bytes, Prepared] = {}

    def _rows(self, charter: Charter) -> Prepared:
        if charter.digest not in self._flipped:
            found = super()._rows(charter)
            seed = self._seed(charter)
            train = Rows(found.train.x, permuted(found.train.y, seed))
            validation = Rows(found.validation.x, permuted(found.validation.y, seed))
            self._flipped[charter.digest] = replace(found, train=train, validation=validation)
        return self._flipped[charter.digest]


def permuted(y: NDArray[Any], seed: int) -> NDArray[Any]:
    """The same targets in other places.

    y  first axis rows.  Whole numbers of one dimension are labels: each value becomes the next larger one, and the
       largest the smallest.  Anything else is shuffled among the rows, by the seed.
    """
    values = np.unique(y) if y.ndim == 1 else np.empty(0)
    if 0 < len(values) <= _MOST_LABELS and np.array_equal(values, np.floor(values)):
        found: NDArray[Any] = values[(np.searchsorted(values, y) + 1) % len(values)]
        return found
    shuffled: NDArray[Any] = y[np.random.default_rng(seed).permutation(len(y))]
    return shuffled
