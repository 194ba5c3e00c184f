"""One of two labels: a single logit for the second; chance log 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from commonroot.client.tasks.base import Array, Floats, TaskConfig, softmax
from commonroot.client.tasks.classes import Classes, ClassesConfig
from commonroot.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class BinaryConfig(ClassesConfig):
    """As for a classification, with two labels; ``metric`` may also be ``AUC``, which asks only for the ranking."""

    labels: Annotated[tuple[str | int, ...], Field(min_length=2, max_length=2)] | None = None
    metric: Literal["accuracy", "balanced accuracy", "AUC"] | None = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, repr=False)
class Binary(Classes):
    """One of two labels."""

    kind: ClassVar[str] = "binary"
    Config: ClassVar[type[TaskConfig]] = BinaryConfig

    def __post_init__(self) -> None:
        Classes.__post_init__(self)
        if len(self.labels) != 2:
            raise ConfigError(f"a binary task has two labels, not {len(self.labels)}")

    @property
    def outputs(self) -> int:
        return 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch import tensor
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight = None
        if self.weights is not None:
            weight = tensor(self.weights, dtype=outputs.dtype, device=outputs.device)[targets]
        return binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype), weight=weight)

    def predictive(self, outputs: Array) -> Floats:
        logits = np.asarray(outputs, dtype=np.float64)[:, 0]
        return softmax(np.stack([np.zeros_like(logits), logits], axis=1))

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """The receiver operating characteristic, thinned to at most 101 points, for rows of both labels."""
        if len(np.unique(y)) < 2:
            return Classes.plot(self, predicted, y)
        order = np.argsort(-predicted[:, 1], kind="stable")
        ends = np.append(np.flatnonzero(np.diff(predicted[order, 1])), len(y) - 1)  # ties move together
        hits, wrong = np.cumsum(y[order] == 1)[ends], np.cumsum(y[order] == 0)[ends]
        keep = np.unique(np.linspace(0, len(ends) - 1, min(101, len(ends))).astype(np.int64))
        x, up = wrong[keep] / wrong[-1], hits[keep] / hits[-1]
        return {"kind": "roc", "label": self.labels[1], "x": [0.0, *x.tolist()], "y": [0.0, *up.tolist()]}
