"""Dilated causal convolutions for sequences."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.backbone.inputs import SequenceInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class TcnSpec(BackboneSpec):
    """A temporal convolutional network: Bai, Kolter, Koltun, 2018, arXiv:1803.01271, with levels before each block.

        h = entry(x_t);   h = h + back(relu(wide_dilated(level(h))));   relu(exit([h at the last step, mean of h]))

    Block i looks 2^i steps apart, so the last step sees 1 + (kernel - 1)·(2^layers - 1) steps; the mean sees all.

    steps     of a window
    channels  readings at each step
    width     of every layer, and of the representation
    layers    residual blocks
    kernel    steps that one convolution joins
    """

    family: Literal["tcn"] = "tcn"
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    channels: Annotated[int, Field(ge=1, le=65_536)]
    width: Annotated[int, Field(ge=2, le=65_536)] = 32
    layers: Annotated[int, Field(ge=1, le=20)] = 4
    kernel: Annotated[int, Field(ge=2, le=64)] = 3

    @property
    def input(self) -> SequenceInput:
        """Windows of ``steps`` by ``channels``."""
        return SequenceInput(self.steps, self.channels)

    @property
    def outputs(self) -> int:
        """``width``."""
        return self.width

    def shapes(self) -> Shapes:
        """``entry.…``, then ``blocks.i.{level, wide, back}.…``, then ``last.…`` and ``exit.…``."""
        d = self.width
        out: list[tuple[str, tuple[int, ...]]] = [("entry.weight", (d, self.channels)), ("entry.bias", (d,))]
        for at in range(self.layers):
            block = f"blocks.{at}"
            out += [(f"{block}.level.gain", (d,)), (f"{block}.level.shift", (d,))]
            out += [(f"{block}.wide.weight", (d, d, self.kernel)), (f"{block}.wide.bias", (d,))]
            out += [(f"{block}.back.weight", (d, d)), (f"{block}.back.bias", (d,))]
        out += [("last.gain", (d,)), ("last.shift", (d,))]
        return (*out, ("exit.weight", (d, 2 * d)), ("exit.bias", (d,)))

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """Branches together add as much variance as they are added to."""
        fan = math.prod(shape[1:])
        if name.endswith("back.weight"):
            return 1.0 / self.layers, fan
        return (1.0 if name.startswith("entry") else 2.0), fan
