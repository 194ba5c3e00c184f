"""What a partitioner is: weights of kinds of rows, weights of sizes, or a change of values; never an assignment.

Who holds which row is decided once, from everybody's weights together (``deal``), so partitioners can be composed and
their order says nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Random = np.random.Generator
Weights = NDArray[np.float64]
Codes = NDArray[np.int64]


class Config(BaseModel):
    """What every partitioner's section is."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ByKind(Protocol):
    """Says which kinds of rows a department tends to hold.

    column  whose values are the kinds; None for the target
    bins    numbers of more different values than this are cut into so many kinds of the same size
    """

    @property
    def column(self) -> str | None: ...

    @property
    def bins(self) -> int: ...

    def weights(self, counts: Codes, departments: int, random: Random) -> Weights:
        """(departments, kinds) from the rows of each kind; 0 for what a department never holds.

        Raises ConfigError where so few departments cannot hold them all.
        """


class BySize(Protocol):
    """Says how much a department holds."""

    def sizes(self, departments: int, random: Random) -> Weights:
        """(departments,) positive, relative to each other."""


class ByValues(Protocol):
    """Changes the values that a department sees.  ``owner``: (rows,) each row's department, ascending."""

    def columns(self, values: NDArray[np.float64], owner: Codes, departments: int, random: Random) -> NDArray[Any]:
        """(rows, columns) changed; a gap (NaN) stays one."""

    def images(self, values: NDArray[Any], owner: Codes, departments: int, random: Random) -> NDArray[np.float32]:
        """(rows, height, width, …) changed, within the range there was."""
