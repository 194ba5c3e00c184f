"""Columns that departments describe together: what a charter says of them, and how a cell becomes a number everywhere.

    [[columns]]                       [[columns]]                        [[columns]]
    name = "age"                      name = "segment"                   name = "review"
    kind = "number"                   kind = "category"                  kind = "text"
    low = 0                           labels = ["retail", "business"]    buckets = 4096
    high = 120
    bins = 64

Bounds, labels, numbers of buckets and of bins are the charter's, never found in data: they are the resolution of what
may be learned about a column, and whoever approves the charter approves it.  Where the words of a vocabulary are not
known beforehand they are hashed into buckets, the same everywhere; a hash without a key hides no word that can be
guessed.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

#: Words are runs of letters, digits and underscores, in any alphabet.
_WORD: Final = re.compile(r"\w+")
#: ISO 8601 as machines write it: a date, and perhaps a time of day with or without a zone.
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(Z|[+-]\d\d:\d\d)?)?")


def words(text: str) -> list[str]:
    """The words of a text, lower case, in order."""
    return _WORD.findall(text.lower())


def bucket_of(word: str, buckets: int) -> int:
    """Where a word is counted: BLAKE2b of its UTF-8, 8 bytes big endian, modulo ``buckets``."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") % buckets


def seconds_of(text: str) -> float:
    """A date or time in ISO 8601, to the microsecond, as seconds since 1970-01-01 UTC; without a zone it is UTC.

    Raises ValueError for anything else.
    """
    found = _MOMENT.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected a date or time in ISO 8601")
    day, time, zone = found.groups()
    micros = int(np.datetime64(day if time is None else f"{day}T{time}", "us").astype(np.int64))
    if zone and zone != "Z":
        offset = 60 * (60 * int(zone[1:3]) + int(zone[4:6]))
        micros -= 1_000_000 * (offset if zone[0] == "+" else -offset)
    return micros / 1e6


def _moment(text: str) -> str:
    seconds_of(text)
    return text.strip()


Finite = Annotated[float, Field(allow_inf_nan=False)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
Buckets = Annotated[int, Field(ge=2, le=1 << 20)]
Moment = Annotated[str, AfterValidator(_moment)]
Bins = Annotated[int, Field(ge=1, le=1 << 16)]


class _Column(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Ranged(_Column, ABC):
    """What numbers and dates have in common: a range [start, end] cut into equal bins."""

    bins: Bins = 64

    @property
    @abstractmethod
    def start(self) -> float:
        """The least value there may be."""

    @property
    @abstractmethod
    def end(self) -> float:
        """The greatest value there may be."""

    @property
    def middle(self) -> float:
        """Sums are of distances from here."""
        return self.start + (self.end - self.start) / 2

    @property
    def unit(self) -> float:
        """The least power of two that no distance from the middle exceeds; dividing by it rounds nothing."""
        furthest = max(self.end - self.middle, self.middle - self.start)
        mantissa, exponent = math.frexp(furthest)
        return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)

    def _check_range(self) -> None:
        if not self.start < self.end or not math.isfinite(self.end - self.start):
            raise ValueError("low must be below high")


class NumberColumn(_Ranged):
    """A number in [low, high]; values beyond are refused where they lie, so that every sum has a bound."""

    name: ColumnName
    kind: Literal["number"]
    low: Finite
    high: Finite

    @property
    def start(self) -> float:
        return self.low

    @property
    def end(self) -> float:
        return self.high

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self._check_range()
        return self


class DatetimeColumn(_Ranged):
    """A point in time in [low, high], as seconds since 1970-01-01 UTC; times without a zone are UTC."""

    name: ColumnName
    kind: Literal["datetime"]
    low: Moment
    high: Moment

    @property
    def start(self) -> float:
        return seconds_of(self.low)

    @property
    def end(self) -> float:
        return seconds_of(self.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self._check_range()
        return self


class CategoryColumn(_Column):
    """One of the labels listed, anything else counting as ``other``; or, without a list, one of ``buckets``."""

    name: ColumnName
    kind: Literal["category"]
    labels: Annotated[tuple[str, ...], Field(max_length=1 << 16)] = ()
    buckets: Buckets | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.labels) == (self.buckets is not None):
            raise ValueError("a category has labels or buckets, one of the two")
        if len(set(self.labels)) != len(self.labels) or any(label != label.strip() for label in self.labels):
            raise ValueError("labels are listed once each, without blanks around them")
        return self

    @property
    def slots(self) -> int:
        """Numbers that counting takes: one for each label and one for all others, or one for each bucket."""
        return self.buckets or len(self.labels) + 1

    def slot(self, label: str) -> int:
        """Where a label is counted."""
        if self.buckets is not None:
            return bucket_of(label.strip(), self.buckets)
        try:
            return self.labels.index(label.strip())
        except ValueError:
            return len(self.labels)


class TextColumn(_Column):
    """Free text; each of its different words is counted once in its bucket."""

    name: ColumnName
    kind: Literal["text"]
    buckets: Buckets = 4096


Column = Annotated[NumberColumn | DatetimeColumn | CategoryColumn | TextColumn, Field(discriminator="kind")]
Ranged = NumberColumn | DatetimeColumn
