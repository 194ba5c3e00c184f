"""A small residual convolutional network for images."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.backbone.inputs import ImageInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class RescnnSpec(BackboneSpec):
    """Pre-activation residual blocks, one per stage, each stage after the first at half the size.

    He, Zhang, Ren, Sun, 2016, arXiv:1603.05027, with groups of channels normalised per image (Wu, He, 2018,
    arXiv:1803.08494) instead of batches, whose statistics fit one department only.  The representation is the mean of
    the last stage over all places.

    channels, height, width  of an image
    stages                   channels of each stage; the last is the width of the representation
    """

    family: Literal["rescnn"] = "rescnn"
    channels: Annotated[int, Field(ge=1, le=4_096)] = 3
    height: Annotated[int, Field(ge=1, le=16_384)] = 32
    width: Annotated[int, Field(ge=1, le=16_384)] = 32
    stages: Annotated[tuple[Annotated[int, Field(ge=2, le=8_192)], ...], Field(min_length=1, max_length=8)] = (
        16,
        32,
        64,
    )

    @property
    def input(self) -> ImageInput:
        """Images of ``channels`` by ``height`` by ``width``."""
        return ImageInput(self.channels, self.height, self.width)

    @property
    def outputs(self) -> int:
        """The last of ``stages``."""
        return self.stages[-1]

    def shapes(self) -> Shapes:
        """``entry.…``, then ``stages.i.{before, first, between, second[, shortcut]}.…``, then ``last.…``."""
        d = self.stages[0]
        out: list[tuple[str, tuple[int, ...]]] = [("entry.weight", (d, self.channels, 3, 3)), ("entry.bias", (d,))]
        for at, wide in enumerate(self.stages):
            stage = f"stages.{at}"
            out += [(f"{stage}.before.gain", (d,)), (f"{stage}.before.shift", (d,))]
            out += [(f"{stage}.first.weight", (wide, d, 3, 3)), (f"{stage}.first.bias", (wide,))]
            out += [(f"{stage}.between.gain", (wide,)), (f"{stage}.between.shift", (wide,))]
            out += [(f"{stage}.second.weight", (wide, wide, 3, 3)), (f"{stage}.second.bias", (wide,))]
            if at:
                out += [(f"{stage}.shortcut.weight", (wide, d, 1, 1)), (f"{stage}.shortcut.bias", (wide,))]
            d = wide
        return (*out, ("last.gain", (d,)), ("last.shift", (d,)))

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """A stage's branch adds as much variance as its shortcut carries."""
        fan = math.prod(shape[1:])
        return (2.0 if name.endswith(("first.weight",)) else 1.0), fan
