"""``quantity``: departments of different sizes.

dirichlet  shares of all rows ~ Dirichlet(alpha, …, alpha), as in Li, Diao, Chen, He, 2022, arXiv:2102.02079, "quantity
           skew"
power      the n-th largest has a share of n ** -exponent, as sizes of firms and towns have (Zipf, 1949)
lognormal  log of the size ~ N(0, sigma²), as in Caldas et al., 2018, arXiv:1812.01097
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from commonroot.simulations.worlds.by.base import Config, Random, Weights

#: What says how much a law spreads sizes.
_OF: Final = {"dirichlet": "alpha", "power": "exponent", "lognormal": "sigma"}
_Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Quantity(Config):
    """Sizes by a law.

    alpha     of ``dirichlet``: small is much skew
    exponent  of ``power``: large is much skew
    sigma     of ``lognormal``: large is much skew
    """

    kind: Literal["quantity"]
    law: Literal["dirichlet", "power", "lognormal"] = "lognormal"
    alpha: _Positive = 1.0
    exponent: Annotated[float, Field(gt=0, le=10)] = 1.0
    sigma: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _of_the_law(self) -> Self:
        stray = sorted((self.model_fields_set & set(_OF.values())) - {_OF[self.law]})
        if stray:
            raise ValueError(f"law {self.law!r} has {_OF[self.law]}, and no {', '.join(stray)}")
        return self

    def sizes(self, departments: int, random: Random) -> Weights:
        """In no order."""
        if self.law == "power":
            return random.permutation(np.arange(1.0, departments + 1.0) ** -self.exponent)
        if self.law == "lognormal":
            return np.exp(self.sigma * random.standard_normal(departments))
        return np.maximum(random.standard_gamma(self.alpha, departments), 1e-12)
