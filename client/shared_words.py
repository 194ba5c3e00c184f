"""A department's side of ``shared-words``: its rows as they are, in folds, and the opened weights as linear models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from commonroot.client.alone import Part, Parts
from commonroot.client.boosting import check_task
from commonroot.client.choice import calibrate
from commonroot.client.data import Rows, folds
from commonroot.client.fitted import FittedGatherer
from commonroot.client.models import Model
from commonroot.client.shared_models import Shared
from commonroot.client.tables.numbers import Numbers
from commonroot.common.backbone.inputs import Input
from commonroot.common.errors import ConfigError
from commonroot.strategies import build
from commonroot.strategies.base import Tensors
from commonroot.strategies.shared_words import WEIGHTS, SharedWords


class WordsGatherer(FittedGatherer):
    """Of the method ``shared-words``.  Training and validation rows learn alike: each is judged when it is left out."""

    def data(self) -> Mapping[str, NDArray[np.generic]]:
        check_task(self._method, self._rows.task)
        if any(isinstance(part, Numbers) and not part.plain for part in self._rows.features.parts):
            raise ConfigError(
                "shared-words counts words, and standardised numbers have no 0 for a word that is not there",
                hint='columns of kind "text", or scaling = "none"',
            )
        return {"x": self._learned.x, "y": self._learned.y.astype(np.int64), "fold": self._folds}

    def _shared(self, received: Tensors) -> Shared:
        task, method = self._rows.task, self._method
        *without, whole = (_model(weights) for weights in received[WEIGHTS])
        parts = self._parts()
        outputs = np.concatenate([m.outputs(task, part.held.x) for m, part in zip(without, parts, strict=True)])
        y = np.concatenate([part.held.y for part in parts])
        found = calibrate(task, outputs, y)
        loss = float(task.row_losses(task.predictive(found.apply(outputs)), y).mean())
        name = f"one linear model of words (λ = {method.strength:g})"
        return Shared(name, loss, found.of(whole), lambda rows: found.of(whole), by_part=tuple(without))

    def _parts(self) -> Parts:
        rows, fold = self._learned, self._folds
        found = []
        for at in range(self._method.folds):
            held = np.flatnonzero(fold == at)
            found.append(Part(rows.take(np.flatnonzero(fold != at)), rows.take(held), np.zeros(len(held), np.bool_)))
        return found

    def _input(self) -> Input | None:
        return self._charter.network.input

    @cached_property
    def _learned(self) -> Rows:
        return self._rows.train.join(self._rows.validation)

    @cached_property
    def _folds(self) -> NDArray[np.int64]:
        """The fold of each row, by the department's own seed."""
        return folds(self._learned.y, count=self._method.folds, seed=self._place.secret, stratify=True)

    @property
    def _method(self) -> SharedWords:
        method = build(self._charter)
        if not isinstance(method, SharedWords):
            raise TypeError(f"{self._charter.method.name!r} is gathered elsewhere")
        return method


def _model(weights: NDArray[np.float32]) -> Model:
    """(outputs, 1 + values), the constant first."""
    return Model("linear", {"weight": weights[:, 1:].astype(np.float64), "bias": weights[:, 0].astype(np.float64)})
