"""What the coordinator does with an averaged change: take it, or let an optimiser take it.

average    θ ← θ + η·Δ                                   η = 1 is FedAvg, η < 1 is Reptile
momentum   v ← β₁v + Δ;           θ ← θ + η·v             Hsu, Qi, Brown, 2019, arXiv:1909.06335, section 4
adam       m ← β₁m + (1 - β₁)Δ;   v ← β₂v + (1 - β₂)Δ²;   θ ← θ + η·m / (√v + τ)
yogi       likewise with          v ← v - (1 - β₂)·Δ²·sign(v - Δ²)

The last two are algorithm 2 of Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, 2021, arXiv:2003.00295,
with v starting at τ² and without bias correction, as there.

Why honest steps are never refused
----------------------------------
A department refuses a backbone that lies further from an earlier one than (versions between them)·C·SLACK
(``averaging.check_step``), C being ``update_clip``.  Every part of a mean is clipped to C, so a plain average keeps to
that by itself; a buffer that adds up ten rounds, or a division by √v, does not.  So the whole step, over all tensors
averaged together, is scaled down to length C where it is longer.  Each version then moves by C at the most, sums of k
steps by k·C, and the quarter that SLACK adds is many times what rounding the tensors to float32 can add.  Buffers are
kept as they were before that scaling: they say where to go, the bound only how far in one round.

The buffers live in the coordinator's state under ``server/…``, which no broadcast lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from commonroot.common.backbone import Shapes
from commonroot.strategies.base import Tensors

Doubles = NDArray[np.float64]
Arrays = dict[str, NDArray[np.float32]]
#: Names that start so stay at the coordinator.
PREFIX: Final = "server/"
#: Step sizes where the charter names none; a buffer with β₁ = 0.9 adds up ten changes, of which three are taken.
USUAL_RATE: Final = {"average": 1.0, "momentum": 0.3, "adam": 0.03, "yogi": 0.03}
BUFFERS: Final[dict[str, tuple[str, ...]]] = {
    "average": (),
    "momentum": ("first",),
    "adam": ("first", "second"),
    "yogi": ("first", "second"),
}

Share = Annotated[float, Field(ge=0, lt=1)]


class ServerStep(BaseModel):
    """The options that every averaging method has for the coordinator's step.

    server        ``average``, ``momentum``, ``adam`` or ``yogi``
    server_rate   η; by default 1 for ``average``, 0.3 for ``momentum``, 0.03 for ``adam`` and ``yogi``
    server_beta1  β₁, decay of the buffer of changes
    server_beta2  β₂, decay of the buffer of their squares; ``adam`` and ``yogi``
    server_tau    τ, how careful ``adam`` and ``yogi`` are where changes are small

    Guarantees
    ----------
    * ``average`` with rate 1, and ``momentum`` with β₁ = 0 and rate 1, are FedAvg
    * no step is longer than ``update_clip``, but for a plain average, which is not longer than what it averages
    * a round nobody answered changes no buffer
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    server: Literal["average", "momentum", "adam", "yogi"] = "average"
    server_rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    server_beta1: Share = 0.9
    server_beta2: Share = 0.99
    server_tau: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-3

    @property
    def rate(self) -> float:
        """η."""
        return USUAL_RATE[self.server] if self.server_rate is None else self.server_rate

    def first_buffers(self, shapes: Shapes) -> Arrays:
        """The buffers of these tensors before the first round: changes 0, squares τ²."""
        start = {"first": 0.0, "second": self.server_tau**2}
        return {
            f"{PREFIX}{buffer}/{name}": np.full(shape, start[buffer], dtype=np.float32)
            for buffer in BUFFERS[self.server]
            for name, shape in shapes
        }

    def stepped(self, state: Tensors, means: Mapping[str, Doubles], *, clip: float) -> Arrays:
        """Tensors of these names, moved by their mean changes, and their buffers; float64 inside.

        A buffer that the state lacks is taken for the first one.
        """
        buffers: Arrays = {}
        steps: dict[str, Doubles] = {}
        first = self.first_buffers(tuple((name, mean.shape) for name, mean in means.items()))
        for name, mean in means.items():
            held = {
                buffer: np.asarray(state.get(key, first[key]), dtype=np.float64)
                for buffer in BUFFERS[self.server]
                for key in (f"{PREFIX}{buffer}/{name}",)
            }
            steps[name], moved = self._direction(mean, held)
            buffers |= {f"{PREFIX}{buffer}/{name}": array.astype(np.float32) for buffer, array in moved.items()}
        factor = self.rate
        if self.server != "average" or self.rate > 1:
            length = self.rate * math.sqrt(sum(float(np.vdot(step, step)) for step in steps.values()))
            factor *= min(1.0, clip / max(length, 1e-300))
        moved_to = {
            name: (state[name].astype(np.float64) + factor * step).astype(np.float32) for name, step in steps.items()
        }
        return moved_to | buffers

    def _direction(self, mean: Doubles, held: dict[str, Doubles]) -> tuple[Doubles, dict[str, Doubles]]:
        """Where one tensor goes, before the rate, and its buffers afterwards."""
        if self.server == "average":
            return mean, {}
        if self.server == "momentum":
            following = self.server_beta1 * held["first"] + mean
            return following, {"first": following}
        first = self.server_beta1 * held["first"] + (1 - self.server_beta1) * mean
        squares, new = held["second"], mean * mean
        if self.server == "adam":
            second = self.server_beta2 * squares + (1 - self.server_beta2) * new
        else:
            second = squares - (1 - self.server_beta2) * new * np.sign(squares - new)
        return first / (np.sqrt(second) + self.server_tau), {"first": first, "second": second}
