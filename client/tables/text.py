"""Free text: a hashed vector of weighted word runs for a row of numbers, or hashed ids for a sequence of tokens.

Hashing needs no shared vocabulary: a word has the same place in every department.  Weinberger and others, 2009,
"Feature hashing for large scale multitask learning"; weights are (1 + ln tf) · (ln((1 + n) / (1 + df)) + 1), document
frequencies counted per place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.checkpoint_tokens import CheckpointTokens
from commonroot.client.tables.part import Arrays, Picked

#: Width of a hashed vector where nothing else decides it.
WIDTH: Final = 1024
#: Length of every hashed vector that is not empty, so that its squares add up as those of standardised columns would.
LENGTH: Final = 8.0
#: Words beyond this many of one text are left out.
WORDS: Final = 20_000
_WORD: Final = r"\w+"
#: An item of a text: what Python's ``str.split`` finds.
ITEM: Final = r"[^\s\x1c-\x1f]+"
_CACHED: Final = 500_000
_cache: dict[str, int] = {}


def hashes(terms: pl.Series) -> NDArray[np.uint64]:
    """(n,) eight bytes of BLAKE2b of each term as whole numbers, as ``common.schema.bucket_of`` takes them."""
    unique = terms.unique()
    known = []
    if len(_cache) > _CACHED:
        _cache.clear()
    for term in unique.to_list():
        value = _cache.get(term)
        if value is None:
            value = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
            _cache[term] = value
        known.append(value)
    return terms.replace_strict(unique, pl.Series(known, dtype=pl.UInt64), return_dtype=pl.UInt64).to_numpy()


def _words(series: pl.Series) -> pl.DataFrame:
    """(row, term) of every word, in order."""
    frame = pl.DataFrame({"row": np.arange(len(series), dtype=np.int64), "term": series})
    if isinstance(series.dtype, pl.List):
        split = pl.col("term").cast(pl.List(pl.String)).list.head(WORDS)
    else:
        split = pl.col("term").str.to_lowercase().str.extract_all(_WORD).list.head(WORDS)
    return frame.select("row", split).explode("term").drop_nulls("term")


def terms(series: pl.Series, *, ngrams: int, chars: int) -> pl.DataFrame:
    """(row, term) of every word, run of words and run of letters."""
    words = _words(series)
    out = [words]
    for run in range(2, ngrams + 1):
        joined = pl.concat_str([pl.col("term").shift(-at) for at in range(run)], separator=" ")
        whole = pl.col("row") == pl.col("row").shift(-(run - 1))
        out.append(words.select("row", joined.alias("term"), whole.alias("whole")).filter("whole").drop("whole"))
    if chars:
        padded = words.select("row", ("<" + pl.col("term") + ">").alias("term")).with_columns(
            pl.col("term").str.len_chars().alias("length")
        )
        longest = padded["length"].max()
        for at in range(max(0, (longest if isinstance(longest, int) else 0) - chars + 1)):
            part = padded.filter(pl.col("length") >= at + chars)
            out.append(part.select("row", ("#" + pl.col("term").str.slice(at, chars)).alias("term")))
    return pl.concat(out)


def _counted(series: pl.Series, *, width: int, ngrams: int, chars: int) -> pl.DataFrame:
    """(row, place, sign, count) of every place that a text touches."""
    found = terms(series, ngrams=ngrams, chars=chars)
    hashed = hashes(found["term"])
    place = (hashed % np.uint64(width)).astype(np.int64)
    sign = np.where(hashed >> np.uint64(63), -1.0, 1.0)
    keyed = pl.DataFrame({"row": found["row"], "place": place, "sign": sign})
    return keyed.group_by("row", "place").agg(pl.col("sign").sum().alias("sum"), pl.len().alias("count"))


@dataclass(frozen=True, slots=True)
class Text:
    """A text column as a vector of ``width`` hashed places.

    weights  (width,) float32 of the places
    """

    kind: ClassVar[str] = "text"

    column: str
    ngrams: int
    chars: int
    weights: NDArray[np.float32] = field(repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.column} #{at}" for at in range(len(self.weights)))

    def kinds(self) -> dict[str, str]:
        return {self.column: "text"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        series = frame[self.column]
        out = np.zeros((len(series), len(self.weights)), dtype=np.float32)
        counted = _counted(series, width=len(self.weights), ngrams=self.ngrams, chars=self.chars)
        place = counted["place"].to_numpy()
        times = counted["sum"].to_numpy()
        strength = np.sign(times) * (1.0 + np.log(np.maximum(np.abs(times), 1.0)))
        out[counted["row"].to_numpy(), place] = strength * self.weights[place]
        length = np.sqrt(np.einsum("ij,ij->i", out, out))
        out *= (LENGTH / np.where(length > 0, length, 1.0))[:, None]
        return out

    def to_json(self) -> dict[str, Any]:
        return {"column": self.column, "ngrams": self.ngrams, "chars": self.chars}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        return cls(str(record["column"]), int(record["ngrams"]), int(record["chars"]), arrays["weights"])


class TextFitter:
    """Document frequencies of hashed places.

    shared  statistics of all departments' rows, whose document frequencies go before the department's own
    """

    def __init__(
        self, column: str, *, width: int, ngrams: int, chars: int, shared: SharedStatistics | None = None
    ) -> None:
        self._column, self._ngrams, self._chars, self._shared = column, ngrams, chars, shared
        self._frequencies = np.zeros(width, dtype=np.int64)
        self._rows = 0

    def add(self, frame: pl.DataFrame | Picked) -> None:
        series, width = frame[self._column], len(self._frequencies)
        self._rows += len(series)
        counted = _counted(series, width=width, ngrams=self._ngrams, chars=self._chars)
        self._frequencies += np.bincount(counted["place"].to_numpy(), minlength=width)

    def faults(self) -> list[tuple[str, str, str, str]]:
        if self._frequencies.any() or self._shared is not None:
            return []
        return [(self._column, "no word at all", "text", "leave the column out of `features`")]

    def notes(self) -> list[str]:
        return []

    def done(self) -> Text:
        if self._shared is not None:
            weights = self._shared.idf(self._column)
        else:
            weights = np.log((1 + self._rows) / (1 + self._frequencies)) + 1.0
        return Text(self._column, self._ngrams, self._chars, weights.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A column as ids: 0 is padding, id = 1 + hash mod (vocabulary - 1).

    split   ``words`` of free text, or ``items`` of a list (or between blanks), each of which keeps its place
    ngrams  words: ids of longer runs follow those of the words
    """

    kind: ClassVar[str] = "tokens"

    column: str
    length: int
    vocabulary: int
    split: str
    ngrams: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.column} tokens",)

    def kinds(self) -> dict[str, str]:
        return {self.column: "tokens" if self.split == "items" else "text"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.int32]:
        series = frame[self.column]
        out = np.zeros((len(series), self.length), dtype=np.int32)
        if self.split == "items" and isinstance(series.dtype, pl.String):
            series = series.str.extract_all(ITEM)
        if self.split == "items":
            frame = pl.DataFrame({"row": np.arange(len(series)), "term": series.cast(pl.List(pl.String))})
            # an empty item keeps its place
            found = frame.explode("term").with_columns(pl.col("term").fill_null(""))
        else:
            found = terms(series, ngrams=self.ngrams, chars=0).sort("row", maintain_order=True)
        rows = found["row"].to_numpy()
        starts = np.searchsorted(rows, np.arange(len(series)))
        place = np.arange(len(rows)) - starts[rows]
        ids = (hashes(found["term"]) % np.uint64(self.vocabulary - 1)).astype(np.int32) + 1
        if self.split == "items":
            ids[(found["term"] == "").to_numpy()] = 0
        kept = place < self.length
        out[rows[kept], place[kept]] = ids[kept]
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "length": self.length,
            "vocabulary": self.vocabulary,
            "split": self.split,
            "ngrams": self.ngrams,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        length, vocabulary = int(record["length"]), int(record["vocabulary"])
        return cls(str(record["column"]), length, vocabulary, str(record["split"]), int(record["ngrams"]))


class TokensFitter:
    """Nothing to learn: hashing is the same everywhere."""

    def __init__(self, tokens: Tokens | CheckpointTokens) -> None:
        self._tokens = tokens
        self._some = False

    def add(self, frame: pl.DataFrame | Picked) -> None:
        series = frame[self._tokens.column]
        self._some |= bool(series.null_count() < len(series))

    def faults(self) -> list[tuple[str, str, str, str]]:
        found = (self._tokens.column, "no text at all", "text", "leave the column out of `features`")
        return [] if self._some else [found]

    def notes(self) -> list[str]:
        return []

    def done(self) -> Tokens | CheckpointTokens:
        return self._tokens
