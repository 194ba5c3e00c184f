"""Target columns as arrays, or every cell of them that is not what a task needs.

A target is a polars frame of one or more columns, or a NumPy array whose first axis is rows: (n,) for one column,
(n, k) for k columns of numbers or for a list of k words per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.coded import Once, is_coded
from commonroot.client.tables.problems import Problem
from commonroot.common.errors import DataError

__all__ = ["Problem", "Target", "Where", "frame_of", "numbers", "positions", "read", "texts", "unlisted", "words"]

Target = pl.DataFrame | NDArray[Any]
#: Beyond this, squares of values are no longer numbers.
LARGEST: Final = 1e100
#: A message names this many cells of a column and counts the rest.
NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Where:
    """Whose cells these are, for messages: ``first`` is the number of the first row as the file's reader counts."""

    file: str = "the target"
    first: int = 1

    def problem(self, found: str, expected: str, fix: str, *, row: int | None = None, column: str = "") -> Problem:
        """``row`` counts from 0 within the target."""
        at = None if row is None else row + self.first
        return Problem(file=self.file, found=found, expected=expected, fix=fix, row=at, column=column or None)


def frame_of(target: Target) -> pl.DataFrame:
    """The target as a frame: columns ``target``, or ``target 1`` … of an array (n, k) of numbers."""
    if isinstance(target, pl.DataFrame):
        return target
    if target.ndim == 1:
        return pl.DataFrame({"target": _listed(target)})
    if target.ndim == 2 and target.dtype.kind in "biuf":
        return pl.DataFrame({f"target {at + 1}": target[:, at] for at in range(target.shape[1])})
    if target.ndim == 2:
        return pl.DataFrame({"target": [list(map(str, row)) for row in target.tolist()]})
    raise DataError(f"a target of shape {target.shape}; expected one or two axes")


def texts(column: pl.Series, where: Where) -> tuple[pl.Series, list[Problem]]:
    """Labels as stripped text, empty where a cell cannot be one; a problem for every empty cell and every fraction."""
    kind, name = column.dtype, column.name
    once = Once.of(column)
    if once is not None and not column.null_count():
        different = once.values.cast(pl.String)
        if ((different == different.str.strip_chars()) & (different != "")).all():
            if is_coded(kind):
                return column, []
            place = once.spread(np.arange(len(different), dtype=np.uint32), gap=0)
            return pl.Series(name, place).cat.to(pl.Enum(different)), []
    if kind.is_float():
        wrong = (column.is_null() | ~column.is_finite() | (column != column.round())).fill_null(True)
        problems = _each(wrong, where, name, "no whole number", "a label", "store labels as text or whole numbers")
        whole = pl.select(pl.when(wrong).then(0.0).otherwise(column)).to_series().cast(pl.Int64).cast(pl.String)
        return pl.select(pl.when(wrong).then(pl.lit("")).otherwise(whole)).to_series(), problems
    if not (kind == pl.String or kind.is_integer() or kind == pl.Boolean or kind in (pl.Categorical, pl.Enum)):
        found, fix = f"a column of {kind}", "store labels as text"
        empty = pl.Series(name, [""] * len(column), dtype=pl.String)
        return empty, [where.problem(found, "text or whole numbers", fix, column=name)]
    found_texts = column.cast(pl.String).fill_null("").str.strip_chars()
    return found_texts, _each(found_texts == "", where, name, "an empty cell", "a label", "drop the row")


def positions(found: pl.Series, names: Sequence[str]) -> NDArray[np.int64]:
    """Where each text stands in ``names``; -1 for one that does not."""
    once = Once.of(found)
    if once is not None:
        return once.spread(positions(once.values, names), gap=-1)
    at = found.replace_strict(list(names), list(range(len(names))), default=-1, return_dtype=pl.Int64)
    return at.to_numpy().astype(np.int64)


def numbers(columns: Sequence[pl.Series], where: Where) -> tuple[NDArray[np.float64], list[Problem]]:
    """(n, columns) float64; a problem for every cell that is no finite number of a usable size."""
    out, problems = [], []
    for column in columns:
        try:
            values = column.cast(pl.Float64, strict=column.dtype != pl.String).to_numpy()
        except pl.exceptions.PolarsError:
            found = f"a column of {column.dtype}"
            problems.append(where.problem(found, "numbers", "store numbers", column=column.name))
            values = np.zeros(len(column))
        wrong = pl.Series(~(np.abs(values) <= LARGEST))
        fix = "fill the cell or drop the row"
        problems += _each(wrong, where, column.name, "no finite number", "a finite number", fix)
        out.append(np.where(wrong.to_numpy(), 0.0, values))
    return np.stack(out, axis=1) if out else np.zeros((0, 0)), problems


def words(column: pl.Series, separator: str | None, where: Where) -> tuple[list[list[str]], list[Problem]]:
    """A list column, or text cut at ``separator`` (None: at white space), as lists of stripped, non-empty words."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return [[str(word).strip() for word in row if str(word).strip()] for row in column.fill_null([])], []
    if column.dtype != pl.String:
        found, fix = f"a column of {column.dtype}", "store text or lists of text"
        return [[] for _ in column], [where.problem(found, "text or lists of text", fix, column=column.name)]
    cut = ((text or "").split(separator) for text in column)
    return [[word.strip() for word in row if word.strip()] for row in cut], []


def unlisted(what: str, text: str) -> str:
    """How a message calls a label or tag that nobody listed, without showing it."""
    return f"a {what} of {len(text)} character(s) that is not listed"


def read(problems: Sequence[Problem]) -> None:
    """Raise DataError where training targets cannot be read."""
    if problems:
        more = f"\n  … and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        listed = "\n".join(f"  {problem}" for problem in problems[:NAMED])
        raise DataError(f"{len(problems)} problem(s) in the target:\n{listed}{more}")


def _listed(target: NDArray[Any]) -> Any:
    return target.astype(np.str_).tolist() if target.dtype.kind in "OU" else target


def _each(wrong: pl.Series, where: Where, column: str, found: str, expected: str, fix: str) -> list[Problem]:
    rows = wrong.fill_null(True).arg_true().to_list()
    return [where.problem(found, expected, fix, row=row, column=column) for row in rows]
