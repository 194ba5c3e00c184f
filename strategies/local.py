"""No learning in common: the arm against which every other method is measured.

Departments take part in the same rounds through the same code and contribute their weight and losses, but no change of
any tensor.  What a department is worth alone comes from the models it trains for itself in any case (its local twin and
its baselines), so under this method there is nothing to choose between.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.common.charter import Draft
from commonroot.common.manifest import Term
from commonroot.strategies.averaging import AveragedBackbone, participation, participation_terms
from commonroot.strategies.base import LocalResult, Part, Phase, Sums, Tensors
from commonroot.strategies.families import Group


class Local(AveragedBackbone):
    """Each department for itself.

    Guarantees
    ----------
    * nothing trained is in any term, so nothing learned leaves
    * the state never changes
    """

    name: ClassVar[str] = "local"

    @model_validator(mode="after")
    def _nothing_is_averaged(self) -> Self:
        if self.server != "average" or self.server_rate is not None or self.private_norms:
            raise ValueError("nothing is averaged, so there is no step to choose and no norm to keep back")
        return self

    def groups(self, draft: Draft) -> tuple[Group, ...]:
        """The backbone, which never changes."""
        return (Group("weight", self.common(draft)),)

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """The participation scalars alone."""
        return participation_terms()

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """Nothing trains between sums."""
        return ()

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """Nothing to fit to: there is no common backbone."""
        return ()

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """One department's weight and losses."""
        return participation(draft, result)

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The state as it was."""
        return {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}


class Structure(Local):
    """Structure transfer: the charter's architecture and hyper-parameters, everywhere fresh weights.

    What ``local`` compares with, made a candidate of its own: the network of the charter, trained by each department
    alone for as many passes as the rounds of a method would take.  What a method gains over it, sharing weights gained.

    epochs  passes per round

    Guarantees
    ----------
    * nothing trained is in any term
    * every department starts from the charter's first backbone
    """

    name: ClassVar[str] = "structure"

    epochs: Annotated[int, Field(ge=1, le=1000)] = 3

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """All passes at once."""
        everything: frozenset[Part] = frozenset({"backbone", "head"})
        return (Phase(parts=everything, epochs=draft.rounds * self.epochs),)
