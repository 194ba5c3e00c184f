"""What every fitted feature can do, and what fits one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
#: Standardised values are clipped to ±this, so that a column that hardly varied in training cannot explode later.
STANDARD_LIMIT: Final = 5.0


class Part(Protocol):
    """A fitted feature: some columns of a table to numbers.  Instances are frozen."""

    kind: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns it reads."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its encoded columns, or of its channels."""

    def kinds(self) -> dict[str, str]:
        """Kind of each raw column, for whoever reads the next table."""

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[Any]:
        """Cleaned rows to (n, names), or to the shape of a sequence, an image or tokens.

        folder  what paths in the cells are relative to
        """

    def to_json(self) -> dict[str, Any]:
        """All of it that is no array; the inverse of ``from_json``."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it that is arrays."""

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        """The inverse of ``to_json`` and ``arrays``.  Raises KeyError, TypeError or ValueError for anything else."""


class Fitter(Protocol):
    """Sees the training rows once, in batches."""

    def add(self, frame: pl.DataFrame) -> None:
        """A batch of cleaned training rows."""

    def faults(self) -> list[tuple[str, str, str, str]]:
        """(column, found, expected, fix) of what the training rows lack."""

    def notes(self) -> list[str]:
        """What is worth knowing."""

    def done(self) -> Part:
        """The fitted feature."""


def matrix(frame: pl.DataFrame, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """(n, columns) float64 in row order, NaN for a gap."""
    if not len(frame):
        return np.empty((0, len(columns)))
    return np.ascontiguousarray(frame.select(columns).to_numpy(), dtype=np.float64)
