"""A department's side of the methods that train nothing: what they gather from, and what is kept of what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client import evaluated
from commonroot.client.alone_memory import Basis
from commonroot.client.columns import read_columns
from commonroot.client.data import DataConfig, Pin
from commonroot.client.ratings import Book, read_book
from commonroot.client.recommending import conclude
from commonroot.client.shared_statistics import SharedStatistics
from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.strategies import Gathering, build
from commonroot.strategies.als import ALS
from commonroot.strategies.base import Tensors


@dataclass(frozen=True, slots=True)
class Place:
    """Whose data is gathered, and where its results go.

    secret  the department's own seed under this charter
    basis   what training alone rests on
    report  where the report for the department's eyes is written
    stores  whether anything may be kept under ``root``; a mere check keeps nothing
    pin     where the split under the charter is kept, or None
    tells   whether an evaluation may count, deniably, what this department keeps
    """

    root: Path
    name: str
    data: DataConfig
    secret: int = field(repr=False)
    basis: Basis
    report: Path
    stores: bool = False
    pin: Pin | None = None
    tells: bool = True


class Gatherer(Protocol):
    """One department under one charter whose method is a gathering."""

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        """What the method gathers from.  Raises DataError or ConfigError where the data does not fit the charter."""

    def finish(self, received: Tensors, version: int) -> str:
        """Keep what came out; the name of a folder under ``predictors``, or nothing where it predicts nothing."""


class StatisticsGatherer:
    """Training rows of the charter's columns; keeps the opened statistics for later charters."""

    def __init__(self, charter: Charter, place: Place) -> None:
        self._charter, self._place = charter, place

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        return read_columns(self._place.data, self._place.root, self._charter)

    def finish(self, received: Tensors, version: int) -> str:
        SharedStatistics.received(self._charter, received).save(self._place.root, self._charter.digest.hex())
        return ""


class RatingsGatherer:
    """Training ratings; keeps the chosen recommender and writes the report."""

    def __init__(self, charter: Charter, place: Place) -> None:
        self._charter, self._place = charter, place
        self._method = build(charter)
        self._book: Book | None = None

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        book = self._read()
        rows = book.train
        users = np.asarray(len(book.users))
        return {"user": rows.user, "item": rows.item, "rating": rows.rating, "users": users}

    def finish(self, received: Tensors, version: int) -> str:
        if not isinstance(self._method, ALS):
            raise TypeError("ratings are gathered by ALS alone")
        data = self._place.data
        found, report = conclude(
            self._charter,
            self._method,
            self._read(),
            received,
            columns=(str(data.user), str(data.item), data.targets[0]),
            secret=self._place.secret,
            name=self._place.name,
        )
        folder = f"{self._charter.digest.hex()[:16]}-version-{version}"
        found.save(self._place.root / "predictors" / folder)
        evaluated.keep(self._charter, self._place.root, report["details"], secret=self._place.secret)
        atomic_write(self._place.report, json.dumps(report, indent=2).encode(), mode=0o600)
        return folder

    def _read(self) -> Book:
        if self._book is None:
            self._book = read_book(self._place.data, self._place.root, self._charter.factors)
        return self._book


class EvaluationGatherer:
    """Figures that the end of an earlier run left here; keeps what all departments' figures add up to."""

    def __init__(self, charter: Charter, place: Place) -> None:
        self._charter, self._place = charter, place

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        return evaluated.given(self._charter, self._place.root, tells=self._place.tells)

    def finish(self, received: Tensors, version: int) -> str:
        evaluated.keep_opened(self._charter, self._place.root, received)
        return ""


def _boosting(charter: Charter, place: Place) -> Gatherer:
    from commonroot.client.fitted import BoostingGatherer  # scikit-learn takes its time to load

    return BoostingGatherer(charter, place)


def _linear(charter: Charter, place: Place) -> Gatherer:
    from commonroot.client.fitted import LinearGatherer

    return LinearGatherer(charter, place)


def _words(charter: Charter, place: Place) -> Gatherer:
    from commonroot.client.shared_words import WordsGatherer

    return WordsGatherer(charter, place)


GATHERERS: Final[Mapping[str, Callable[[Charter, Place], Gatherer]]] = MappingProxyType(
    {
        "als": RatingsGatherer,
        "boosting": _boosting,
        "evaluation": EvaluationGatherer,
        "shared-linear": _linear,
        "shared-words": _words,
        "statistics": StatisticsGatherer,
    }
)


def gatherer_for(charter: Charter, place: Place) -> Gatherer:
    """The department's side of the charter's method.  Raises ConfigError where none is installed."""
    kind = GATHERERS.get(charter.method.name)
    if kind is None:
        raise ConfigError(f"no data is gathered for method {charter.method.name!r} here")
    return kind(charter, place)


def check_gathering(charter: Charter, method: Gathering, gatherer: Gatherer) -> None:
    """Raise DataError or ConfigError where a first round could not be carried out on this department's data."""
    method.gather(charter, method.initial(charter), gatherer.data(), {})


def describe_ratings(data: DataConfig, root: Path) -> dict[str, Any]:
    """Sizes of what was read, for ``department check``."""
    book = read_book(data, root, None)
    return {
        "task": data.goal_kind,
        "columns": 3,
        "train": len(book.train),
        "validation": len(book.validation),
        "test": len(book.test),
        "users": len(book.users),
        "items": len(book.items),
    }
