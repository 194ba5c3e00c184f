"""Item factors: the part that departments share when people rate, buy or read things from one catalogue.

Every item has a bias and a vector of ``width`` numbers.  What a user likes is another vector, and stays in the user's
department.  Factors come from solving linear systems, not from training, so float32 would be felt: a factor travels
as two float32 numbers whose sum has 48 bits (``split``, ``joined``).
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from commonroot.common.roster import Hex32

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Doubles = NDArray[np.float64]

HIGH: Final = "items/high"
LOW: Final = "items/low"
#: Factors begin within ± this; where all begin at zero no sweep would ever move one.
_START: Final = 0.1


class FactorsSpec(BaseModel):
    """A catalogue of items, each with a bias and ``width`` factors.

    items      how many there are; in the data they are the whole numbers from 1 to ``items``, unless there is
    catalogue  SHA-256 of the list of their names, which every department holds (``catalogue_digest``)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["factors"]
    items: Annotated[int, Field(ge=1, le=10_000_000)]
    width: Annotated[int, Field(ge=1, le=512)]
    catalogue: Hex32 | None = None

    @property
    def outputs(self) -> int:
        """Numbers per item: its bias and its factors."""
        return self.width + 1

    def shapes(self) -> Shapes:
        """Both parts of (bias, factors) of every item: (items, 1 + width) twice."""
        shape = (self.items, self.outputs)
        return ((HIGH, shape), (LOW, shape))

    def parameters(self) -> int:
        """Number of parameters, each of which travels in two parts."""
        return self.items * self.outputs

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Before the first round: biases of 0, factors uniform in ±0.1, the same on every machine (raw PCG64)."""
        raw = np.random.PCG64(np.random.SeedSequence([0x666163746F72, seed]))
        unit = (raw.random_raw(self.items * self.width) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        factors = np.zeros((self.items, self.outputs))
        factors[:, 1:] = ((2.0 * unit - 1.0) * _START).reshape(self.items, self.width)
        high, low = split(factors)
        return {HIGH: high, LOW: low}


def split(values: Doubles) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """float64 values as two float32 arrays whose sum differs from them by at most 2^-48 of each value."""
    high = values.astype(np.float32)
    return high, (values - high.astype(np.float64)).astype(np.float32)


def joined(high: NDArray[np.float32], low: NDArray[np.float32]) -> Doubles:
    """The inverse of ``split``."""
    return high.astype(np.float64) + low.astype(np.float64)


def triangle(width: int) -> int:
    """Different numbers in a symmetric matrix."""
    return math.comb(width + 1, 2)
