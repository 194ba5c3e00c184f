"""What a department predicts: plug-ins that differ in labels, outputs, loss, score and columns, and mix freely.

Every model of a department, a network or not, predicts one array that only its task reads:

classification, binary   (n, classes) float64, rows of probabilities
regression               (n,) float64, values in the target's own units

so that candidates can be averaged and compared without knowing what they are.  Labels are compared as text and stay in
the department.  Losses of different tasks are brought to one scale by their chance loss (log C, log 2, Var(y)), which
keeps a regression from drowning a classification in a common backbone.

torch is imported only where a loss of tensors is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError, ForeignState

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
#: Probabilities below this count as this in a log loss, so that one confident error stays finite.
LEAST_PROBABILITY: Final = 1e-4


@runtime_checkable
class Task(Protocol):
    """One kind of prediction, fitted to a department's labels or target.  Instances are frozen."""

    kind: ClassVar[str]
    metric: ClassVar[str]

    @property
    def outputs(self) -> int:
        """Width of the head."""

    @property
    def chance(self) -> float:
        """Loss of knowing nothing, in the units of ``loss``."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of head outputs (n, outputs) against ``targets(y)`` as a tensor; not yet divided by chance."""

    def targets(self, y: NDArray[Any]) -> NDArray[Any]:
        """Encoded y in the form the loss takes: int64 classes or float32 values."""

    def predictive(self, outputs: NDArray[Any]) -> Floats:
        """Head outputs (n, outputs) as this task's prediction array."""

    def row_losses(self, predicted: Floats, y: NDArray[Any]) -> Floats:
        """A proper score per row, (n,), divided by chance: log loss or squared error over the variance."""

    def scores(self, predicted: Floats, y: NDArray[Any], counts: Floats) -> Floats:
        """The metric on weighted rows: ``counts`` is (repeats, n), one resampling of the rows per line."""

    def columns(self, predicted: Floats) -> dict[str, NDArray[Any]]:
        """The prediction array as named columns for people."""

    def to_json(self) -> dict[str, Any]:
        """Everything needed to read predictions; the inverse of ``task_from_json``."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of ``to_json``."""


def score(task: Task, predicted: Floats, y: NDArray[Any]) -> float:
    """The task's metric on rows as they are."""
    return float(task.scores(predicted, y, np.ones((1, len(y))))[0])


@dataclass(frozen=True, slots=True)
class _Classes:
    """What tasks with labels share.  y is encoded as int64 positions in ``labels``."""

    metric: ClassVar[str] = "accuracy"

    labels: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError("a classification needs at least two different labels")

    @property
    def chance(self) -> float:
        return math.log(len(self.labels))

    def row_losses(self, predicted: Floats, y: NDArray[Any]) -> Floats:
        given = np.clip(predicted[np.arange(len(y)), y], LEAST_PROBABILITY, 1.0)
        return np.asarray(-np.log(given) / self.chance, dtype=np.float64)

    def scores(self, predicted: Floats, y: NDArray[Any], counts: Floats) -> Floats:
        """Accuracy."""
        hits = (predicted.argmax(axis=1) == y).astype(np.float64)
        return np.asarray(counts @ hits / counts.sum(axis=1), dtype=np.float64)

    def columns(self, predicted: Floats) -> dict[str, NDArray[Any]]:
        """``class``, then one ``probability of …`` column per label."""
        names = np.array(self.labels)
        probabilities = {f"probability of {label}": predicted[:, at] for at, label in enumerate(self.labels)}
        return {"class": names[predicted.argmax(axis=1)], **probabilities}

    def targets(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Classification(_Classes):
    """One of C ≥ 2 labels: softmax and cross-entropy."""

    kind: ClassVar[str] = "classification"

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)

    def predictive(self, outputs: NDArray[Any]) -> Floats:
        return softmax(outputs)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(map(str, value["labels"])))


@dataclass(frozen=True, slots=True)
class Binary(_Classes):
    """One of two labels: a single logit for the second."""

    kind: ClassVar[str] = "binary"

    def __post_init__(self) -> None:
        _Classes.__post_init__(self)
        if len(self.labels) != 2:
            raise ConfigError(f"a binary task has two labels, not {len(self.labels)}")

    @property
    def outputs(self) -> int:
        return 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype))

    def predictive(self, outputs: NDArray[Any]) -> Floats:
        logits = np.asarray(outputs, dtype=np.float64)[:, 0]
        return softmax(np.stack([np.zeros_like(logits), logits], axis=1))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(map(str, value["labels"])))


@dataclass(frozen=True, slots=True)
class Regression:
    """A value: squared error on the target standardised with training statistics, so that its chance loss is 1.

    centre, scale  mean and standard deviation of the training target (scale 1 where it is constant)
    """

    kind: ClassVar[str] = "regression"
    metric: ClassVar[str] = "R²"

    centre: float = field(repr=False)
    scale: float = field(repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError("a regression needs a finite centre and a positive scale")

    @classmethod
    def fitted(cls, y: Floats) -> Regression:
        """To the training target."""
        spread = float(np.std(y))
        return cls(centre=float(np.mean(y)), scale=spread if spread > 0 else 1.0)

    @property
    def outputs(self) -> int:
        return 1

    @property
    def chance(self) -> float:
        return 1.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square().mean()

    def targets(self, y: NDArray[Any]) -> NDArray[Any]:
        return ((y - self.centre) / self.scale).astype(np.float32)

    def predictive(self, outputs: NDArray[Any]) -> Floats:
        return np.asarray(outputs, dtype=np.float64)[:, 0] * self.scale + self.centre

    def row_losses(self, predicted: Floats, y: NDArray[Any]) -> Floats:
        return np.asarray(np.square((predicted - y) / self.scale), dtype=np.float64)

    def scores(self, predicted: Floats, y: NDArray[Any], counts: Floats) -> Floats:
        """R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)², ȳ of the rows scored; 0 where those rows do not vary."""
        rows = counts.sum(axis=1)
        centred = y - y.mean()  # for accuracy: R² does not depend on it
        total = counts @ np.square(centred) - np.square(counts @ centred) / rows
        error = counts @ np.square(y - predicted)
        varies = total > 1e-12 * max(float(np.square(centred).sum()), 1e-300)
        return np.asarray(np.where(varies, 1.0 - error / np.where(varies, total, 1.0), 0.0), dtype=np.float64)

    def columns(self, predicted: Floats) -> dict[str, NDArray[Any]]:
        """``value``."""
        return {"value": predicted}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "centre": self.centre, "scale": self.scale}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(centre=float(value["centre"]), scale=float(value["scale"]))


TASKS: Final[MappingProxyType[str, type[Task]]] = MappingProxyType(
    {"binary": Binary, "classification": Classification, "regression": Regression}
)


def task_from_json(value: dict[str, Any]) -> Task:
    """A stored task.  Raises ForeignState for a record that no version of this program wrote."""
    try:
        return TASKS[str(value["kind"])].from_json(value)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ForeignState("the stored task cannot be read") from error


def sort_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Distinct labels in a stable order: by value where all are whole numbers, else alphabetically."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(distinct))


def softmax(outputs: NDArray[Any]) -> Floats:
    """Row-wise, in float64."""
    shifted = np.asarray(outputs, dtype=np.float64)
    raised = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)
