"""A value: squared error on the target standardised with training statistics, so that its chance loss is 1.

Intervals are split-conformal (Vovk, Gammerman, Shafer, 2005; Lei et al., 2018): the prediction plus order statistics of
the residuals on validation rows.  They hold on average over rows like those, not for every row, and slightly less
because the same rows chose the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import Array, Better, Floats, Learns, Task, TaskConfig
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of, numbers, read
from commonroot.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

#: Share of rows that an interval is meant to hold.
LEVEL: Final = 0.9
#: Residuals below and above a prediction that make its interval.
Interval = tuple[float, float]
#: A plot shows this many rows at most.
PLOTTED: Final = 200


class RegressionConfig(TaskConfig):
    """metric  ``R²``, or ``RMSE`` or ``MAE`` in the target's own units."""

    metric: Literal["R²", "RMSE", "MAE"] = "R²"


@dataclass(frozen=True, slots=True, repr=False)
class Values(Task):
    """What tasks that predict one number share.

    centre, scale  mean and standard deviation of the training target (scale 1 where it is constant)
    interval       offsets of the interval's ends from the prediction, or None where none was calibrated
    """

    learns: ClassVar[Learns] = "value"

    centre: float
    scale: float
    interval: Interval | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"a {self.kind} needs a finite centre and a positive scale")

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        y, problems = numbers([frame_of(target).to_series(0)], where)
        return y[:, 0], problems

    @property
    def outputs(self) -> int:
        return 1

    @property
    def chance(self) -> float:
        return 1.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square().mean()

    def targets(self, y: Array) -> Array:
        return ((y - self.centre) / self.scale).astype(np.float32)

    def predictive(self, outputs: Array) -> Floats:
        return np.asarray(outputs, dtype=np.float64)[:, 0] * self.scale + self.centre

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        return np.asarray(np.square((predicted - y) / self.scale), dtype=np.float64)

    @property
    def better(self) -> Better:
        return "higher" if self.metric == "R²" else "lower"

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        if self.metric == "R²":
            return explained(predicted, y, counts)
        if self.metric == "MAE":
            return weighted.mean(np.abs(predicted - y), counts)
        return weighted.root_mean_square(predicted - y, counts)

    def calibrated(self, predicted: Floats, y: Array) -> Task:
        return replace(self, interval=conformal(y - predicted))

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``value``, and where an interval was calibrated its ends, ``low`` and ``high``."""
        if self.interval is None:
            return {"value": predicted}
        below, above = self.interval
        return {"value": predicted, "low": predicted + below, "high": predicted + above}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """RMSE and MAE in the target's units, R², and the share of rows inside the interval with the share meant."""
        once = np.ones((1, len(y)))
        out = {
            "rmse": float(weighted.root_mean_square(predicted - y, once)[0]),
            "mae": float(weighted.mean(np.abs(predicted - y), once)[0]),
            "r2": float(explained(predicted, y, once)[0]),
        }
        shown = self.columns(predicted)
        if self.interval is None or not len(y):
            return out
        inside = (shown["low"] <= y) & (y <= shown["high"])
        return out | {"interval": {"meant": LEVEL, "held": float(inside.mean())}}

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """Predicted against true value for evenly spaced rows."""
        at = np.unique(np.linspace(0, max(len(y) - 1, 0), min(PLOTTED, len(y))).astype(np.int64))
        return {"kind": "scatter", "true": y[at].tolist(), "predicted": predicted[at].tolist()}

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": self.kind, "centre": self.centre, "scale": self.scale}
        return out if self.interval is None else out | {"interval": list(self.interval)}


@dataclass(frozen=True, slots=True, repr=False)
class Regression(Values):
    """A value of any size."""

    kind: ClassVar[str] = "regression"
    Config: ClassVar[type[TaskConfig]] = RegressionConfig

    scored: str = "R²"

    @classmethod
    def fitted(cls, y: Floats, *, metric: str = "R²") -> Regression:
        """To the training target."""
        centre, scale = moments(y)
        return cls(centre, scale, scored=metric)

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        y = training_values(target)
        centre, scale = moments(y)
        return cls(centre, scale, scored=config.metric)

    @property
    def metric(self) -> str:
        return self.scored

    def to_json(self) -> dict[str, Any]:
        return Values.to_json(self) | {"metric": self.scored}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        metric = str(value.get("metric", "R²"))
        return cls(float(value["centre"]), float(value["scale"]), interval_from(value), metric)


def training_values(target: Target) -> NDArray[np.float64]:
    """The one target column as float64.  Raises DataError for what are no numbers, or no rows."""
    y, problems = numbers([frame_of(target).to_series(0)], Where())
    read(problems)
    if not len(y):
        raise DataError("there are no training rows to learn a value from")
    return y[:, 0]


def moments(y: Floats) -> tuple[float, float]:
    """Mean and standard deviation; 1 where nothing varies."""
    spread = float(np.std(y))
    return float(np.mean(y)), spread if spread > 0 else 1.0


def explained(predicted: Floats, y: Array, counts: Floats) -> Floats:
    """R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)², ȳ of the rows scored; 0 where those rows do not vary."""
    rows = counts.sum(axis=1)
    centred = y - y.mean()  # for accuracy: R² does not depend on it
    total = counts @ np.square(centred) - np.square(counts @ centred) / rows
    error = counts @ np.square(y - predicted)
    varies = total > 1e-12 * max(float(np.square(centred).sum()), 1e-300)
    return np.asarray(np.where(varies, 1.0 - error / np.where(varies, total, 1.0), 0.0), dtype=np.float64)


def conformal(residuals: Floats, level: float = LEVEL) -> Interval | None:
    """Offsets that hold ``level`` of exchangeable new residuals, half of the rest on each side; None for too few.

    Of n residuals the ⌊(n + 1)(1 - level)/2⌋-th smallest and the same counted from the largest: 19 rows are the fewest
    for 90 %.
    """
    rank = math.floor((len(residuals) + 1) * (1.0 - level) / 2.0 + 1e-9)
    if rank < 1:
        return None
    ordered = np.sort(residuals)
    return float(ordered[rank - 1]), float(ordered[-rank])


def interval_from(value: Mapping[str, Any]) -> Interval | None:
    """The stored interval, if any."""
    found = value.get("interval")
    return None if found is None else (float(found[0]), float(found[1]))
