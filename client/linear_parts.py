"""A department's side of ``shared-linear``: its rows as numbers, and the shared part with its own as one linear model.

λ is the one with the least summed validation loss of all departments; the department's own part is solved for it again
on whatever rows the model is fitted to.  With squared loss the rounds can be undone: then w₀ is that of the rounds in
which the department had given those rows and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commonroot.client.boosting import target_of
from commonroot.client.choice import calibrate
from commonroot.client.common_columns import CommonColumns
from commonroot.client.data import Prepared, Rows
from commonroot.client.models import Model
from commonroot.client.shared_models import Shared
from commonroot.client.tasks import Task
from commonroot.client.tasks.regression import Values
from commonroot.strategies.base import Tensors
from commonroot.strategies.linear import Doubles, SharedLinear, weights_of


@dataclass(frozen=True, slots=True)
class LinearParts:
    """The opened shared parts over a department's encoded rows.

    state  the final broadcast
    """

    method: SharedLinear
    columns: CommonColumns
    state: Tensors = field(repr=False)

    def fitted(self, task: Task, rows: Rows, strength: int, *, gave: Rows | None = None) -> Model:
        """w₀ of the λ at that position, and v solved on these rows.

        gave  what the department gave to the rounds, of squared loss; then w₀ is what it would be had it given ``rows``
        """
        x, wanted = self._read(rows)
        shared = weights_of(self.state)[strength]
        if gave is not None:
            before, told = self._read(gave)
            shared = self.method.instead(self.state, strength, (before, told[:, 0]), (x, wanted[:, 0]))[None]
        whole = np.stack(
            [
                one + self.method.own_part(x, wanted[:, at], one, self.method.tried[strength])[0]
                for at, one in enumerate(shared)
            ]
        )
        matrix, offset = self.columns.lines()
        weight = whole[:, 1:] @ matrix
        bias = whole[:, 0] + whole[:, 1:] @ offset
        if isinstance(task, Values):
            factor = self.method.half / task.scale
            weight = weight * factor
            bias = bias * factor + (self.method.middle - task.centre) / task.scale
        return Model("linear", {"weight": weight, "bias": bias})

    def _read(self, rows: Rows) -> tuple[Doubles, Doubles]:
        """As the method gathers them: numbers, and (n, outputs) what is wanted."""
        return self.columns.numbers(rows.x), self.method.wanted(target_of(self.method, rows.y))


def shared_parts(parts: LinearParts, prepared: Prepared) -> Shared:
    """The model with the λ that all departments' validation rows chose."""
    task, held = prepared.task, prepared.validation
    chosen = parts.method.chosen(parts.state)
    model = parts.fitted(task, prepared.train, chosen)
    calibration = calibrate(task, model.outputs(task, held.x), held.y)
    model = calibration.of(model)
    loss = float(task.row_losses(model.predict(task, held.x), held.y).mean()) if len(held) else 0.0
    name = f"shared and own linear parts (λ = {parts.method.tried[chosen]:g})"

    def fit(rows: Rows) -> Model:
        return calibration.of(parts.fitted(task, rows, chosen))

    def anew(rows: Rows) -> Model:
        return calibration.of(parts.fitted(task, rows, chosen, gave=prepared.train))

    return Shared(name, loss, model, fit, anew if parts.method.loss == "squared" else None)


def gathered(method: SharedLinear, columns: CommonColumns, prepared: Prepared) -> Mapping[str, NDArray[np.generic]]:
    """What ``SharedLinear.gather`` reads of prepared rows."""
    train, held = prepared.train, prepared.validation
    return {
        "x": columns.numbers(train.x),
        "y": target_of(method, train.y),
        "held_x": columns.numbers(held.x),
        "held_y": target_of(method, held.y),
    }
