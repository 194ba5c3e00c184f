"""A department's side of ``shared-linear``: its rows as numbers, and the shared part with its own as one linear model.

λ is the one with the least summed validation loss of all departments; the department's own part is solved for it again
on whatever rows the model is fitted to.
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
from commonroot.strategies.linear import SharedLinear, weights_of


@dataclass(frozen=True, slots=True)
class LinearParts:
    """The opened shared parts over a department's encoded rows.

    state  the final broadcast
    """

    method: SharedLinear
    columns: CommonColumns
    state: Tensors = field(repr=False)

    def fitted(self, task: Task, rows: Rows, strength: int) -> Model:
        """w₀ of the λ at that position, and v solved on these rows."""
        x, wanted = self.columns.numbers(rows.x), self.method.wanted(target_of(self.method, rows.y))
        shared = weights_of(self.state)[strength]
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


def shared_parts(parts: LinearParts, prepared: Prepared) -> Shared:
    """The model with the λ that all departments' validation rows chose."""
    task, held = prepared.task, prepared.validation
    chosen = parts.method.chosen(parts.state)
    model = parts.fitted(task, prepared.train, chosen)
    calibration = calibrate(task, model.outputs(task, held.x), held.y)
    model = calibration.of(model)
    loss = float(task.row_losses(model.predict(task, held.x), held.y).mean()) if len(held) else 0.0
    name = f"shared and own linear parts (λ = {parts.method.tried[chosen]:g})"
    return Shared(name, loss, model, lambda rows: calibration.of(parts.fitted(task, rows, chosen)))


def gathered(method: SharedLinear, columns: CommonColumns, prepared: Prepared) -> Mapping[str, NDArray[np.generic]]:
    """What ``SharedLinear.gather`` reads of prepared rows."""
    train, held = prepared.train, prepared.validation
    return {
        "x": columns.numbers(train.x),
        "y": target_of(method, train.y),
        "held_x": columns.numbers(held.x),
        "held_y": target_of(method, held.y),
    }
