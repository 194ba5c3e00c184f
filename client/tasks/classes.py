"""One of several labels; what binary, multi-class and fault tasks share.

Class imbalance: with ``weights = "balanced"`` a row counts n / (C·n_c) in training and in the guard, n_c being the
training rows of its label (King and Zeng, 2001), so that every label matters alike and predicted probabilities are
those of a population where labels are equally frequent.  Weights come from training labels and stay in the department.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import LEAST_PROBABILITY, Array, Floats, Learns, Task, TaskConfig, softmax
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of, positions, read, texts, unlisted
from commonroot.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor


class ClassesConfig(TaskConfig):
    """labels   every label there is, in order; found in the whole table where not given
    weights  ``balanced`` lets every label count alike however rare it is
    metric   ``accuracy`` (``balanced accuracy`` with balanced weights)
    """

    labels: Annotated[tuple[str | int, ...], Field(min_length=2)] | None = None
    weights: Literal["balanced"] | None = None
    metric: Literal["accuracy", "balanced accuracy"] | None = None

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.labels is not None and len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("a label is listed twice")
        return self

    def seen(self, target: Target) -> Self:
        """With the labels of the whole table, unless they are listed."""
        if self.labels is not None:
            return self
        found, _ = texts(frame_of(target).to_series(0), Where())
        return self.model_copy(update={"labels": sort_labels([text for text in found.unique() if text])})


@dataclass(frozen=True, slots=True, repr=False)
class Classes(Task):
    """y is encoded as int64 positions in ``labels``.

    weights  one per label, their mean over training rows 1; None where every row counts once
    scored   name of the metric
    """

    learns: ClassVar[Learns] = "label"
    tempered: ClassVar[bool] = True

    labels: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    scored: str = "accuracy"

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError("a classification needs at least two different labels")
        if self.weights is not None and (len(self.weights) != len(self.labels) or not min(self.weights) > 0):
            raise ConfigError("a weight per label, each positive")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        found, problems = texts(frame_of(target).to_series(0), Where())
        read(problems)
        labels = sort_labels(found.unique().to_list()) if config.labels is None else tuple(map(str, config.labels))
        if len(labels) < 2:
            raise DataError(f"the target holds {len(labels)} different label(s); there is nothing to tell apart")
        weights = balanced(found, labels) if config.weights == "balanced" else None
        return cls(labels, weights, config.metric or cls.usual_metric(weights is not None))

    @classmethod
    def usual_metric(cls, balanced: bool) -> str:
        """The metric where the configuration names none."""
        return "balanced accuracy" if balanced else "accuracy"

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        column = frame_of(target).to_series(0)
        found, problems = texts(column, where)
        y = positions(found, self.labels)
        expected, fix = f"one of the {len(self.labels)} labels known", "mend the label or add it to `labels`"
        if not problems:
            problems = [
                where.problem(unlisted("label", str(found[row])), expected, fix, row=row, column=column.name)
                for row in map(int, np.flatnonzero(y < 0))
            ]
        return y, problems

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        return math.log(len(self.labels))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch import tensor
        from torch.nn.functional import cross_entropy

        if self.weights is None:
            return cross_entropy(outputs, targets)
        # not divided by the batch's sum of weights, which would undo them where a batch holds one label
        weight = tensor(self.weights, dtype=outputs.dtype, device=outputs.device)
        return cross_entropy(outputs, targets, weight=weight, reduction="sum") / len(targets)

    def targets(self, y: Array) -> Array:
        return y.astype(np.int64, copy=False)

    def predictive(self, outputs: Array) -> Floats:
        return softmax(outputs)

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        given = np.clip(predicted[np.arange(len(y)), y], LEAST_PROBABILITY, 1.0)
        found = np.asarray(-np.log(given) / self.chance, dtype=np.float64)
        return found if self.weights is None else found * np.asarray(self.weights)[y]

    @property
    def metric(self) -> str:
        return self.scored

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        hits = predicted.argmax(axis=1) == y
        if self.scored == "balanced accuracy":
            return weighted.balanced_accuracy(hits, y, len(self.labels), counts)
        if self.scored == "AUC":
            return weighted.auc(predicted[:, 1], y == 1, counts)
        return np.asarray(counts @ hits.astype(np.float64) / counts.sum(axis=1), dtype=np.float64)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``class``, then one ``probability of …`` column per label."""
        names = np.array(self.labels)
        probabilities = {f"probability of {label}": predicted[:, at] for at, label in enumerate(self.labels)}
        return {"class": names[predicted.argmax(axis=1)], **probabilities}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """``by_label``: rows, recall and precision of each label (None where there are no such rows)."""
        counts = confusion(predicted, y, len(self.labels))
        return {"by_label": by_label(self.labels, counts)}

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """Rows by true and predicted label."""
        counts = confusion(predicted, y, len(self.labels))
        return {"kind": "confusion", "labels": list(self.labels), "counts": counts.tolist()}

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": self.kind, "labels": list(self.labels), "metric": self.scored}
        return out if self.weights is None else out | {"weights": list(self.weights)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        weights = value.get("weights")
        return cls(
            tuple(map(str, value["labels"])),
            None if weights is None else tuple(map(float, weights)),
            str(value.get("metric", cls.usual_metric(weights is not None))),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Classification(Classes):
    """One of C ≥ 2 labels, of rows, texts, sequences or images: softmax and cross-entropy; chance log C."""

    kind: ClassVar[str] = "classification"
    Config: ClassVar[type[TaskConfig]] = ClassesConfig


def balanced(found: pl.Series, labels: tuple[str, ...]) -> tuple[float, ...]:
    """n / (C·n_c) over the labels that occur; a label without rows, which then weighs on nothing, gets 1."""
    at = positions(found, labels)
    counts = np.bincount(at[at >= 0], minlength=len(labels)).astype(np.float64)
    present = int((counts > 0).sum())
    return tuple(float(len(found) / (present * count)) if count else 1.0 for count in counts)


def confusion(predicted: Floats, y: Array, classes: int) -> NDArray[np.int64]:
    """(true, predicted) counts of rows."""
    flat = np.bincount(y * classes + predicted.argmax(axis=1), minlength=classes * classes)
    return flat.reshape(classes, classes)


def by_label(labels: Sequence[str], counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Rows, recall and precision of each label from a confusion table."""
    rows, said, hits = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    return [
        {
            "label": label,
            "rows": int(rows[at]),
            "recall": float(hits[at] / rows[at]) if rows[at] else None,
            "precision": float(hits[at] / said[at]) if said[at] else None,
        }
        for at, label in enumerate(labels)
    ]


def sort_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Distinct labels in a stable order: by value where all are whole numbers, else alphabetically."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(distinct))
