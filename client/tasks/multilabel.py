"""Any number of labels at once: a logit and a binary cross-entropy per label; chance log 2.

The target is one 0/1 column per label, or one column with a list of labels per row (a list, or text cut at
``separator``); a row without labels is a row of zeros.  Scored by micro-averaged F1 at probability one half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import LEAST_PROBABILITY, Array, Floats, Learns, Task, TaskConfig, sigmoid
from commonroot.client.tasks.classes import sort_labels
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of, numbers, unlisted, words
from commonroot.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: No row counts more than this for one label, however rare: a handful of rows must not drown the rest.
MOST_WEIGHT: Final = 20.0


class MultilabelConfig(TaskConfig):
    """labels     of a list column, in order; found in the whole table where not given
    separator  of labels in a text column
    weights    ``balanced`` lets a label's presence count as much as its absence
    """

    labels: Annotated[tuple[str | int, ...], Field(min_length=1)] | None = None
    separator: Annotated[str, Field(min_length=1)] = ";"
    weights: Literal["balanced"] | None = None

    def seen(self, target: Target) -> Self:
        """With every label that occurs in a list column, unless they are listed."""
        frame = frame_of(target)
        if self.labels is not None or not _lists(frame):
            return self
        found, _ = words(frame.to_series(0), self.separator, Where())
        labels = sort_labels([label for row in found for label in row])
        return self.model_copy(update={"labels": labels}) if labels else self


@dataclass(frozen=True, slots=True, repr=False)
class Multilabel(Task):
    """y is (n, labels) float64 of 0 and 1.

    weights  (absent, present) per label, or None where every row counts once
    """

    kind: ClassVar[str] = "multilabel"
    Config: ClassVar[type[TaskConfig]] = MultilabelConfig
    learns: ClassVar[Learns] = "labels"
    tempered: ClassVar[bool] = True

    labels: tuple[str, ...]
    separator: str = ";"
    weights: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ConfigError("a multi-label task needs at least one label, and none twice")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        frame = frame_of(target)
        labels = tuple(frame.columns)
        if _lists(frame):
            labels = tuple(map(str, config.seen(target).labels or ()))
        made = cls(labels, config.separator)
        y, _ = made.encode(target, Where())
        if config.weights is None:
            return made
        share = np.clip(y.mean(axis=0), 1.0 / (len(y) + 1), 1.0 - 1.0 / (len(y) + 1))
        pairs = np.minimum(np.stack([0.5 / (1.0 - share), 0.5 / share], axis=1), MOST_WEIGHT)
        return cls(labels, config.separator, tuple((float(a), float(b)) for a, b in pairs))

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        frame = frame_of(target)
        if _lists(frame):
            return self._from_lists(frame.to_series(0), where)
        columns = [column.cast(pl.Int8) if column.dtype == pl.Boolean else column for column in frame.get_columns()]
        y, problems = numbers(columns, where)
        if y.shape[1] != len(self.labels):
            expected = f"{len(self.labels)}, one per label"
            problems.append(where.problem(f"{y.shape[1]} target columns", expected, "list the same columns"))
        elif not problems:
            for row, at in np.argwhere((y != 0) & (y != 1)):
                name, fix = self.labels[at], "write 1 for present and 0 for absent"
                problems.append(where.problem("another number", "0 or 1", fix, row=int(row), column=name))
        return y, problems

    def _from_lists(self, column: pl.Series, where: Where) -> tuple[Array, list[Problem]]:
        found, problems = words(column, self.separator, where)
        position = {label: at for at, label in enumerate(self.labels)}
        y = np.zeros((len(found), len(self.labels)))
        expected, fix = f"some of the {len(self.labels)} labels known", "mend the label or add it to `labels`"
        for row, labels in enumerate(found):
            for label in labels:
                at = position.get(label)
                if at is None:
                    told = unlisted("label", label)
                    problems.append(where.problem(told, expected, fix, row=row, column=column.name))
                else:
                    y[row, at] = 1.0
        return y, problems

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        return math.log(2.0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch import tensor, where
        from torch.nn.functional import binary_cross_entropy_with_logits

        weight = None
        if self.weights is not None:
            pairs = tensor(self.weights, dtype=outputs.dtype, device=outputs.device)
            weight = where(targets > 0.5, pairs[:, 1], pairs[:, 0])
        return binary_cross_entropy_with_logits(outputs, targets, weight=weight)

    def targets(self, y: Array) -> Array:
        return y.astype(np.float32)

    def predictive(self, outputs: Array) -> Floats:
        return sigmoid(outputs)

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        given = np.clip(np.where(y > 0.5, predicted, 1.0 - predicted), LEAST_PROBABILITY, 1.0)
        found = -np.log(given)
        if self.weights is not None:
            pairs = np.asarray(self.weights)
            found = found * np.where(y > 0.5, pairs[:, 1], pairs[:, 0])
        return np.asarray(found.mean(axis=1) / self.chance, dtype=np.float64)

    @property
    def metric(self) -> str:
        return "micro-F1"

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        said, there = _said(predicted), y > 0.5
        hits, missed, wrong = (part.sum(axis=1) for part in (said & there, ~said & there, said & ~there))
        return weighted.f1(hits, missed, wrong, counts)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``labels``, joined by the separator, then one ``probability of …`` column per label."""
        names = np.array(self.labels)
        joined = np.array([self.separator.join(names[row]) for row in _said(predicted)], dtype=np.str_)
        return {"labels": joined, **{f"probability of {name}": predicted[:, at] for at, name in enumerate(self.labels)}}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """``by_label``: rows, recall and precision of each label; ``macro_f1`` over labels."""
        said, there = _said(predicted), y > 0.5
        hits, rows, named = (said & there).sum(axis=0), there.sum(axis=0), said.sum(axis=0)
        lines = [
            {
                "label": label,
                "rows": int(rows[at]),
                "recall": float(hits[at] / rows[at]) if rows[at] else None,
                "precision": float(hits[at] / named[at]) if named[at] else None,
            }
            for at, label in enumerate(self.labels)
        ]
        return {"by_label": lines, "macro_f1": float(weighted.ratio(2.0 * hits, rows + named).mean())}

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """F1 of each label."""
        said, there = _said(predicted), y > 0.5
        found = weighted.ratio(2.0 * (said & there).sum(axis=0), said.sum(axis=0) + there.sum(axis=0))
        return {"kind": "bars", "of": "F1", "names": list(self.labels), "values": found.tolist()}

    def to_json(self) -> dict[str, Any]:
        weights = None if self.weights is None else [list(pair) for pair in self.weights]
        return {"kind": self.kind, "labels": list(self.labels), "separator": self.separator, "weights": weights}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        pairs = value.get("weights")
        weights = None if pairs is None else tuple((float(absent), float(present)) for absent, present in pairs)
        return cls(tuple(map(str, value["labels"])), str(value.get("separator", ";")), weights)


def _said(predicted: Floats) -> NDArray[np.bool_]:
    return np.asarray(predicted >= 0.5)


def _lists(frame: pl.DataFrame) -> bool:
    """Is the target one column of lists or of text to be cut, rather than 0/1 columns?"""
    return frame.width == 1 and (isinstance(frame.dtypes[0], pl.List | pl.Array) or frame.dtypes[0] == pl.String)
