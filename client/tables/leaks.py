"""Features that are the target under another name: a copy, a renaming of its labels, a change of its unit.

A model that reads one learns nothing else, looks perfect here, and fails on rows whose target nobody knows yet.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: Rows of the sample that is compared; taken evenly from the training rows.
SAMPLE: Final = 20_000
#: Rows that mostly tell a column of many values.
FIRST: Final = 200
#: Fewer rows than this prove nothing.
_FEWEST: Final = 15
#: A column that says the label in all but this share of rows counts as a copy.
_NEARLY: Final = 0.001
#: Correlation beyond which a column of numbers is the target in another unit.
_SAME: Final = 1 - 1e-9


def find_leaks(
    frame: pl.DataFrame, features: list[str], y: NDArray[np.float64] | NDArray[np.int64], *, labels: bool
) -> list[str]:
    """Names of the features that are copies of the target, among plain columns of the training rows.

    y  (n,) label positions or values
    """
    if len(frame) < _FEWEST:
        return []
    schema = frame.schema
    plain = [name for name in features if not schema[name].is_nested()]
    numbers = [name for name in plain if schema[name].is_numeric()]
    found = _as_labels(frame, plain, y) if labels else _as_values(frame, numbers, y)
    return [name for name in features if name in found]


def could_be_labels(first: pl.DataFrame, names: list[str], y: NDArray[np.float64] | NDArray[np.int64]) -> list[str]:
    """The columns that have no more different values in the first rows than a copy of the target may have in all.

    y  (n,) labels of all rows
    """
    most = len(np.unique(y)) + 2
    schema = first.schema
    numbers = [name for name in names if schema[name].is_float()]
    few = {name for name in names if not schema[name].is_nested() and not schema[name].is_float()}
    if numbers:
        values = np.stack([first[name].to_numpy() for name in numbers]).astype(np.float64)
        values.sort(axis=1)
        other = (values[:, 1:] != values[:, :-1]) & ~(np.isnan(values[:, 1:]) & np.isnan(values[:, :-1]))
        few.update(name for name, steps in zip(numbers, other.sum(axis=1).tolist(), strict=True) if steps < most)
    return [name for name in names if name in few]


def _as_labels(frame: pl.DataFrame, plain: list[str], y: NDArray[np.int64] | NDArray[np.float64]) -> set[str]:
    target = pl.Series("", y)
    labels = target.n_unique()
    if labels < 2 or not plain:
        return set()
    plain = could_be_labels(frame.head(FIRST), plain, y)
    if not plain:
        return set()
    counts = frame.select(pl.col(plain).n_unique()).row(0)
    found = set()
    for name, distinct in zip(plain, counts, strict=True):
        if not labels <= distinct <= labels + 2:  # a gap and a stray value may come on top
            continue
        pairs = pl.DataFrame({"f": frame[name], "y": target}).group_by("f", "y").len()
        right = pairs.group_by("f").agg(pl.col("len").max())["len"].sum()
        back = pairs.group_by("y").agg(pl.col("len").max())["len"].sum()
        if min(right, back) >= len(frame) * (1 - _NEARLY):
            found.add(name)
    return found


def _as_values(frame: pl.DataFrame, numbers: list[str], y: NDArray[np.int64] | NDArray[np.float64]) -> set[str]:
    """Correlated to the last digits, or equal in nearly every row."""
    if not numbers or np.unique(y[:1000]).size < 5:
        return set()
    x = np.asarray(frame.select(numbers).to_numpy(), dtype=np.float64)
    x = np.where(np.isfinite(x), x, np.nan)
    known = ~np.isnan(x)
    means = np.where(known, x, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, x - means, 0.0)
    target = y - y.mean()
    power = np.sqrt(np.square(centred).sum(axis=0) * np.square(target).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.abs(target @ centred) / power > _SAME
    equal = (np.abs(x - y[:, None]) <= 1e-12 * np.maximum(np.abs(y), 1)[:, None]).mean(axis=0) >= 1 - _NEARLY
    return {name for name, same in zip(numbers, alike | equal, strict=True) if same}
