"""What a column means, from a look at it."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

import polars as pl

from commonroot.client.tables.config import Kind
from commonroot.client.tables.dates import find_format
from commonroot.client.tables.image_source import ENDINGS
from commonroot.common.backbone.inputs import ImageInput, Input


def kind_of_column(series: pl.Series, *, missing: tuple[str, ...], goal: Input | None = None) -> Kind:
    """The kind that a column most likely has.

    goal  what the backbone takes, where an array could be an image or a sequence
    """
    dtype = series.dtype
    if dtype.is_numeric() or isinstance(dtype, pl.Boolean):
        return "number"
    if dtype.is_temporal():
        return "datetime"
    if isinstance(dtype, pl.Array) and (isinstance(goal, ImageInput) or len(dtype.shape) == 3):
        return "image"
    if isinstance(dtype, pl.List | pl.Array):
        return "tokens" if isinstance(dtype.inner, pl.String | pl.Categorical) else "sequence"
    if not isinstance(dtype, pl.String):
        return "category"
    return _kind_of_text(series.str.strip_chars(), missing)


def surely_numbers(look: pl.DataFrame, missing: tuple[str, ...]) -> set[str]:
    """Columns of text of which half the cells are numbers as they stand, all found at once; ``kind_of_column`` would
    find the same, one by one."""
    texts = [name for name, dtype in look.schema.items() if isinstance(dtype, pl.String)]
    if not texts or not len(look) or any(_is_number(marker) for marker in missing):
        return set()
    finite = look.select(pl.col(texts).cast(pl.Float64, strict=False).is_finite().sum()).row(0)
    return {name for name, count in zip(texts, finite, strict=True) if count * 2 >= len(look)}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _kind_of_text(series: pl.Series, missing: tuple[str, ...]) -> Kind:
    texts = series.filter(series.is_not_null() & ~series.is_in(["", *missing]))
    if not len(texts):
        return "category"
    numbers = texts.cast(pl.Float64, strict=False).is_not_null().sum()
    if numbers * 2 >= len(texts):
        return "number"
    if find_format(texts, share=0.95) is not None:
        return "datetime"
    endings = [PurePosixPath(text).suffix.lower() in ENDINGS for text in texts.head(50).to_list()]
    if all(endings):
        return "image"
    words = texts.str.count_matches(r"\s+").mean()
    letters = texts.str.len_chars().mean()
    distinct = texts.n_unique() / len(texts)
    wordy = (isinstance(words, float) and words >= 3) or (isinstance(letters, float) and letters > 60)
    titled = isinstance(words, float) and words >= 1 and len(texts) > 50
    return "text" if (wordy and distinct > 0.2) or (titled and distinct > 0.5) else "category"
