"""How much to order: the newsvendor's decision (Arrow, Harris, Marschak, 1951).

With c_u lost on each unit of demand that is not met and c_o on each unit left over, the expected cost of ordering q is
least where P(demand ≤ q) = c_u / (c_u + c_o): the order is that quantile of the forecast, and its cost is
(c_u + c_o) times the quantile's pinball loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from commonroot.client.tasks.base import Array, Floats
from commonroot.common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Inventory:
    """under  c_u, cost of each unit short; over  c_o, cost of each unit left."""

    under: float
    over: float

    def __post_init__(self) -> None:
        if not (self.under > 0 and self.over > 0):
            raise ConfigError("the costs of a unit short and of a unit left over are positive")

    @property
    def quantile(self) -> float:
        """The critical ratio c_u / (c_u + c_o)."""
        return self.under / (self.under + self.over)

    def order(self, forecast: Floats) -> Floats:
        """From the critical quantile; nobody orders less than nothing."""
        return np.asarray(np.maximum(forecast, 0.0), dtype=np.float64)

    def cost(self, ordered: Floats, demand: Array) -> Floats:
        """c_u·(demand - ordered)⁺ + c_o·(ordered - demand)⁺, element by element."""
        short = demand - ordered
        return np.asarray(np.where(short > 0, self.under * short, -self.over * short), dtype=np.float64)
