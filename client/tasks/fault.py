"""Fault diagnosis: which fault a machine has, or none; a classification where the rare labels are what matters.

Scored by balanced accuracy, so that "no fault" on every row scores 1/C however rare faults are, and told per fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from commonroot.client.tasks.base import Array, Floats, TaskConfig
from commonroot.client.tasks.classes import Classes, ClassesConfig, by_label, confusion
from commonroot.client.tasks.columns import Target
from commonroot.common.errors import DataError


class FaultConfig(ClassesConfig):
    """healthy  the label that means no fault; without one, every label is a fault
    weights  ``balanced`` unless told ``none``
    """

    healthy: str | int | None = None
    weights: Literal["balanced", "none"] = "balanced"  # type: ignore[assignment]

    @model_validator(mode="after")
    def _healthy_is_a_label(self) -> Self:
        listed = None if self.labels is None else {str(label) for label in self.labels}
        if self.healthy is not None and listed is not None and str(self.healthy) not in listed:
            raise ValueError("`healthy` is not among the labels")
        return self


@dataclass(frozen=True, slots=True, repr=False)
class Fault(Classes):
    """healthy  the label that means no fault, or None."""

    kind: ClassVar[str] = "fault"
    Config: ClassVar[type[TaskConfig]] = FaultConfig

    healthy: str | None = None

    @classmethod
    def usual_metric(cls, balanced: bool) -> str:
        return "balanced accuracy"

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        made = super(Fault, cls).learn(config, target)
        healthy = None if config.healthy is None else str(config.healthy)
        if healthy is not None and healthy not in made.labels:
            raise DataError(f"no row has the healthy label {healthy[:24]!r}")
        return cls(made.labels, made.weights, made.scored, healthy, expected=made.expected)

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """``faults``: rows, recall and precision of each fault, the worst found first; with ``healthy`` named, how many
        faulty rows were noticed as any fault (``noticed``) and healthy ones alarmed (``false_alarms``), as shares."""
        labels = by_label(self.labels, confusion(predicted, y, len(self.labels)))
        faults = [line for line in labels if line["label"] != self.healthy]
        faults.sort(key=lambda line: (line["recall"] is None, line["recall"] or 0.0))
        out: dict[str, Any] = {"faults": faults, "by_label": labels}
        if self.healthy is not None:
            well = self.labels.index(self.healthy)
            alarmed, faulty = predicted.argmax(axis=1) != well, y != well
            out["noticed"] = float(np.mean(alarmed[faulty])) if faulty.any() else None
            out["false_alarms"] = float(np.mean(alarmed[~faulty])) if (~faulty).any() else None
        return out

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``fault`` instead of ``class``, the probability of any fault where one label is healthy, and of each."""
        found = Classes.columns(self, predicted)
        out = {"fault": found.pop("class")}
        if self.healthy is not None:
            out["probability of any fault"] = 1.0 - predicted[:, self.labels.index(self.healthy)]
        return out | found

    def to_json(self) -> dict[str, Any]:
        return Classes.to_json(self) | {"healthy": self.healthy}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        made = super(Fault, cls).from_json(value)
        healthy = value.get("healthy")
        named = None if healthy is None else str(healthy)
        return cls(made.labels, made.weights, made.scored, named, expected=made.expected)
