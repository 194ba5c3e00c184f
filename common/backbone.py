"""The shared backbone as numbers: which tensors a family has, and the weights a seed gives them.

No torch here, so the coordinator needs none: it handles tensors by name and shape, and every department builds the same
network around them from installed code (``client/model.py``).
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class BackboneSpec(BaseModel):
    """A multi-layer perceptron on standardised columns: Linear, activation, Linear, activation …

    inputs      width of a standardised row
    widths      width of each layer; the last is the representation that heads read
    activation  ``relu`` or ``tanh``
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["mlp"] = "mlp"
    inputs: Annotated[int, Field(ge=1, le=1_000_000)]
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Field(min_length=1, max_length=32)]
    activation: Literal["relu", "tanh"] = "relu"

    @property
    def outputs(self) -> int:
        """Width of the representation that heads read."""
        return self.widths[-1]

    def shapes(self) -> Shapes:
        """Every tensor by name, in packing order: ``layers.0.weight`` (out, in), ``layers.0.bias`` (out,) …"""
        sizes = (self.inputs, *self.widths)
        out: list[tuple[str, tuple[int, ...]]] = []
        for at, (wide_in, wide_out) in enumerate(itertools.pairwise(sizes)):
            out += [(f"layers.{at}.weight", (wide_out, wide_in)), (f"layers.{at}.bias", (wide_out,))]
        return tuple(out)

    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for _, shape in self.shapes())

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """The weights of version 0, the same on every machine and for every numpy: He-uniform from raw PCG64 output.

        He, Zhang, Ren, Sun, 2015, arXiv:1502.01852.  Biases start at zero.
        """
        raw = np.random.PCG64(np.random.SeedSequence([0x636F6D6D6F6E, seed]))
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, shape in self.shapes():
            if name.endswith("bias"):
                arrays[name] = np.zeros(shape, dtype=np.float32)
                continue
            gain = math.sqrt(6.0 if self.activation == "relu" else 3.0)
            unit = (raw.random_raw(math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            arrays[name] = ((2.0 * unit - 1.0) * gain / math.sqrt(shape[1])).astype(np.float32).reshape(shape)
        return arrays
