"""A tag for every token of a text: softmax per token over BIO tags; scored by exact entity-level F1.

y is (n, length) int64 positions in ``tags``, -1 where there is no token or no label; the loss is the mean over labelled
tokens, chance log T.  The target is a list of tags per row, or text with tags separated by white space, one for each
token of the row; tags beyond the length that the backbone reads are cut off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import LEAST_PROBABILITY, Array, Floats, Learns, Task, TaskConfig, softmax
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of, read, unlisted, words
from commonroot.client.tasks.entities import Scheme
from commonroot.common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

OUTSIDE: Final = "O"
#: Logit of "outside" on padding, certain at any temperature.
CERTAIN: Final = 1e4


class TaggingConfig(TaskConfig):
    """tags  every tag there is; found in the whole table where not given, ``O`` first."""

    tags: Annotated[tuple[str, ...], Field(min_length=2)] | None = None

    def seen(self, target: Target) -> Self:
        """With every tag that occurs, unless they are listed."""
        if self.tags is not None:
            return self
        rows, _ = words(frame_of(target).to_series(0), None, Where())
        found = {tag for row in rows for tag in row} - {OUTSIDE}
        return self.model_copy(update={"tags": (OUTSIDE, *sorted(found, key=lambda tag: (tag[2:], tag)))})


@dataclass(frozen=True, slots=True, repr=False)
class Tagging(Task):
    """length  tokens that the backbone reads of a row; 0 before ``fitted_to``."""

    kind: ClassVar[str] = "tagging"
    Config: ClassVar[type[TaskConfig]] = TaggingConfig
    learns: ClassVar[Learns] = "tokens"
    per_token: ClassVar[bool] = True
    tempered: ClassVar[bool] = True

    tags: tuple[str, ...]
    length: int = 0

    def __post_init__(self) -> None:
        if len(self.tags) < 2 or len(set(self.tags)) != len(self.tags) or OUTSIDE not in self.tags:
            raise ConfigError("tagging needs O and at least one other tag, none of them twice")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        _, problems = words(frame_of(target).to_series(0), None, Where())
        read(problems)
        return cls(config.seen(target).tags)

    def fitted_to(self, x: Array) -> Task:
        if x.ndim < 2:
            raise ConfigError("tagging needs rows of tokens")
        return replace(self, length=x.shape[1])

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        column = frame_of(target).to_series(0)
        rows, problems = words(column, None, where)
        length = self.length or max((len(row) for row in rows), default=0)
        position = {tag: at for at, tag in enumerate(self.tags)}
        y = np.full((len(rows), length), -1, dtype=np.int64)
        expected, fix = f"one of the {len(self.tags)} tags known", "mend the tag or add it to `tags`"
        for row, tags in enumerate(rows):
            for at, tag in enumerate(tags[:length]):
                y[row, at] = position.get(tag, -1)
                if tag not in position:
                    found = unlisted("tag", tag)
                    problems.append(where.problem(found, expected, fix, row=row, column=column.name))
        return y, problems

    @property
    def outputs(self) -> int:
        return len(self.tags)

    @property
    def chance(self) -> float:
        return math.log(len(self.tags))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        flat = outputs.reshape(-1, len(self.tags))
        total = cross_entropy(flat, targets.reshape(-1), ignore_index=-1, reduction="sum")
        return total / (targets >= 0).sum().clamp(min=1)

    def targets(self, y: Array) -> Array:
        return y.astype(np.int64)

    def settled(self, outputs: Array, x: Array) -> Array:
        """Padding, id 0 of token rows, is outside for certain."""
        if x.dtype.kind not in "iu":
            return outputs
        certain = np.where(np.arange(len(self.tags)) == self.tags.index(OUTSIDE), CERTAIN, 0.0)
        return np.where((x == 0)[:, :, None], certain, outputs)

    def predictive(self, outputs: Array) -> Floats:
        return softmax(outputs)

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        """Log loss summed over a row's tokens, over the mean number of tokens a row; 0 for a row without any."""
        given = np.take_along_axis(predicted, np.maximum(y, 0)[:, :, None], axis=2)[:, :, 0]
        lost = np.where(y >= 0, -np.log(np.clip(given, LEAST_PROBABILITY, 1.0)), 0.0).sum(axis=1)
        tokens = max(float((y >= 0).sum()), 1.0)
        return np.asarray(lost * (len(y) / tokens) / self.chance, dtype=np.float64)

    @property
    def metric(self) -> str:
        return "entity F1"

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        scheme = Scheme(self.tags)
        true, said = scheme.spans(y), scheme.spans(predicted.argmax(axis=2), y >= 0)
        hits = scheme.matches(true, said).sum(axis=1)
        return weighted.f1(hits, true.starts.sum(axis=1) - hits, said.starts.sum(axis=1) - hits, counts)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``entities``, as ``TYPE[first:end]`` by token position, ``end`` not included; and all ``tags``."""
        at = predicted.argmax(axis=2)
        spans = Scheme(self.tags).spans(at)
        types = Scheme(self.tags).types
        found: list[list[str]] = [[] for _ in range(len(at))]
        for row, start in np.argwhere(spans.starts):
            found[row].append(f"{types[spans.kind[row, start]]}[{start}:{spans.end[row, start]}]")
        names = np.array(self.tags)
        tags = [" ".join(names[row]) for row in at]
        return {"entities": np.array([" ".join(row) for row in found], np.str_), "tags": np.array(tags, np.str_)}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """``by_type``: entities, precision, recall and F1 of each type; ``token_accuracy`` over labelled tokens."""
        there = y >= 0
        hits = predicted.argmax(axis=2) == y
        accuracy = float(hits[there].mean()) if there.any() else 0.0
        return {"by_type": self._by_type(predicted, y), "token_accuracy": accuracy}

    def _by_type(self, predicted: Floats, y: Array) -> list[dict[str, Any]]:
        scheme = Scheme(self.tags)
        true, said = scheme.spans(y), scheme.spans(predicted.argmax(axis=2), y >= 0)
        matched = scheme.matches(true, said)
        hits: NDArray[np.int64] = scheme.by_type(true, matched)
        there, named = scheme.by_type(true, true.starts), scheme.by_type(said, said.starts)
        f1 = weighted.ratio(2.0 * hits, there + named)
        return [
            {
                "type": name,
                "entities": int(there[at]),
                "precision": float(hits[at] / named[at]) if named[at] else None,
                "recall": float(hits[at] / there[at]) if there[at] else None,
                "f1": float(f1[at]),
            }
            for at, name in enumerate(scheme.types)
        ]

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """F1 of each type of entity."""
        lines = self._by_type(predicted, y)
        names, values = [line["type"] for line in lines], [line["f1"] for line in lines]
        return {"kind": "bars", "of": "entity F1", "names": names, "values": values}

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tags": list(self.tags), "length": self.length}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(tuple(map(str, value["tags"])), int(value.get("length", 0)))
