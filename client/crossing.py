"""A federated model's predictions for rows that it was not fitted to.

Its last steps, on this department's rows (head, fine-tuning, calibration), are done again for every fold without the
rows to be predicted.  What cannot be done again is the rounds: the backbone they ended with has seen training rows.
So it is calibrated on validation rows alone, and whoever reads these predictions must know which rows are which.
Where the rounds can be undone exactly (``Shared.anew``) they are, and no row is any different from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from commonroot.client.alone import Parts
from commonroot.client.choice import calibrate
from commonroot.client.data import Rows
from commonroot.client.models import Model
from commonroot.client.shared_models import Shared
from commonroot.client.tasks import Floats, Task
from commonroot.common.errors import SumRejected, TrainingDiverged


@dataclass(frozen=True, slots=True)
class Crossed:
    """One federated candidate.

    said   prediction array of the parts' held-out rows, in their order
    model  fits it to rows, calibrated so
    """

    said: Floats = field(repr=False)
    model: Callable[[Rows], Model] = field(repr=False)


def crossed(task: Task, shared: Shared, parts: Parts, *, refits: bool) -> Crossed | None:
    """Predict every part's held-out rows; None where a fit does not converge.

    A coordinator may have told of sums that rounds cannot be undone by; then nothing of its is kept.


    refits  False where the method has no step of its own to do again: the model is what it is on all rows
    """
    if shared.common:
        said = np.concatenate([shared.model.predict(task, part.held.x) for part in parts])
        return Crossed(said, lambda rows: shared.model)
    again = refits and len(parts) > 1
    try:
        if shared.by_part:
            found = [_plain(model) for model in shared.by_part]
        else:
            found = [_plain((shared.anew or shared.fit)(part.fit) if again else shared.model) for part in parts]
    except (SumRejected, TrainingDiverged):
        return None
    outputs = np.concatenate([model.outputs(task, part.held.x) for model, part in zip(found, parts, strict=True)])
    fresh = ~np.concatenate([part.seen for part in parts])
    y = np.concatenate([part.held.y for part in parts])
    calibration = calibrate(task, outputs[fresh], y[fresh])

    def fitted(rows: Rows) -> Model:
        return calibration.of(_plain(shared.fit(rows) if refits else shared.model))

    return Crossed(task.predictive(calibration.apply(outputs)), fitted)


def _plain(model: Model) -> Model:
    return replace(model, temperature=1.0, shift=0.0)
