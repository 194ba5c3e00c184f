"""A mean representation that all departments agree on, as one more term of the sum.

    terms   w_k·clip(mean of z over the department's rows, ±limit)
    state   m̄ = Σ w_k mean_k / Σ w_k

It travels beside the backbone as ``consensus/mean`` with ``consensus/known``, 0 before the first sum and 1 afterwards:
version 0 pulls nobody anywhere.

A coordinator that makes m̄ up, within ± limit, can draw representations towards a point of its choice.  What comes of
that reaches it only as one more clipped change in the sum, as with any backbone it might make up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Sums, Tensors

MEAN = "consensus/mean"
KNOWN = "consensus/known"


def consensus_shapes(width: int) -> Shapes:
    """(width,) and a scalar."""
    return ((MEAN, (width,)), (KNOWN, ()))


def consensus_term(width: int, limit: float) -> Term:
    """The weighted mean representation; weights are at most 1."""
    return Term(MEAN, (width,), "fixed64", limit)


def contribution(centre: NDArray[np.float32], weight: float, limit: float) -> NDArray[np.float64]:
    """One department's term."""
    return weight * np.clip(centre.astype(np.float64), -limit, limit)


def agreed(sums: Sums, weight: float, limit: float) -> dict[str, NDArray[np.float32]]:
    """The next m̄ from the sum.  Raises SumRejected where it is no mean of vectors within the limit."""
    mean = np.asarray(sums[MEAN], dtype=np.float64) / weight
    if not np.abs(mean).max() <= limit * (1 + 1e-6):
        raise SumRejected("the opened mean representation lies outside what each part of it was clipped to")
    return {MEAN: np.clip(mean, -limit, limit).astype(np.float32), KNOWN: np.ones((), dtype=np.float32)}


def check_consensus(received: Tensors, version: int, limit: float) -> None:
    """Raise OutsideCharter for a mean that no sum can have led to."""
    mean, known = received[MEAN], float(received[KNOWN])
    if known not in (0.0, 1.0) or (version == 0 and known) or (not known and mean.any()):
        raise OutsideCharter(f"version {version} comes with a mean representation that no sum has given")
    if not np.abs(mean).max() <= np.float32(limit):
        raise OutsideCharter(f"version {version} comes with a mean representation beyond ± {limit:g}")
