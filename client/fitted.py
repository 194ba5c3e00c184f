"""A department's side of methods that gather from prepared rows and end in a model that the guard may keep."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from commonroot.client import boosting, evaluated, linear_parts
from commonroot.client.alone import Parts
from commonroot.client.common_columns import CommonColumns
from commonroot.client.data import Prepared, prepare
from commonroot.client.finish import decide
from commonroot.client.gathering import Place
from commonroot.client.learner import summary
from commonroot.client.shared_models import Shared
from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.shared_statistics import load as load_statistics
from commonroot.common.backbone.inputs import Input
from commonroot.common.charter import Charter
from commonroot.files import atomic_write
from commonroot.strategies import Gathering, build
from commonroot.strategies.base import Tensors
from commonroot.strategies.booster import Boosting
from commonroot.strategies.linear import SharedLinear

Method = TypeVar("Method", bound=Gathering)


class FittedGatherer(ABC):
    """Prepared rows read as the charter's columns; keeps the chosen predictor and writes the report."""

    def __init__(self, charter: Charter, place: Place) -> None:
        self._charter, self._place = charter, place

    @abstractmethod
    def data(self) -> Mapping[str, NDArray[np.generic]]:
        """What the method gathers from."""

    @abstractmethod
    def _shared(self, received: Tensors) -> Shared:
        """The model with something in it that came from the others."""

    def _input(self) -> Input | None:
        """The form of rows; None where the charter lists columns."""
        return None

    def _parts(self) -> Parts | None:
        """What models are compared on; None for the usual."""
        return None

    def finish(self, received: Tensors, version: int) -> str:
        place = self._place
        found = decide(
            self._charter,
            self._rows,
            self._shared(received),
            secret=place.secret,
            basis=place.basis,
            version=version,
            epochs=0,
            refits=True,
            parts=self._parts(),
        )
        folder = f"{self._charter.digest.hex()[:16]}-version-{version}"
        found.predictor.save(place.root / "predictors" / folder)
        evaluated.keep(self._charter, place.root, found.report, secret=place.secret)
        report = summary(place.name, self._charter, found.report)
        atomic_write(place.report, json.dumps(report, indent=2).encode(), mode=0o600)
        return folder

    @cached_property
    def _statistics(self) -> SharedStatistics | None:
        named = self._charter.statistics
        return None if named is None else load_statistics(self._place.root, named)

    @cached_property
    def _rows(self) -> Prepared:
        place = self._place
        return prepare(
            place.data,
            folder=place.root,
            spec_input=self._input(),
            shared=self._statistics,
            root=place.root if place.stores else None,
            pin=place.pin,
        )

    @cached_property
    def _columns(self) -> CommonColumns:
        return CommonColumns.of(self._charter, self._rows.features, self._statistics)


class BoostingGatherer(FittedGatherer):
    """Of the method ``boosting``."""

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        boosting.check_task(self._method, self._rows.task)
        return boosting.gathered(self._method, self._columns, self._rows.train)

    def _shared(self, received: Tensors) -> Shared:
        opened = boosting.Booster(self._charter, self._method, self._columns, received)
        return boosting.shared_trees(opened, self._rows)

    @property
    def _method(self) -> Boosting:
        return _installed(self._charter, Boosting)


class LinearGatherer(FittedGatherer):
    """Of the method ``shared-linear``."""

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        boosting.check_task(self._method, self._rows.task)
        return linear_parts.gathered(self._method, self._columns, self._rows)

    def _shared(self, received: Tensors) -> Shared:
        opened = linear_parts.LinearParts(self._method, self._columns, received)
        return linear_parts.shared_parts(opened, self._rows)

    @property
    def _method(self) -> SharedLinear:
        return _installed(self._charter, SharedLinear)


def _installed(charter: Charter, kind: type[Method]) -> Method:
    """The charter's method, which is of this kind where this gatherer serves it."""
    method = build(charter)
    if not isinstance(method, kind):
        raise TypeError(f"{charter.method.name!r} is gathered elsewhere")
    return method
