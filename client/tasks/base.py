"""What every task answers, so that any can be trained, compared, averaged and told without knowing which it is.

Head outputs → ``predictive`` → the task's *prediction array*, which only the task itself reads.  Arrays of different
models for the same rows are averaged and compared as they are:

binary, classification, fault  (n, classes)              probabilities
multilabel                     (n, labels)               probability of each label by itself
regression, rating, life       (n,)                      values in the target's own units
forecast                       (n, horizon, quantiles)   quantiles in the target's own units, ascending
anomaly                        (n,)                      log of the error over its threshold; above 0 is an anomaly
tagging                        (n, length, tags)         probabilities per token

A task is frozen.  ``learn`` makes it from the target columns of the *training* rows; ``fitted_to`` completes it with
what only the features tell (the size of what is reconstructed, the length of texts), before anything is encoded.
Losses of different tasks are brought to one scale by their chance loss (log C, log 2, Var(y) …), which keeps a
regression from drowning a classification in a common backbone.  torch is imported only where a loss of tensors is
asked for.

A user's own task is a subclass in an installed package, found by the entry point group ``commonroot.tasks``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from commonroot.client.tasks.columns import Problem, Target, Where

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Floats = NDArray[np.float64]
Better = Literal["higher", "lower"]
#: What a training target looks like, which decides how baselines are fitted to it:
#: ``label`` (n,) positions · ``labels`` (n, L) 0/1 · ``value`` (n,) · ``values`` (n, k) · ``tokens`` (n, length)
#: positions, -1 for none · ``itself`` the features
Learns = Literal["label", "labels", "value", "values", "tokens", "itself"]
#: Probabilities below this count as this in a log loss, so that one confident error stays finite.
LEAST_PROBABILITY: Final = 1e-4
#: Metrics that are fractions are told in hundredths.
POINTS: Final = 100.0


class TaskConfig(BaseModel):
    """``[data.task]``: what a task can be told.  ``task = "KIND"`` is short for ``kind = "KIND"`` and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    def seen(self, target: Target) -> Self:
        """Completed with what the *whole* table says and no split may hide: the set of labels."""
        del target
        return self


class Task(ABC):
    """One kind of prediction, fitted to a department's target.  Instances are frozen dataclasses.

    kind         its name in ``department.toml``
    Config       the model of its section there
    learns       what a training target looks like
    per_token    head outputs are (n, length, outputs) instead of (n, outputs)
    reconstructs head outputs are compared with the features themselves: ``loss`` takes them flattened as targets
    tempered     outputs are logits that a temperature divides
    needs_target there is nothing to learn without a target column
    metric       what the report tells, and ``better``, its direction
    """

    __slots__ = ()

    kind: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    learns: ClassVar[Learns]
    per_token: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    tempered: ClassVar[bool] = False
    needs_target: ClassVar[bool] = True

    def __repr__(self) -> str:
        """The kind alone: labels and statistics of the target belong to the department."""
        return f"{type(self).__name__}(…)"

    # -- made from a department's target ---------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def learn(cls, config: Any, target: Target) -> Self:
        """From the target of the training rows.  Raises DataError or ConfigError where nothing can be learned."""

    @abstractmethod
    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        """Target columns of any rows as y, its first axis rows; with every cell that cannot be read as a problem."""

    def fitted_to(self, x: Array) -> Task:
        """Completed with what training rows (n, …) tell; most tasks need nothing."""
        del x
        return self

    # -- what a network learns -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the head."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Loss of knowing nothing, in the units of ``loss``; positive."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of head outputs against ``targets(y)`` as a tensor; not yet divided by chance."""

    @abstractmethod
    def targets(self, y: Array) -> Array:
        """y (x where it ``reconstructs``) in the form that ``loss`` takes: int64 positions or float32 values."""

    def learnable(self, y: Array) -> NDArray[np.bool_]:
        """Which rows may be trained on; all of them, except where y says that a row is what is being looked for."""
        return np.ones(len(y), dtype=np.bool_)

    # -- what is predicted -----------------------------------------------------------------------------------------

    @abstractmethod
    def predictive(self, outputs: Array) -> Floats:
        """Head outputs as this task's prediction array."""

    def settled(self, outputs: Array, x: Array) -> Array:
        """Head outputs after whatever has to be compared with the rows (n, …) themselves; most tasks: unchanged."""
        del x
        return outputs

    def shift(self, outputs: Array, y: Array) -> float:
        """What is taken off a model's outputs, found on held-out rows: 0 but for tasks with a threshold."""
        del outputs, y
        return 0.0

    @abstractmethod
    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        """A proper score per row, (n,), in multiples of chance; its mean is what models are compared by."""

    def calibrated(self, predicted: Floats, y: Array) -> Task:
        """The task with intervals from held-out rows, where it has any; prediction arrays are not changed by it."""
        del predicted, y
        return self

    @abstractmethod
    def columns(self, predicted: Floats) -> dict[str, Array]:
        """The prediction array as named columns for people, each (n,)."""

    # -- what is told ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def metric(self) -> str:
        """Name of what ``scores`` returns."""

    @property
    def better(self) -> Better:
        """Which way the metric is better."""
        return "higher"

    @property
    def unit(self) -> Literal["points", "%"]:
        """Of a gain: hundredths of a metric that is a fraction, or the share of an error that is gone."""
        return "points" if self.better == "higher" else "%"

    @abstractmethod
    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        """The metric on weighted rows, (repeats,): ``counts`` is (repeats, n), one resampling of the rows per line."""

    @property
    def labelled(self) -> bool:
        """Does y say what should have been predicted?  Without labels, test rows are ``judged`` as well."""
        return True

    def judged(self, x: Array, y: Array, *, seed: int) -> tuple[Array, Array]:
        """The rows by which models are compared, of held-out ones; most tasks: these."""
        del seed
        return x, y

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """More about held-out rows than one metric says; JSON values."""
        del predicted, y
        return {}

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """One picture of held-out rows as JSON values: ``kind`` says how to draw the rest."""
        del predicted, y
        return {}

    # -- stored ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to read predictions, under ``kind``; the inverse of ``registry.task_from_json``."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``."""


def score(task: Task, predicted: Floats, y: Array) -> float:
    """The task's metric on rows as they are."""
    return float(task.scores(predicted, y, np.ones((1, len(y))))[0])


def softmax(outputs: Array) -> Floats:
    """Over the last axis, in float64."""
    shifted = np.asarray(outputs, dtype=np.float64)
    raised = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float64)


def sigmoid(outputs: Array) -> Floats:
    """Element by element, in float64, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(outputs, dtype=np.float64))), dtype=np.float64)
