"""No learning in common: the arm against which every other method is measured.

Departments take part in the same rounds through the same code and contribute their weight and losses, but no change of
any tensor.  What a department is worth alone comes from the models it trains for itself in any case (its local twin and
its baselines), so under this method there is nothing to choose between.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from commonroot.common.charter import Draft
from commonroot.common.manifest import Term
from commonroot.strategies.averaging import AveragedBackbone, participation, participation_terms
from commonroot.strategies.base import LocalResult, Phase, Sums, Tensors


class Local(AveragedBackbone):
    """Each department for itself.

    Guarantees
    ----------
    * nothing trained is in any term, so nothing learned leaves
    * the state never changes
    """

    name: ClassVar[str] = "local"

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
