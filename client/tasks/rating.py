"""A rating on a scale with ends: a regression whose predictions are clipped to the scale; RMSE or MAE in its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from commonroot.client.tasks.base import Array, Floats, TaskConfig
from commonroot.client.tasks.columns import Problem, Target, Where
from commonroot.client.tasks.regression import Values, interval_from, moments, training_values
from commonroot.common.errors import ConfigError

Finite = Annotated[float, Field(allow_inf_nan=False)]


class RatingConfig(TaskConfig):
    """lowest, highest  ends of the scale; those of the training rows where not given
    metric           ``RMSE`` or ``MAE``
    """

    lowest: Finite | None = None
    highest: Finite | None = None
    metric: Literal["RMSE", "MAE"] = "RMSE"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest is not None and self.highest is not None and self.lowest >= self.highest:
            raise ValueError("the scale's lowest rating is not below its highest")
        return self


@dataclass(frozen=True, slots=True, repr=False)
class Rating(Values):
    """lowest, highest  ends of the scale
    stated           whether each was configured, so that a rating beyond it is wrong
    """

    kind: ClassVar[str] = "rating"
    Config: ClassVar[type[TaskConfig]] = RatingConfig

    lowest: float = -np.inf
    highest: float = np.inf
    stated: tuple[bool, bool] = (False, False)
    scored: str = "RMSE"

    def __post_init__(self) -> None:
        Values.__post_init__(self)
        if not self.lowest <= self.highest:
            raise ConfigError("the scale's lowest rating is above its highest")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        y = training_values(target)
        low = float(y.min()) if config.lowest is None else config.lowest
        high = float(y.max()) if config.highest is None else config.highest
        stated = (config.lowest is not None, config.highest is not None)
        centre, scale = moments(y)
        return cls(centre, scale, None, low, high, stated, config.metric)

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        y, problems = Values.encode(self, target, where)
        beyond = (self.stated[0] & (y < self.lowest)) | (self.stated[1] & (y > self.highest))
        expected = f"{self.lowest:g} to {self.highest:g}"
        fix = "mend the rating or the scale in [data.task]"
        problems += [
            where.problem("a rating beyond the scale", expected, fix, row=int(row)) for row in np.flatnonzero(beyond)
        ]
        return y, problems

    @property
    def metric(self) -> str:
        return self.scored

    def predictive(self, outputs: Array) -> Floats:
        return np.asarray(np.clip(Values.predictive(self, outputs), self.lowest, self.highest), dtype=np.float64)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """As for a regression, all within the scale."""
        return {name: np.clip(v, self.lowest, self.highest) for name, v in Values.columns(self, predicted).items()}

    def to_json(self) -> dict[str, Any]:
        ends = {"lowest": self.lowest, "highest": self.highest, "stated": list(self.stated)}
        return Values.to_json(self) | ends | {"metric": self.scored}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        low, high = value["stated"]
        return cls(
            float(value["centre"]),
            float(value["scale"]),
            interval_from(value),
            float(value["lowest"]),
            float(value["highest"]),
            (bool(low), bool(high)),
            str(value["metric"]),
        )
