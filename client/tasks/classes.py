"""One of several labels; what binary, multi-class and fault tasks share.

Class imbalance: with ``weights = "balanced"`` a row counts n / (C·n_c) in training and in the guard, n_c being the
training rows of its label (King and Zeng, 2001), so that every label matters alike and predicted probabilities are
those of a population where labels are equally frequent.  Weights come from training labels and stay in the department.

Rows to come: with ``expected`` a department says how frequent labels will be among the rows that its model is for, as
it knows its business.  A row then counts (share expected) / (share of training rows) of its label, so that means over
its rows are means over rows to come (importance weights; Shimodaira, 2000, doi 10.1016/S0378-3758(00)00115-4).  That
rows of one label stay alike, whenever they come, is assumed.  docs/adr/0018 is about labels without rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class ClassesConfig(TaskConfig):
    """labels   every label there is, in order; found in the whole table where not given
    weights  ``balanced`` lets every label count alike however rare it is
    expected shares of the labels among rows to come: ``even``, or each label's; labels are listed then
    metric   ``accuracy`` (``balanced accuracy`` with balanced weights)
    """

    labels: Annotated[tuple[str | int, ...], Field(min_length=2)] | None = None
    weights: Literal["balanced"] | None = None
    expected: Literal["even"] | dict[str, Share] | None = None
    metric: Literal["accuracy", "balanced accuracy"] | None = None

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.labels is not None and len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("a label is listed twice")
        return self

    @model_validator(mode="after")
    def _expected_of_every_label(self) -> Self:
        if self.expected is None:
            return self
        if self.labels is None:
            raise ValueError("shares are expected of labels that are listed: list `labels`, with those not met yet")
        if self.weights == "balanced" and "weights" in self.model_fields_set:
            raise ValueError("`expected` says how much every label counts; leave `weights` out")
        if isinstance(self.expected, dict):
            if set(self.expected) != {str(label) for label in self.labels}:
                raise ValueError("`expected` gives a share to each of the labels, and to nothing else")
            if not math.isclose(sum(self.expected.values()), 1.0, abs_tol=1e-3):
                raise ValueError("the expected shares do not add up to 1")
        return self

    def shares(self) -> tuple[float, ...] | None:
        """The expected share of each label in their order, summing to 1; None where none are declared."""
        if self.expected is None or self.labels is None:
            return None
        if self.expected == "even":
            return (1.0 / len(self.labels),) * len(self.labels)
        total = sum(self.expected.values())
        return tuple(self.expected[str(label)] / total for label in self.labels)

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
    expected share of each label among rows to come; None where those are taken to be like the rows there are
    """

    learns: ClassVar[Learns] = "label"
    tempered: ClassVar[bool] = True

    labels: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    scored: str = "accuracy"
    expected: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError("a classification needs at least two different labels")
        if self.weights is not None and (len(self.weights) != len(self.labels) or not min(self.weights) > 0):
            raise ConfigError("a weight per label, each positive")
        if self.expected is not None and (len(self.expected) != len(self.labels) or not min(self.expected) > 0):
            raise ConfigError("an expected share per label, each positive")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        found, problems = texts(frame_of(target).to_series(0), Where())
        read(problems)
        labels = sort_labels(found.unique().to_list()) if config.labels is None else tuple(map(str, config.labels))
        if len(labels) < 2:
            raise DataError(f"the target holds {len(labels)} different label(s); there is nothing to tell apart")
        expected = config.shares()
        if expected is not None:
            metric = config.metric or cls.usual_metric(False)
            return cls(labels, counted(found, labels, expected), metric, expected=expected)
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
        found = self.unweighted(predicted, y)
        return found if self.weights is None else found * np.asarray(self.weights)[y]

    def unweighted(self, predicted: Floats, y: Array) -> Floats:
        """``row_losses`` in which every row counts once."""
        given = np.clip(predicted[np.arange(len(y)), y], LEAST_PROBABILITY, 1.0)
        return np.asarray(-np.log(given) / self.chance, dtype=np.float64)

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
        listed = {"weights": self.weights, "expected": self.expected}
        return out | {name: list(values) for name, values in listed.items() if values is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        weights, expected = value.get("weights"), value.get("expected")
        return cls(
            tuple(map(str, value["labels"])),
            None if weights is None else tuple(map(float, weights)),
            str(value.get("metric", cls.usual_metric(weights is not None))),
            expected=None if expected is None else tuple(map(float, expected)),
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


def counted(found: pl.Series, labels: tuple[str, ...], expected: tuple[float, ...]) -> tuple[float, ...]:
    """(share expected) / (share of these rows) of every label that has rows, scaled to a mean of 1 over the rows; a
    label without rows, which then weighs on nothing, gets 1."""
    at = positions(found, labels)
    counts = np.bincount(at[at >= 0], minlength=len(labels)).astype(np.float64)
    there = sum(share for share, count in zip(expected, counts, strict=True) if count)
    return tuple(
        float(share * len(found) / (there * count)) if count else 1.0
        for share, count in zip(expected, counts, strict=True)
    )


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
