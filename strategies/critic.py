"""A domain critic from sums: is a representation of a department with labels, or of one without?

    c(z) = u·z + b,    ℓ = w_k·mean over rows of [log(1 + exp c) - t_k·c],    t_k = 1 without labels, else 0

A department sees one domain alone, so a critic that it trained for a few steps by itself would only learn to say that
one.  Hence nobody trains it: every department contributes gradient and curvature of ℓ at the critic it received, on the
representation that the received backbone gives, and the sum takes one Newton step on the ℓ of everybody together.  That
is the step which all rows in one place would give.

``critic/prior`` is the log odds of the weights of both kinds: c less the prior is 0 where a representation says nothing
about which it is (King and Zeng, 2001, for the correction of the intercept).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.backbone.factors import triangle
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Sums, Tensors

WEIGHT: Final = "critic/weight"
BIAS: Final = "critic/bias"
PRIOR: Final = "critic/prior"
GRADIENT: Final = "critic/gradient"
CURVATURE: Final = "critic/curvature"
#: The critic's weights are no longer than this, nor is its bias or its prior larger.
LIMIT: Final = 100.0

Doubles = NDArray[np.float64]


def shapes(width: int) -> Shapes:
    """Weights, bias, and the log odds of the two kinds of departments."""
    return ((WEIGHT, (width,)), (BIAS, ()), (PRIOR, ()))


def terms(width: int, reach: float) -> tuple[Term, ...]:
    """Weighted gradient and the upper triangle of the weighted curvature; elements of z are clipped to ± reach."""
    most = max(1.0, reach)
    return (
        Term(GRADIENT, (width + 1,), "fixed64", most),
        Term(CURVATURE, (triangle(width + 1),), "fixed64", most**2 / 4),
    )


def contribution(
    state: Tensors, seen: NDArray[np.float32], *, labelled: bool, weight: float, reach: float
) -> dict[str, NDArray[np.floating]]:
    """One department's terms from the representation (n, width) of its rows."""
    z = np.clip(seen.astype(np.float64), -reach, reach)
    said = 1.0 / (1.0 + np.exp(-np.clip(z @ state[WEIGHT].astype(np.float64) + float(state[BIAS]), -500, 500)))
    ones = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    scale = weight / len(z)
    curvature = (ones * (said * (1.0 - said))[:, None]).T @ ones
    upper = np.triu_indices(ones.shape[1])
    return {
        GRADIENT: scale * ((said - (0.0 if labelled else 1.0)) @ ones),
        CURVATURE: scale * curvature[upper],
    }


def absent(width: int) -> dict[str, NDArray[np.floating]]:
    """The terms of who says nothing."""
    return {GRADIENT: np.zeros(width + 1), CURVATURE: np.zeros(triangle(width + 1))}


def stepped(
    state: Tensors, sums: Sums, *, weight: float, labelled: float, ridge: float
) -> dict[str, NDArray[np.float32]]:
    """The critic after one Newton step on everybody's mean loss plus a ridge on its weights.

    ridge  in multiples of the mean diagonal of the curvature

    Raises SumRejected for a curvature that no rows have.
    """
    unlabelled = weight - labelled
    if min(labelled, unlabelled) <= 1e-6:  # one kind alone: there is nothing to tell apart
        return {}
    width = len(state[WEIGHT])
    critic = np.append(state[WEIGHT].astype(np.float64), float(state[BIAS]))
    gradient = np.asarray(sums[GRADIENT], dtype=np.float64) / weight
    full = np.zeros((width + 1, width + 1))
    upper = np.triu_indices(width + 1)
    full[upper] = full.T[upper] = np.asarray(sums[CURVATURE], dtype=np.float64) / weight
    diagonal = np.diag(full)
    if not (diagonal.min() >= -1e-6 and np.isfinite(full).all() and np.isfinite(gradient).all()):
        raise SumRejected("the opened curvature of the critic is not that of any rows")
    strength = ridge * max(float(diagonal[:-1].mean()), 1e-9)
    gradient[:-1] += strength * critic[:-1]
    full[range(width), range(width)] += strength
    full[width, width] += 1e-6
    try:
        critic = critic - np.linalg.solve(full, gradient)
    except np.linalg.LinAlgError as error:
        raise SumRejected("the opened curvature of the critic has no inverse") from error
    critic *= min(1.0, LIMIT / max(float(np.linalg.norm(critic)), 1e-300))
    prior = np.clip(np.log(unlabelled / labelled), -LIMIT, LIMIT)
    made = {WEIGHT: critic[:-1], BIAS: critic[-1], PRIOR: prior}
    return {name: np.asarray(array, dtype=np.float32) for name, array in made.items()}


def check(received: Tensors, version: int) -> None:
    """Raise OutsideCharter for a critic that no sum can have led to."""
    parts = np.concatenate([np.ravel(received[name]).astype(np.float64) for name in (WEIGHT, BIAS)])
    if not (np.linalg.norm(parts) <= LIMIT * (1 + 1e-6) and abs(float(received[PRIOR])) <= LIMIT * (1 + 1e-6)):
        raise OutsideCharter(f"version {version} comes with a critic beyond the limit of {LIMIT:g}")
    if version == 0 and (parts.any() or float(received[PRIOR])):
        raise OutsideCharter("version 0 comes with a critic that no sum has given")
