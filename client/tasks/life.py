"""Remaining useful life: how many cycles until a machine fails.

Far from failure nothing in the sensors tells 200 cycles from 300, so lives are capped before learning (Heimes, 2008,
with 130; 125 is usual for C-MAPSS) and predictions lie between 0 and the cap.  Scored by RMSE against the capped life;
the report adds the score of the 2008 prognostics challenge (Saxena, Goebel, Simon, Eklund, 2008), which punishes saying
too late (d > 0) more than too early:  Σ exp(-d/13) - 1 for d < 0, exp(d/10) - 1 for d ≥ 0,  d = predicted - true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

import numpy as np
from pydantic import Field

from commonroot.client.tasks.base import Array, Floats, TaskConfig
from commonroot.client.tasks.columns import Problem, Target, Where
from commonroot.client.tasks.regression import Values, interval_from, moments, training_values
from commonroot.common.errors import ConfigError

#: Exponents beyond this are cut off, so that one wild prediction does not end in infinity.
_LARGEST_EXPONENT: Final = 500.0


class LifeConfig(TaskConfig):
    """cap  lives above this count as this; in the unit of the target column."""

    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 125.0


@dataclass(frozen=True, slots=True, repr=False)
class Life(Values):
    """cap  the longest life that is told apart."""

    kind: ClassVar[str] = "life"
    Config: ClassVar[type[TaskConfig]] = LifeConfig

    cap: float = 125.0

    def __post_init__(self) -> None:
        Values.__post_init__(self)
        if not self.cap > 0:
            raise ConfigError("the cap of a remaining life is positive")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        centre, scale = moments(np.clip(training_values(target), 0.0, config.cap))
        return cls(centre, scale, None, config.cap)

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        y, problems = Values.encode(self, target, where)
        fix = "count down to 0 at failure"
        problems += [where.problem("a negative life", "0 or more", fix, row=int(row)) for row in np.flatnonzero(y < 0)]
        return np.minimum(y, self.cap), problems

    @property
    def metric(self) -> str:
        return "RMSE"

    def predictive(self, outputs: Array) -> Floats:
        return np.asarray(np.clip(Values.predictive(self, outputs), 0.0, self.cap), dtype=np.float64)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``remaining life``, and the ends of its interval where calibrated, all within 0 and the cap."""
        found = {name: np.clip(v, 0.0, self.cap) for name, v in Values.columns(self, predicted).items()}
        return {"remaining life": found.pop("value"), **found}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """As for a regression; ``phm08``, the challenge's score summed over rows, and ``late``, the share said late."""
        late = float(np.mean(predicted > y)) if len(y) else 0.0
        return Values.facts(self, predicted, y) | {"phm08": float(phm08(predicted - y).sum()), "late": late}

    def to_json(self) -> dict[str, Any]:
        return Values.to_json(self) | {"cap": self.cap}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(float(value["centre"]), float(value["scale"]), interval_from(value), float(value["cap"]))


def phm08(lateness: Floats) -> Floats:
    """The penalty of each row from predicted less true life, in cycles."""
    exponent = np.where(lateness < 0, -lateness / 13.0, lateness / 10.0)
    return np.asarray(np.expm1(np.minimum(exponent, _LARGEST_EXPONENT)), dtype=np.float64)
