"""What can be tried alone, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["linear", "rbf", "trees", "constant", "bag", "window", "seasonal", "projection", "distance", "isolation"]

_NAMES: Final = {
    "linear": "regularised linear",
    "rbf": "RBF support vectors",
    "trees": "boosted trees",
    "constant": "the training rows' average",
    "bag": "regularised linear on words",
    "window": "regularised linear on neighbouring tokens",
    "seasonal": "seasonal naive",
    "projection": "principal components",
    "distance": "distance by covariance",
    "isolation": "isolation forest",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of baseline and its hyper-parameters.

    strength  linear, bag, window: C of logistic regression (1/α·10 of ridge); rbf: C; trees: learning rate;
              projection: share of variance kept; isolation: number of trees
    width     rbf: γ as a multiple of 1/(columns·variance); trees: fewest rows of a leaf; isolation: rows a tree sees
    """

    kind: Kind
    strength: float = 0.0
    width: float = 0.0

    def __str__(self) -> str:
        return _NAMES[self.kind]


#: What is tried on columns, a few steps each way from values that do well on many tables.
GRID: Final[tuple[Recipe, ...]] = (
    *(Recipe("linear", strength) for strength in (0.01, 0.1, 1.0, 10.0)),
    *(Recipe("rbf", strength, width) for strength in (1.0, 10.0) for width in (0.3, 1.0, 3.0)),
    Recipe("trees", 0.1, 5),
    Recipe("trees", 0.1, 20),
)
LINEAR: Final = tuple(recipe for recipe in GRID if recipe.kind == "linear")
TREES: Final = Recipe("trees", 0.1, 20)
