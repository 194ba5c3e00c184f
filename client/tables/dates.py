"""Dates and times: where in the year, the week and the day (as points on circles), and how far along the trend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.coded import Once
from commonroot.client.tables.numbers import Moments
from commonroot.client.tables.part import STANDARD_LIMIT, Arrays, Columns, Filler, Picked, filled, once_of

#: Ways of writing a date, the least ambiguous first.
FORMATS: Final = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%d-%m-%Y",
)
_DAY: Final = 86_400.0
_WEEK: Final = 7 * _DAY
_YEAR: Final = 365.2425 * _DAY
_CIRCLES: Final = (("year", _YEAR), ("week", _WEEK), ("day", _DAY))


def find_format(values: Sequence[str] | pl.Series, *, share: float = 1.0) -> str | None:
    """The first way of writing in which at least that share of the texts is a date."""
    texts = pl.Series("t", values, dtype=pl.String).drop_nulls()
    different = texts.value_counts(name="rows")
    texts, rows = different["t"], different["rows"]
    if not len(texts):
        return None

    def enough(which: pl.Series) -> bool:
        return int(rows.filter(which).sum()) / int(rows.sum()) >= share

    if not enough(texts.str.contains(r"^\s*[-+0-9]")):  # every form begins with a number
        return None
    for form in FORMATS:
        if enough(_parse(texts, form).is_not_null()):
            return form
    return None


def _parse(texts: pl.Series, form: str) -> pl.Series:
    return texts.str.strip_chars().str.to_datetime(form, strict=False, time_unit="us")


def to_datetime(series: pl.Series, form: str | None) -> pl.Series:
    """Datetime in microseconds, null for a gap and for what cannot be read."""
    dtype = series.dtype
    if isinstance(dtype, pl.String):
        return _parse(series, form or FORMATS[0])
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us"), strict=False)


def seconds(series: pl.Series, form: str | None) -> NDArray[np.float64]:
    """(n,) seconds since 1970, NaN for a gap."""
    once = Once.of(series)
    if once is not None:
        return once.spread(_seconds(once.values, form), gap=np.nan)
    return _seconds(series, form)


def _seconds(series: pl.Series, form: str | None) -> NDArray[np.float64]:
    whole = to_datetime(series, form).dt.epoch("us").cast(pl.Float64)
    return whole.fill_null(np.nan).to_numpy() / 1e6


@dataclass(frozen=True, slots=True)
class Date:
    """A date column: trend, then sine and cosine of each circle that matters, then a column for gaps.

    form     how it is written, where it is text
    centre   mean of the training rows, seconds since 1970
    scale    their standard deviation, seconds
    circles  of ``year``, ``week``, ``day``
    """

    kind: ClassVar[str] = "datetime"

    column: str
    form: str | None
    centre: float
    scale: float
    circles: tuple[str, ...]
    gaps: bool

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        turns = [f"{self.column} {circle} {side}" for circle in self.circles for side in ("sin", "cos")]
        return (f"{self.column} trend", *turns, *([f"{self.column} missing"] if self.gaps else []))

    def kinds(self) -> dict[str, str]:
        return {self.column: "datetime"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        return filled(self.filler(Columns(frame), folder), len(frame), len(self.names))

    def filler(self, table: Columns, folder: Path) -> Filler:
        once = table.once(self.column)
        if once is None:
            at = _seconds(table[self.column], self.form)
            return lambda rows, out: np.copyto(out, self._encoded(at[rows]))
        return once.filler(self._encoded(_seconds(once.every, self.form)), self._encoded(np.array([np.nan]))[0])

    def _encoded(self, at: NDArray[np.float64]) -> NDArray[np.float32]:
        missing = np.isnan(at)
        columns = [np.clip((at - self.centre) / self.scale, -STANDARD_LIMIT, STANDARD_LIMIT)]
        for name, period in _CIRCLES:
            if name in self.circles:
                angle = 2 * np.pi * np.mod(at, period) / period
                columns += [np.sin(angle), np.cos(angle)]
        out = np.stack(columns, axis=1).astype(np.float32)
        out[missing] = 0.0
        return np.concatenate([out, missing[:, None].astype(np.float32)], axis=1) if self.gaps else out

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "form": self.form,
            "centre": self.centre,
            "scale": self.scale,
            "circles": list(self.circles),
            "gaps": self.gaps,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        form = None if record["form"] is None else str(record["form"])
        circles = tuple(str(one) for one in record["circles"])
        centre, scale = float(record["centre"]), float(record["scale"])
        return cls(str(record["column"]), form, centre, scale, circles, bool(record["gaps"]))


class DateFitter:
    """Moments of a date column, and which circles its values go round."""

    def __init__(self, column: str, form: str | None) -> None:
        self._column, self._form = column, form
        self._moments = Moments(1)
        self._rows = 0
        self._times = self._days = False
        self._found: tuple[pl.Series, NDArray[np.float64]] | None = None

    def add(self, frame: pl.DataFrame | Picked) -> None:
        once = once_of(frame, self._column)
        if once is None:
            at = different = _seconds(frame[self._column], self._form)
        else:
            different = self._every(once.every)[once.at]
            at = once.spread(different, gap=np.nan)
        self._rows += len(at)
        self._moments.add_columns([at])
        known = different[~np.isnan(different)]
        self._times |= bool((np.mod(known, _DAY) != 0).any())
        if len(known) and not self._days:
            self._days = len(np.unique(np.mod(np.floor(known / _DAY), 7))) > 1

    def _every(self, dates: pl.Series) -> NDArray[np.float64]:
        """Of the different dates of a table, found once however many stretches of it are looked at."""
        if self._found is None or self._found[0] is not dates:
            self._found = dates, _seconds(dates, self._form)
        return self._found[1]

    def faults(self) -> list[tuple[str, str, str, str]]:
        if self._moments.count[0]:
            return []
        fix = 'say how it is written: { column = "…", kind = "datetime", format = "%d.%m.%Y" }'
        return [(self._column, "no date at all", "dates", fix)]

    def notes(self) -> list[str]:
        still = self._moments.count[0] and self._moments.spread[0] == 0
        return [f"constant in the training rows: {self._column!r}"] if still else []

    def done(self) -> Date:
        circles = ("year", *(["week"] if self._days else []), *(["day"] if self._times else []))
        spread = float(self._moments.spread[0]) or 1.0
        gaps = bool(self._moments.count[0] < self._rows)
        return Date(self._column, self._form, float(self._moments.mean[0]), spread, circles, gaps)
