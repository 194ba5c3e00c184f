"""Two groups of departments, found from two sums.

    μ_k        a signature of department k's rows: bounded, of d numbers, in steps of 1/256
    terms      μ_k,  μ_k μ_kᵀ,  1                               summed once, from version 0 to version 1
    m = Σμ/n,  C = Σμμᵀ/n - m mᵀ,  v = leading eigenvector of C
    side_k     first where v·(μ_k - m) ≤ 0, second otherwise    known to department k alone

One principal direction splits two groups that differ more between than within (Ding, He, 2004, "K-means clustering via
principal component analysis"): the continuous solution of 2-means is the sign along it.  Where C's leading eigenvalue
is less than ``separation`` times the next one there is nothing to split: v is zero, everybody is on the first side.

Signatures are in steps, so every product is a whole number of 2^-16 and the sums are exact: v is, bit for bit, what
the same arithmetic on all departments' signatures side by side would give.

What the two sums tell: M Mᵀ and M·1 for the d × n matrix M of signatures, that is M up to rotations of its columns that
keep their sum.  They name nobody, but whoever knows some departments' signatures learns about the rest, and with three
departments they say about as much as the signatures.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.strategies.base import Sums, Tensors

Doubles = NDArray[np.float64]
SUM: Final = "signature/sum"
SQUARE: Final = "signature/square"
COUNT: Final = "signature/count"
#: 0 before the sums, 1 once the direction is known, 2 once members are counted.
STAGE: Final = "split/stage"
DIRECTION: Final = "split/direction"
CENTRE: Final = "split/centre"
#: Departments on the first and on the second side.
MEMBERS: Final = "split/members"
STEPS: Final = 256
_NEAR: Final = 1e-5
#: A variance of signatures below this is rounding.
_LEAST: Final = 1e-9


def split_shapes(width: int) -> Shapes:
    """What is broadcast: stage, direction (width,), centre (width,), members (2,)."""
    return ((STAGE, ()), (DIRECTION, (width,)), (CENTRE, (width,)), (MEMBERS, (2,)))


def signature_terms(width: int) -> tuple[Term, ...]:
    """The sum (width,), the upper triangle of the products, and 1."""
    return (
        Term(SUM, (width,), "fixed64", 1.0),
        Term(SQUARE, (width * (width + 1) // 2,), "fixed64", 1.0),
        Term(COUNT, (), "fixed64", 1.0),
    )


def stepped(signature: NDArray[np.floating]) -> Doubles:
    """Clipped to [-1, 1] and rounded to multiples of 1/256."""
    return np.round(np.clip(np.asarray(signature, dtype=np.float64), -1.0, 1.0) * STEPS) / STEPS


def contribution(signature: Doubles | None, width: int) -> dict[str, NDArray[np.floating]]:
    """One department's terms; zeros without a signature."""
    if signature is None:
        return {term.name: np.zeros(term.shape) for term in signature_terms(width)}
    mean = stepped(signature)
    return {SUM: mean, SQUARE: np.outer(mean, mean)[np.triu_indices(width)], COUNT: np.ones(())}


def nothing_known(width: int) -> dict[str, NDArray[np.float32]]:
    """The state before any sum."""
    return {name: np.zeros(shape, dtype=np.float32) for name, shape in split_shapes(width)}


def agreed(sums: Sums, width: int, separation: float) -> dict[str, NDArray[np.float32]]:
    """Direction and centre from the two sums.  Raises SumRejected where no signatures add up to them."""
    count = float(sums[COUNT])
    products = np.zeros((width, width))
    products[np.triu_indices(width)] = np.asarray(sums[SQUARE], dtype=np.float64)
    products += np.triu(products, 1).T
    mean = np.asarray(sums[SUM], dtype=np.float64) / count
    covariance = products / count - np.outer(mean, mean)
    spread, directions = np.linalg.eigh(covariance)
    if abs(count - round(count)) > 1e-6 or np.abs(mean).max() > 1 + 1e-6 or spread[0] < -1e-6 * width:
        raise SumRejected("the opened sums of signatures are not those of any departments' signatures")
    direction = directions[:, -1]
    direction = direction * (np.sign(direction[np.abs(direction).argmax()]) or 1.0)
    if spread[-1] <= _LEAST or spread[-1] < separation * spread[-2]:
        direction = np.zeros(width)
    return {
        STAGE: np.ones((), dtype=np.float32),
        DIRECTION: direction.astype(np.float32),
        CENTRE: mean.astype(np.float32),
        MEMBERS: np.zeros(2, dtype=np.float32),
    }


def on_second_side(state: Tensors, signature: Doubles) -> bool:
    """Whether a signature lies beyond the centre along the direction."""
    direction = np.asarray(state[DIRECTION], dtype=np.float64)
    return bool(direction @ (stepped(signature) - state[CENTRE]) > 0)


def stage_of(state: Tensors) -> int:
    """How far the split has come."""
    return int(state[STAGE])


def check_split(received: Tensors, version: int, earlier: Tensors, earlier_version: int) -> None:
    """Raise OutsideCharter for a split that no sums under this charter have given, or for another one than before.

    Signatures are summed from version 0 and members from version 1, once; what followed never changes again.  Whether
    a direction or a count is the one that the sums gave, nobody but the coordinator can know.
    """
    stage, direction = float(received[STAGE]), np.asarray(received[DIRECTION], dtype=np.float64)
    centre, members = received[CENTRE], received[MEMBERS]
    if stage not in (0.0, 1.0, 2.0) or stage > version:
        raise OutsideCharter(f"version {version} comes with a split that cannot have been made yet")
    length = float(np.linalg.norm(direction))
    if not (length == 0.0 or abs(length - 1) < _NEAR) or np.abs(centre).max() > 1 + _NEAR:
        raise OutsideCharter(f"version {version} comes with a direction or a centre that no signatures have")
    if members.min() < 0 or (members != np.round(members)).any() or (stage < 2 and members.any()):
        raise OutsideCharter(f"version {version} comes with members that nobody can have counted")
    if stage == 0 and (direction.any() or centre.any()):
        raise OutsideCharter(f"version {version} comes with a direction before signatures were summed")
    before = float(earlier[STAGE])
    if stage < before or (before == 0 < earlier_version and stage > 0) or (before == 1 < earlier_version and stage > 1):
        raise OutsideCharter(f"version {version} comes with a split that was not there when it should have been made")
    if before >= 1 and any((received[name] != earlier[name]).any() for name in (DIRECTION, CENTRE)):
        raise OutsideCharter(f"version {version} splits departments otherwise than version {earlier_version} did")
    if before >= 2 and (members != earlier[MEMBERS]).any():
        raise OutsideCharter(f"version {version} counts members otherwise than version {earlier_version} did")
