"""What the writers share: files of learning and test rows, their ``[data]`` section, and seeded splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.simulations.datasets.world import Section


def write_npz(path: Path, x: NDArray[Any], y: NDArray[Any], *, names: Sequence[str] | None = None) -> None:
    """Rows ``X`` with their target ``y`` and, where given, column names."""
    named: dict[str, Any] = {} if names is None else {"names": np.array(names, dtype=np.str_)}
    np.savez(path, X=x, y=y, **named)


def section(target: Path, name: str, *, target_column: str, suffix: str = ".npz", **fields: Any) -> Section:
    """The ``[data]`` section of a department whose files are ``NAME-learn`` and ``NAME-test``."""
    paths = {"path": str((target / f"{name}-learn{suffix}").resolve())}
    paths["test_path"] = str((target / f"{name}-test{suffix}").resolve())
    return {**paths, "target": target_column, **fields}


def stratified(
    y: NDArray[Any], *, seed: int, share: float | None = None, per_class: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of learning and test rows, ascending, with the shares of labels kept.

    share      of each label's rows that test
    per_class  or: rows of each label that learn; all others test
    """
    random = np.random.default_rng([0x646174617365, seed])
    learn: list[NDArray[np.int64]] = []
    test: list[NDArray[np.int64]] = []
    for label in np.unique(y):
        at = random.permutation(np.flatnonzero(y == label))
        cut = len(at) - round((share or 0.0) * len(at)) if per_class is None else min(per_class, len(at) - 1)
        learn.append(at[:cut])
        test.append(at[cut:])
    return np.sort(np.concatenate(learn)), np.sort(np.concatenate(test))


def shuffled(n: int, *, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of learning and test rows of a plain random split."""
    order = np.random.default_rng([0x73687566666C, seed]).permutation(n)
    cut = n - round(share * n)
    return np.sort(order[:cut]), np.sort(order[cut:])


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """A table with its columns' types."""
    frame.write_parquet(path)
