"""A multi-layer perceptron: the smallest backbone that learns anything, and the usual one."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.backbone.inputs import RowInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class MlpSpec(BackboneSpec):
    """Linear, activation, Linear, activation … on standardised columns.

    inputs      width of a standardised row
    widths      width of each layer; the last is the representation that heads read
    activation  ``relu`` or ``tanh``
    """

    family: Literal["mlp"] = "mlp"
    inputs: Annotated[int, Field(ge=1, le=1_000_000)]
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Field(min_length=1, max_length=32)]
    activation: Literal["relu", "tanh"] = "relu"

    @property
    def input(self) -> RowInput:
        """Rows of ``inputs`` columns."""
        return RowInput(self.inputs)

    @property
    def outputs(self) -> int:
        """The last of ``widths``."""
        return self.widths[-1]

    def shapes(self) -> Shapes:
        """``layers.0.weight`` (out, in), ``layers.0.bias`` (out,) …"""
        sizes = (self.inputs, *self.widths)
        out: list[tuple[str, tuple[int, ...]]] = []
        for at, (wide_in, wide_out) in enumerate(itertools.pairwise(sizes)):
            out += [(f"layers.{at}.weight", (wide_out, wide_in)), (f"layers.{at}.bias", (wide_out,))]
        return tuple(out)

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """v = 2 for ``relu`` and 1 for ``tanh``."""
        return (2.0 if self.activation == "relu" else 1.0), math.prod(shape[1:])
