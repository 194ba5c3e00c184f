"""Rows that a model learns from, and everything a department prepares of its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tables.features import Features
from commonroot.client.tasks import Task


@dataclass(frozen=True, slots=True)
class Rows:
    """Encoded rows with their encoded target.  They never leave the department.

    x  first axis rows: (n, width), (n, steps, channels) or (n, channels, height, width) float32, (n, length) int32;
       may be mapped from a file, so take batches of it and never a copy of the whole
    y  first axis rows; shape and dtype are the task's business
    """

    x: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, at: NDArray[np.int64]) -> Rows:
        """The rows at these positions."""
        return Rows(self.x[at], self.y[at])

    def join(self, other: Rows) -> Rows:
        """These rows, then the others."""
        return Rows(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a department learns from.

    features  fitted to the training rows; raw columns to ``x``
    labelled  whether the rows to learn from have labels; where not, their y is -1 throughout, and test rows are the
              only ones whose y says anything
    notes     what is no fault, yet worth knowing; one sentence each, no values of the data
    """

    task: Task
    features: Features
    train: Rows
    validation: Rows
    test: Rows
    notes: tuple[str, ...] = ()
    labelled: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of the encoded columns, in order; of a row's channels where a row is no vector."""
        return self.features.names

    @property
    def inputs(self) -> int:
        """How many encoded columns there are."""
        return len(self.features.names)


def learnable(task: Task, rows: Rows) -> Rows:
    """The rows that may be trained on: all, but for tasks where some are what is being looked for."""
    kept = task.learnable(rows.y)
    return rows if kept.all() else rows.take(np.flatnonzero(kept))


def judged(task: Task, rows: Rows, *, seed: int) -> Rows:
    """The rows by which models are compared, of held-out ones; see ``Task.judged``."""
    x, y = task.judged(rows.x, rows.y, seed=seed)
    return rows if x is rows.x and y is rows.y else Rows(x, y)
