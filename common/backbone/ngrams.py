"""A bag of hashed n-grams for texts: fast, small, and hard to beat on few labels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.backbone.inputs import TokenInput
from commonroot.common.backbone.spec import BackboneSpec, Shapes


class NgramsSpec(BackboneSpec):
    """Embeddings of a text's tokens, summed and divided by the square root of their number, then one layer.

        z = Σ_t e(t) / √n;   relu(hidden(z))

    After Joulin, Grave, Bojanowski, Mikolov, 2016, arXiv:1607.01759, whose mean shrinks with the length of a text.
    For heads that label tokens, a token is its own embedding plus the text's: relu(hidden(e(t) + z)).

    vocabulary  ids there are, padding (0) included; what hashes to one id shares its embedding
    length      tokens read of a text
    width       of an embedding and of the representation
    """

    family: Literal["ngrams"] = "ngrams"
    vocabulary: Annotated[int, Field(ge=2, le=4_194_304)] = 16_384
    length: Annotated[int, Field(ge=1, le=65_536)] = 256
    width: Annotated[int, Field(ge=1, le=65_536)] = 32

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
        """``embedding.weight`` (vocabulary, width), ``hidden.weight``, ``hidden.bias``."""
        d = self.width
        return (("embedding.weight", (self.vocabulary, d)), ("hidden.weight", (d, d)), ("hidden.bias", (d,)))

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """Embeddings are looked up, not summed over: variance 1."""
        return (1.0, 1) if name == "embedding.weight" else (2.0, math.prod(shape[1:]))
