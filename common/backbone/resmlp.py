"""A residual perceptron for tables, with normalisation before each block."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.backbone.inputs import RowInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class ResmlpSpec(BackboneSpec):
    """``ResNet`` of Gorishniy, Rubachev, Khrulkov, Babenko, 2021, arXiv:2106.11959, on layer instead of batch norms.

        h = entry(x);   h = h + back(dropout(relu(wide(level(h)))));   relu(level(h))

    Batch statistics of one department say something of its rows and fit nobody else's, so levels are taken per row.

    inputs   width of a standardised row
    width    of every layer, and of the representation
    blocks   residual blocks
    dropout  share of a block's hidden values that a training step leaves out
    """

    family: Literal["resmlp"] = "resmlp"
    inputs: Annotated[int, Field(ge=1, le=1_000_000)]
    width: Annotated[int, Field(ge=2, le=65_536)] = 64
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def input(self) -> RowInput:
        """Rows of ``inputs`` columns."""
        return RowInput(self.inputs)

    @property
    def outputs(self) -> int:
        """``width``."""
        return self.width

    def shapes(self) -> Shapes:
        """``entry.…``, then ``blocks.i.{level, wide, back}.…``, then ``last.{gain, shift}``."""
        d = self.width
        out: list[tuple[str, tuple[int, ...]]] = [("entry.weight", (d, self.inputs)), ("entry.bias", (d,))]
        for at in range(self.blocks):
            block = f"blocks.{at}"
            out += [(f"{block}.level.gain", (d,)), (f"{block}.level.shift", (d,))]
            out += [(f"{block}.wide.weight", (d, d)), (f"{block}.wide.bias", (d,))]
            out += [(f"{block}.back.weight", (d, d)), (f"{block}.back.bias", (d,))]
        return (*out, ("last.gain", (d,)), ("last.shift", (d,)))

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """Branches together add as much variance as they are added to."""
        fan = math.prod(shape[1:])
        if name.endswith("back.weight"):
            return 1.0 / self.blocks, fan
        return (1.0 if name.startswith("entry") else 2.0), fan
