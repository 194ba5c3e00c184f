"""Cells of any source brought to the type that their kind asks for, and a problem for every one that cannot be.

number              Float64; a gap is null or NaN
category, label     text without blanks around it, or whole numbers for a label; a gap is null
text, image         text as it is; a gap is null
datetime            text as it is, or Datetime
tokens, sequence    lists as they are

Everything is an expression over whole columns; single cells are looked at only where a column holds a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import polars as pl

from commonroot.client.tables.coded import LONGEST, Codes
from commonroot.client.tables.decimals import is_written_with_comma
from commonroot.client.tables.problems import Problem, Problems

#: Beyond this, squares of values are no longer numbers.
LARGEST: Final = 1e100

_TEXTUAL = (pl.String, pl.Categorical, pl.Enum)
#: What float() would read, blanks around it included.
_INFINITE = re.compile(r"^[+-]?inf(inity)?$", re.IGNORECASE)

#: Which row, as a spreadsheet counts, the cell at a position of this batch stands in.
RowOf = Callable[[int], int]


def clean(
    frame: pl.DataFrame,
    wanted: Mapping[str, str],
    *,
    missing: tuple[str, ...],
    file: str,
    row_of: RowOf,
    problems: Problems | None,
    codes: Codes | None = None,
) -> pl.DataFrame:
    """The wanted columns in the types of their kinds; with ``problems`` None they are taken to be sound.

    wanted  column → kind; ``label`` is a target of classes, ``value`` a target of numbers
    codes   categories, labels and dates that are text become codes as far as it allows
    """
    expressions: list[pl.Expr | pl.Series] = []
    narrowed = []
    schema = frame.schema
    for name, kind in wanted.items():
        dtype = schema[name]
        coded = None if codes is None else _as_codes(frame[name], kind, codes)
        if coded is not None:
            expressions.append(coded)
        elif kind in ("number", "value"):
            number = _as_number(name, dtype, missing)
            gaps = kind == "number" and dtype.is_numeric() and frame[name].null_count()
            expressions.append(number.fill_null(np.nan) if gaps else number)  # read many times, made so once
            if isinstance(dtype, _TEXTUAL) or not _numeric(dtype):
                narrowed.append(name)
        elif kind == "label" and dtype.is_integer():
            expressions.append(pl.col(name))  # a whole number is its own label
        elif kind in ("category", "label"):
            expressions.append(_as_label(name, dtype))
        elif kind in ("text", "image", "any"):
            expressions.append(_as_text(name, dtype))
        else:
            expressions.append(pl.col(name))
    cleaned = frame.select(expressions)
    if problems is not None:
        _check(frame, cleaned, wanted, narrowed, missing, _Place(file, row_of, problems))
    return cleaned


class _Place:
    """Where problems go, and how a cell is named."""

    def __init__(self, file: str, row_of: RowOf, problems: Problems) -> None:
        self.file, self.row_of, self.problems = file, row_of, problems

    def report(self, positions: np.ndarray, column: str, found: Callable[[int], str], expected: str, fix: str) -> None:
        """One problem for each position, of which only those that can be shown are made."""
        shown = positions[: self.problems.room]
        for at in shown:
            row = self.row_of(int(at))
            self.problems.add(
                Problem(file=self.file, row=row, column=column, found=found(int(at)), expected=expected, fix=fix)
            )
        self.problems.more(len(positions) - len(shown))


def _numeric(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or isinstance(dtype, pl.Boolean)


def _plain(dtype: pl.DataType) -> bool:
    return not (dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object))


def _as_number(name: str, dtype: pl.DataType, missing: tuple[str, ...]) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Float64):
        return column
    if _numeric(dtype):
        return column.cast(pl.Float64)
    if isinstance(dtype, _TEXTUAL):
        stripped = column.cast(pl.String).str.strip_chars()
        kept = pl.when(stripped.is_in(["", *missing])).then(None).otherwise(stripped)
        return kept.cast(pl.Float64, strict=False).alias(name)
    # dates, lists, bytes: nothing that is a number; a column of gaps, and the check says why
    return pl.when(pl.col(name).is_null()).then(None).otherwise(None).cast(pl.Float64).alias(name)


def _as_label(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if not _plain(dtype):  # a column of gaps, and the check says why
        return pl.when(column.is_null()).then(None).otherwise(None).cast(pl.String).alias(name)
    if dtype.is_float():  # 1.0 is the label 1; fractions are told apart by the check
        column = pl.when(column.is_finite()).then(column.round()).otherwise(None).cast(pl.Int64, strict=False)
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text == "").then(None).otherwise(text).alias(name)


def _as_codes(cells: pl.Series, kind: str, codes: Codes) -> pl.Series | None:
    """As codes, where that takes no change of any cell."""
    if kind not in ("category", "label", "datetime") or (kind != "label" and cells.dtype.is_integer()):
        return None
    return codes.coded(cells, bare=kind != "datetime")


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, _TEXTUAL):
        return pl.col(name).cast(pl.String)
    return pl.col(name).cast(pl.String) if _plain(dtype) else pl.col(name)


def _check(
    frame: pl.DataFrame,
    cleaned: pl.DataFrame,
    wanted: Mapping[str, str],
    narrowed: list[str],
    missing: tuple[str, ...],
    place: _Place,
) -> None:
    numbers = [name for name, kind in wanted.items() if kind in ("number", "value")]
    schema, after = frame.schema, cleaned.schema
    for name in narrowed:
        _check_narrowed(frame[name], cleaned[name], missing, place)
    doubtful = [name for name in numbers if not _bounded(cleaned[name])]
    for name in doubtful:
        ends = cleaned[name].min(), cleaned[name].max()
        if any(isinstance(end, float) and abs(end) > LARGEST for end in ends):
            values = cleaned[name].to_numpy()
            beyond = np.flatnonzero(np.abs(values) > LARGEST)
            fix = "fill the cell or drop the row"
            place.report(beyond, name, lambda at, v=values: size(float(v[at])), "a finite number", fix)  # type: ignore[misc]
    for name, kind in wanted.items():
        if kind == "value" and name in doubtful:
            gaps = cleaned[name].is_null() | cleaned[name].is_nan()
            if name in narrowed and isinstance(schema[name], _TEXTUAL):  # wrong text was told above
                gaps &= (
                    frame[name].cast(pl.String).str.strip_chars().is_in(["", *missing], nulls_equal=True)
                    | frame[name].is_null()
                )
            place.report(
                np.flatnonzero(gaps.fill_null(True).to_numpy()),
                name,
                lambda _: "an empty cell",
                "a finite number",
                "drop the row",
            )
        elif kind == "label":
            _check_labels(frame[name], cleaned[name], place)
        elif kind == "category" and not _plain(schema[name]):
            fix = "leave the column out or give it another `kind`"
            found = f"type {schema[name]}"[:60]
            place.report(np.arange(min(1, len(frame))), name, lambda _, f=found: f, "plain values", fix)  # type: ignore[misc]
        elif kind in ("text", "category") and isinstance(after[name], pl.String):  # values that are coded are short
            lengths = cleaned[name].str.len_bytes()
            longest = lengths.max()
            if isinstance(longest, int) and longest > LONGEST:
                at = np.flatnonzero((lengths.fill_null(0) > LONGEST).to_numpy())
                place.report(
                    at,
                    name,
                    lambda _: f"a cell of more than {LONGEST} bytes",
                    "a shorter one",
                    "look for an open quote",
                )


def _bounded(column: pl.Series) -> bool:
    """Is every value a number that can be used?  The sum of all squares knows, and is found in one pass."""
    if column.null_count():
        return False
    squares = 0.0
    for chunk in column.get_chunks():
        values = chunk.to_numpy()
        squares += float(np.einsum("i,i->", values, values))
    return squares <= LARGEST**2


def _check_narrowed(raw: pl.Series, cleaned: pl.Series, missing: tuple[str, ...], place: _Place) -> None:
    """Cells that held something and are no number."""
    if not isinstance(raw.dtype, _TEXTUAL):
        if len(raw) > raw.null_count():
            first = np.flatnonzero(raw.is_not_null().to_numpy())[:1]
            fix = "leave the column out or give it another `kind`"
            place.report(first, raw.name, lambda _: f"type {raw.dtype}"[:60], "numbers", fix)
        return
    text = raw.cast(pl.String).str.strip_chars()
    wrong = (text.is_not_null() & cleaned.is_null() & ~text.is_in(["", *missing])).fill_null(False)
    if wrong.any():
        at = np.flatnonzero(wrong.to_numpy())
        fix = 'fill the cell, drop the row, or give the column another `kind`, such as "category"'
        if is_written_with_comma(str(text[int(at[0])])):
            fix = 'say `decimal = ","` for a CSV whose numbers are written with decimal commas, or write points'
        place.report(at, raw.name, lambda at: kind_of(str(text[at])), "a finite number", fix)


def _check_labels(raw: pl.Series, cleaned: pl.Series, place: _Place) -> None:
    fractions = np.array([], dtype=int)
    if raw.dtype.is_float():
        values = raw.fill_null(np.nan).to_numpy()
        fractions = np.flatnonzero(np.isinf(values) | (np.isfinite(values) & (values != np.round(values))))
        fix = "store labels as text or whole numbers"
        place.report(fractions, raw.name, lambda _: "a fraction", "a whole number as label", fix)
    elif not _plain(raw.dtype):
        fix = "store one label per row, as text or whole numbers"
        found = "a list" if raw.dtype.is_nested() else "bytes"
        place.report(np.arange(min(1, len(raw))), raw.name, lambda _: found, "a label", fix)
        return
    if not cleaned.null_count():
        return
    gaps = np.setdiff1d(np.flatnonzero(cleaned.is_null().to_numpy()), fractions)
    place.report(gaps, raw.name, lambda _: "an empty cell", "a label", "drop the row")


def kind_of(text: str) -> str:
    """What a cell that is no finite number is, without showing it."""
    stripped = text.strip()
    if not stripped:
        return "an empty cell"
    if _INFINITE.match(stripped):
        return "infinity"
    return "text"


def size(value: float) -> str:
    """What a number that cannot be used is, without showing it."""
    if np.isnan(value):
        return "not a number (NaN)"
    return "infinity" if np.isinf(value) else f"a number beyond ±{LARGEST:g}"
