"""``dirichlet``: each department's mixture of labels is drawn around the table's own.

Hsu, Qi, Brown, 2019, arXiv:1909.06335, section 3: q ~ Dirichlet(alpha p), where p are the shares of the labels in the
whole table.  Small alpha: a department knows few labels; large: all are alike.  There every department then draws as
many rows as any other, and rows may be left over; here all rows are dealt, to the mixtures that are nearest to those
drawn (``deal``).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from commonroot.simulations.worlds.by.base import Codes, Config, Random, Weights

#: A label that was drawn with a share of nothing is still held by whoever has to.
LEAST: Final = 1e-100


class Dirichlet(Config):
    """Label skew by degrees.

    alpha   concentration: 0.1 is much skew, 100 hardly any
    column  whose values count as labels; the target where not given
    bins    numbers of more different values than this are cut into so many labels of the same size
    """

    kind: Literal["dirichlet"]
    alpha: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 0.5
    column: Annotated[str, Field(min_length=1)] | None = None
    bins: Annotated[int, Field(ge=2, le=1000)] = 20

    def weights(self, counts: Codes, departments: int, random: Random) -> Weights:
        """A row for each department."""
        share = counts / counts.sum()
        # a Dirichlet is gammas over their sum; with small shapes all of them can be too small for a float, so their
        # logarithms are drawn: log G(a) = log G(a + 1) + log(U) / a
        shape = np.broadcast_to(self.alpha * share, (departments, len(share)))
        logs = np.log(random.standard_gamma(shape + 1.0)) + np.log1p(-random.random(shape.shape)) / shape
        logs -= logs.max(axis=1, keepdims=True)
        drawn = np.exp(logs)
        out: Weights = np.maximum(drawn / drawn.sum(axis=1, keepdims=True), LEAST)
        return out
