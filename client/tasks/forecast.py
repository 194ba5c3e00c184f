"""Forecasts: quantiles of the next ``horizon`` values, and the order that follows from them.

Trained by the pinball loss (Koenker and Bassett, 1978) on the target standardised with training statistics; its chance
loss is that of each step's own training quantiles.  Predicted quantiles are put in ascending order, which never raises
the loss (Chernozhukov, Fernández-Val, Galichon, 2010).

Scored by WAPE = Σ|y - median| / Σ|y|, by the mean pinball loss, or by the cost of the inventory decision.

The target is ``horizon`` columns, or one list column, of the values that follow each row; x may hold past values of the
same series in one channel, which only the seasonal baseline has to know about (``channel``, ``season``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import Array, Better, Floats, Learns, Task, TaskConfig
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of, numbers, read
from commonroot.client.tasks.inventory import Inventory
from commonroot.client.tasks.regression import moments
from commonroot.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

Quantile = Annotated[float, Field(gt=0, lt=1)]
Cost = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ForecastConfig(TaskConfig):
    """horizon    values ahead; as many as there are target columns where not given
    quantiles  to learn; the median and the inventory's critical ratio are added where missing
    under_cost, over_cost  of a unit short and of a unit left over; both or neither
    metric     ``WAPE``, ``pinball`` (in the target's units) or ``cost`` (a step, in the costs' units)
    season     steps of a period, for the seasonal baseline; 1 repeats the last value
    channel    of x's channels (of a sequence) the series' own past, for the seasonal baseline
    """

    horizon: Annotated[int, Field(ge=1, le=10_000)] | None = None
    quantiles: Annotated[tuple[Quantile, ...], Field(min_length=1, max_length=99)] = (0.1, 0.5, 0.9)
    under_cost: Cost | None = None
    over_cost: Cost | None = None
    metric: Literal["WAPE", "pinball", "cost"] = "WAPE"
    season: Annotated[int, Field(ge=1)] = 1
    channel: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _costs_agree(self) -> Self:
        if (self.under_cost is None) != (self.over_cost is None):
            raise ValueError("give both under_cost and over_cost, or neither")
        if self.metric == "cost" and self.under_cost is None:
            raise ValueError('metric = "cost" needs under_cost and over_cost')
        return self

    def inventory(self) -> Inventory | None:
        """The decision to be made, if any."""
        if self.under_cost is None or self.over_cost is None:
            return None
        return Inventory(self.under_cost, self.over_cost)


@dataclass(frozen=True, slots=True, repr=False)
class Forecast(Task):
    """y is (n, horizon) float64 in the target's own units.

    quantiles      ascending, with 0.5 and the inventory's critical ratio among them
    centre, scale  of all training values
    floor          mean pinball loss, standardised, of each step's training quantiles
    """

    kind: ClassVar[str] = "forecast"
    Config: ClassVar[type[TaskConfig]] = ForecastConfig
    learns: ClassVar[Learns] = "values"

    horizon: int
    quantiles: tuple[float, ...]
    centre: float
    scale: float
    floor: float
    inventory: Inventory | None = None
    scored: str = "WAPE"
    season: int = 1
    channel: int = 0

    def __post_init__(self) -> None:
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ConfigError("a forecast's quantiles ascend and hold the median")
        if not (math.isfinite(self.centre) and self.scale > 0 and self.floor > 0 and self.horizon >= 1):
            raise ConfigError("a forecast needs a horizon, a finite centre, and a positive scale and floor")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        columns = _steps(frame_of(target))
        y, problems = numbers(columns, Where())
        read(problems)
        if not y.size:
            raise DataError("there are no training values to forecast from")
        if config.horizon is not None and config.horizon != y.shape[1]:
            raise DataError(f"the target holds {y.shape[1]} value(s) a row; horizon = {config.horizon}")
        inventory = config.inventory()
        wanted = {0.5, *config.quantiles, *([] if inventory is None else [inventory.quantile])}
        quantiles = tuple(sorted(wanted))
        centre, scale = moments(y)
        guess = np.moveaxis(np.quantile((y - centre) / scale, quantiles, axis=0), 0, -1)[None]
        floor = float(pinball((y - centre) / scale, guess, quantiles).mean())
        if not floor > 0:
            floor = 1.0  # training values that never vary: any scale will do
        return cls(y.shape[1], quantiles, centre, scale, floor, inventory, config.metric, config.season, config.channel)

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        y, problems = numbers(_steps(frame_of(target)), where)
        if y.shape[1] != self.horizon:
            problems.append(where.problem(f"{y.shape[1]} target values a row", f"{self.horizon}", "mend the target"))
        return y, problems

    @property
    def outputs(self) -> int:
        return self.horizon * len(self.quantiles)

    @property
    def chance(self) -> float:
        return self.floor

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch import maximum, tensor

        share = tensor(self.quantiles, dtype=outputs.dtype, device=outputs.device)
        missed = targets[:, :, None] - outputs.reshape(len(outputs), self.horizon, len(self.quantiles))
        return maximum(share * missed, (share - 1.0) * missed).mean()

    def targets(self, y: Array) -> Array:
        return ((y - self.centre) / self.scale).astype(np.float32)

    def predictive(self, outputs: Array) -> Floats:
        found = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), self.horizon, len(self.quantiles))
        return np.sort(found, axis=2) * self.scale + self.centre

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        found = pinball(y, predicted, self.quantiles).mean(axis=(1, 2)) / (self.scale * self.floor)
        return np.asarray(found, dtype=np.float64)

    @property
    def metric(self) -> str:
        return self.scored

    @property
    def better(self) -> Better:
        return "lower"

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        if self.scored == "pinball":
            return weighted.mean(pinball(y, predicted, self.quantiles).mean(axis=(1, 2)), counts)
        if self.scored == "cost" and self.inventory is not None:
            return weighted.mean(self.costs(predicted, y).mean(axis=1), counts)
        missed = np.abs(y - self.at(predicted, 0.5)).sum(axis=1)
        return weighted.ratio(counts @ missed, counts @ np.abs(y).sum(axis=1))

    def at(self, predicted: Floats, quantile: float) -> Floats:
        """One of the task's quantiles, (n, horizon)."""
        return predicted[:, :, self.quantiles.index(quantile)]

    def orders(self, predicted: Floats) -> Floats:
        """What to order for each step, (n, horizon).  Raises ConfigError without costs."""
        if self.inventory is None:
            raise ConfigError("an order needs under_cost and over_cost")
        return self.inventory.order(self.at(predicted, self.inventory.quantile))

    def costs(self, predicted: Floats, y: Array) -> Floats:
        """What those orders cost against the true demand, (n, horizon)."""
        if self.inventory is None:
            raise ConfigError("a cost needs under_cost and over_cost")
        return self.inventory.cost(self.orders(predicted), y)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``step H quantile Q`` for every step and quantile, and ``order step H`` where there are costs."""
        out = {
            f"step {step + 1} quantile {quantile:.4g}": predicted[:, step, at]
            for step in range(self.horizon)
            for at, quantile in enumerate(self.quantiles)
        }
        if self.inventory is not None:
            orders = self.orders(predicted)
            out |= {f"order step {step + 1}": orders[:, step] for step in range(self.horizon)}
        return out

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """WAPE, mean pinball loss, share of values below each quantile, WAPE by step; cost and order with costs."""
        missed = np.abs(y - self.at(predicted, 0.5))
        below = (y[:, :, None] <= predicted).mean(axis=(0, 1)) if len(y) else np.zeros(len(self.quantiles))
        out: dict[str, Any] = {
            "wape": float(weighted.ratio(missed.sum(), np.abs(y).sum())),
            "pinball": float(pinball(y, predicted, self.quantiles).mean()) if len(y) else 0.0,
            "below": [{"quantile": q, "held": float(share)} for q, share in zip(self.quantiles, below, strict=True)],
            "wape_by_step": weighted.ratio(missed.sum(axis=0), np.abs(y).sum(axis=0)).tolist(),
        }
        if self.inventory is not None and len(y):
            of_median = self.inventory.cost(self.inventory.order(self.at(predicted, 0.5)), y)
            out["inventory"] = {
                "quantile": self.inventory.quantile,
                "cost_per_step": float(self.costs(predicted, y).mean()),
                "cost_per_step_of_ordering_the_median": float(of_median.mean()),
                "ordered": float(self.orders(predicted).sum()),
                "demanded": float(y.sum()),
            }
        return out

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """Averaged over rows: the true values and each quantile by step."""
        bands = {f"{q:.4g}": predicted[:, :, at].mean(axis=0).tolist() for at, q in enumerate(self.quantiles)}
        return {"kind": "bands", "true": y.mean(axis=0).tolist(), "quantiles": bands}

    def to_json(self) -> dict[str, Any]:
        costs = None if self.inventory is None else [self.inventory.under, self.inventory.over]
        return {
            "kind": self.kind,
            "horizon": self.horizon,
            "quantiles": list(self.quantiles),
            "centre": self.centre,
            "scale": self.scale,
            "floor": self.floor,
            "costs": costs,
            "metric": self.scored,
            "season": self.season,
            "channel": self.channel,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        costs = value["costs"]
        return cls(
            int(value["horizon"]),
            tuple(map(float, value["quantiles"])),
            float(value["centre"]),
            float(value["scale"]),
            float(value["floor"]),
            None if costs is None else Inventory(float(costs[0]), float(costs[1])),
            str(value["metric"]),
            int(value["season"]),
            int(value["channel"]),
        )


def pinball(y: Array, predicted: Floats, quantiles: tuple[float, ...]) -> Floats:
    """max(τ·(y - q), (τ - 1)·(y - q)) for y (n, horizon) and q (n, horizon, quantiles)."""
    share = np.asarray(quantiles)
    missed = np.asarray(y)[:, :, None] - predicted
    return np.asarray(np.maximum(share * missed, (share - 1.0) * missed), dtype=np.float64)


def _steps(frame: pl.DataFrame) -> list[pl.Series]:
    """One series per step, of columns side by side or of one list column whose rows are equally long."""
    if frame.width != 1 or not isinstance(frame.dtypes[0], pl.List | pl.Array):
        return frame.get_columns()
    column = frame.to_series(0).cast(pl.List(pl.Float64))
    lengths = column.list.len()
    longest = int(lengths.max() or 0)  # type: ignore[arg-type]
    return [column.list.get(step, null_on_oob=True).alias(f"{column.name} {step + 1}") for step in range(longest)]
