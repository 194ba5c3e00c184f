"""A small transformer encoder for texts."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commonroot.common.backbone.inputs import TokenInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class TransformerSpec(BackboneSpec):
    """Self-attention (Vaswani et al., 2017, arXiv:1706.03762) with normalisation before each part.

    Pre-norm (Xiong et al., 2020, arXiv:2002.04745) trains without warm-up, which a round of a few epochs has no time
    for.  Positions are learned; padding is neither attended to nor part of the mean that represents a text.

    vocabulary  ids there are, padding (0) included
    length      tokens read of a text
    width       of the representation, a multiple of ``heads``
    heads       of attention
    layers      of attention and a two-layer perceptron of twice the width
    """

    family: Literal["transformer"] = "transformer"
    vocabulary: Annotated[int, Field(ge=2, le=4_194_304)] = 8_192
    length: Annotated[int, Field(ge=1, le=8_192)] = 128
    width: Annotated[int, Field(ge=2, le=8_192)] = 64
    heads: Annotated[int, Field(ge=1, le=256)] = 4
    layers: Annotated[int, Field(ge=1, le=64)] = 2

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be divided among {self.heads} heads")
        return self

    @property
    def input(self) -> TokenInput:
        """``length`` token ids."""
        return TokenInput(self.length, self.vocabulary)

    @property
    def outputs(self) -> int:
        """``width``."""
        return self.width

    @property
    def reads_tokens(self) -> bool:
        """True."""
        return True

    def shapes(self) -> Shapes:
        """``embedding``, ``positions``, then ``blocks.i.{before, mix, out, between, wide, back}``, then ``last``."""
        d = self.width
        out: list[tuple[str, tuple[int, ...]]] = [
            ("embedding.weight", (self.vocabulary, d)),
            ("positions.weight", (self.length, d)),
        ]
        for at in range(self.layers):
            block = f"blocks.{at}"
            out += [(f"{block}.before.gain", (d,)), (f"{block}.before.shift", (d,))]
            out += [(f"{block}.mix.weight", (3 * d, d)), (f"{block}.mix.bias", (3 * d,))]
            out += [(f"{block}.out.weight", (d, d)), (f"{block}.out.bias", (d,))]
            out += [(f"{block}.between.gain", (d,)), (f"{block}.between.shift", (d,))]
            out += [(f"{block}.wide.weight", (2 * d, d)), (f"{block}.wide.bias", (2 * d,))]
            out += [(f"{block}.back.weight", (d, 2 * d)), (f"{block}.back.bias", (d,))]
        return (*out, ("last.gain", (d,)), ("last.shift", (d,)))

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """Embeddings small enough for a few steps to move them, positions smaller, branches shared out by layers."""
        if name == "embedding.weight":
            return 0.1, 1
        if name == "positions.weight":
            return 0.01, 1
        fan = math.prod(shape[1:])
        if name.endswith(("out.weight", "back.weight")):
            return 1.0 / (2 * self.layers), fan
        return (1.0 if name.endswith("mix.weight") else 2.0), fan
