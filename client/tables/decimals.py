"""Numbers as much of Europe writes them, 1.234,5: told apart from others, and rewritten with a point."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import polars as pl

#: A decimal comma, and points only between groups of three digits that do not begin with a nought.
WRITTEN: Final = r"^[-+]?([1-9]\d{0,2}(\.\d{3})+|\d+)?(,\d*)?([eE][-+]?\d+)?$"
#: The same with a comma that tells it from a number with a decimal point; 1,234 is either.
_TELLING: Final = r"^[-+]?([1-9]\d{0,2}(\.\d{3})+|\d+)?,\d+([eE][-+]?\d+)?$"
_TELLS: Final = re.compile(_TELLING)


def is_written_with_comma(text: str) -> bool:
    """Is it a number with a decimal comma?"""
    return _TELLS.match(text.strip()) is not None


def with_points(name: str) -> pl.Expr:
    """A column of text with its numbers rewritten: 1.234,5 becomes 1234.5.

    A number with a decimal point, such as 3.5, becomes what is none, so that it is told and not read as something else.
    """
    text = pl.col(name).str.strip_chars()
    rewritten = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    pointed = text.str.contains(".", literal=True) & text.cast(pl.Float64, strict=False).is_not_null()
    other = pl.when(pointed).then(text + ".").otherwise(pl.col(name))
    return pl.when(text.str.contains(WRITTEN) & text.str.contains(r"\d")).then(rewritten).otherwise(other).alias(name)


def pointed(frame: pl.DataFrame, kinds: Mapping[str, str]) -> pl.DataFrame:
    """A table in which the columns of numbers (name → kind) that are text are rewritten."""
    numbers = [name for name, kind in kinds.items() if kind in ("number", "value")]
    return frame.with_columns(with_points(name) for name in numbers if isinstance(frame.schema[name], pl.String))


def are_written_with_commas(texts: pl.Series) -> bool:
    """Are most of a column's cells numbers, and some of them with a decimal comma that nothing else could be?"""
    texts = texts.str.strip_chars()
    known = texts.filter(texts.is_not_null() & (texts != ""))
    whole = known.str.contains(r"^[-+]?\d+$")
    commas = known.str.contains(_TELLING)
    return bool(commas.any()) and int((whole | commas).sum()) * 2 >= len(known)
