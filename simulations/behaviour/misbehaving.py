"""Departments that misbehave: a program that trains as it should, and then puts something else into the codec.

What is put there passes through everything that meets an honest contribution: values are clipped, and what cannot be
encoded becomes zeros.  Only the learner is wrapped; session, codec and sum are those of deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from commonroot.client.contribution import Local, Tensors, Trained
from commonroot.common.charter import Charter
from commonroot.simulations.behaviour.base import Timed
from commonroot.simulations.behaviour.dice import Dice

Terms = Mapping[str, NDArray[np.floating]]
Kept = Mapping[str, NDArray[np.generic]]
#: Where what a misbehaving department remembers is kept, among its private state.
_OWN: Final = "behaviour/"


class Misbehaviour(Timed):
    """Something that a department does to its contributions."""

    #: Does it train on labels that are not the rows' own?
    flips: ClassVar[bool] = False

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.departments is None and self.count is None and self.fraction is None:
            raise ValueError("say who misbehaves: departments, count or fraction")
        return self

    @property
    def word(self) -> str:
        """For a table: what it does, in a word or two."""
        return self.kind

    def spoil(self, dice: Dice, name: str, terms: Terms, version: int, kept: Kept) -> tuple[Terms, Kept]:
        """What it contributes in the place of ``terms``, and what it remembers until the next round.

        A function of its arguments: a round that is tried again must give the same contribution.
        """
        return terms, kept


@dataclass(frozen=True, slots=True)
class Act:
    """One misbehaviour of one department, with the dice of its process."""

    how: Misbehaviour
    dice: Dice


class Learns(Protocol):
    """The learning half of a department; see ``client.learner.DepartmentLearner``."""

    def check(self, charter: Charter) -> None:
        """Raise DataError or ConfigError, naming every problem, where the data does not fit the charter."""

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Carry out the strategy's plan on the department's data."""

    def finish(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> str:
        """Fine-tune, compare with training alone, choose, store; the name of the predictor's folder."""

    def rows_bytes(self, charter: Charter) -> int:
        """Bytes of the encoded rows that training under this charter holds."""


class Misbehaving:
    """A learner whose contributions are spoiled, one act after the other; its own last step is an honest one.

    flipped  the learner that trains on other labels; None where no act calls for one
    """

    def __init__(self, name: str, honest: Learns, acts: Sequence[Act], flipped: Learns | None = None) -> None:
        self._name, self._honest, self._acts, self._flipped = name, honest, acts, flipped

    def check(self, charter: Charter) -> None:
        """See ``Learns``."""
        self._honest.check(charter)

    def rows_bytes(self, charter: Charter) -> int:
        """See ``Learns``; other labels are held beside the true ones."""
        twice = 0 if self._flipped is None else self._flipped.rows_bytes(charter)
        return self._honest.rows_bytes(charter) + twice

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Train, then spoil what comes out."""
        now = [act for act in self._acts if act.how.during(version + 1)]
        flipped = self._flipped if any(act.how.flips for act in now) else None
        found = (flipped or self._honest).train(charter, received, version, _without(local))
        terms: Terms = found.terms
        remembered: dict[str, NDArray[np.generic]] = {}
        for act in now:
            own = f"{_OWN}{act.dice.key}/"
            kept: Kept = {name.removeprefix(own): a for name, a in (local or {}).items() if name.startswith(own)}
            terms, kept = act.how.spoil(act.dice, self._name, terms, version, kept)
            remembered |= {own + name: array for name, array in kept.items()}
        return replace(found, terms=terms, local={**found.local, **remembered})

    def finish(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> str:
        """See ``Learns``."""
        return self._honest.finish(charter, received, version, _without(local))


def _without(local: Local | None) -> dict[str, NDArray[Any]] | None:
    """The private state as an honest learner left it."""
    if local is None:
        return None
    return {name: array for name, array in local.items() if not name.startswith(_OWN)}


def spoiled(terms: Terms, change: Any) -> dict[str, NDArray[np.floating]]:
    """``change(name, array)`` for every tensor; scalars, which tell of rows and losses, stay as they are."""
    return {name: change(name, array) if array.ndim else array for name, array in terms.items()}
