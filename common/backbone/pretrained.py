"""A pretrained encoder that every department has on its own disk; what is learned and shared is a low-rank change.

Hu et al., 2021, arXiv:2106.09685:  W x becomes  W x + (α/r)·B A x,  W frozen, A (r, in) random, B (out, r) zero.

share-a   A is shared and B stays in the department (Guo et al., 2024, arXiv:2410.01463): what is common to all, and
          what is one's own
freeze-a  A stays as it was drawn, the same everywhere, and B is shared (Sun et al., 2024, arXiv:2403.12313): the mean
          of the changes is then the change that the mean makes, exactly
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from commonroot.common.backbone.inputs import ImageInput, Input, TokenInput
from commonroot.common.backbone.spec import BackboneSpec, FloatArrays, Shapes, checked_shapes, draw

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]


class PretrainedSpec(BackboneSpec):
    """A checkpoint by the hashes of its files, and the tensors of its low-rank change.

    Nobody writes this by hand: ``client/backbones/checkpoint.py`` reads a checkpoint and prints the section.

    library     ``transformers`` for encoders of texts, ``timm`` for encoders of images
    checkpoint  name of its folder among the department's checkpoints
    sha256      of each of its files that is read, by name
    reads       what the encoder reads
    width       of its representation
    rank        r
    alpha       α
    targets     ends of the names of the layers that are changed, as in peft's ``target_modules``
    share       ``share-a`` or ``freeze-a``
    lora_a      every A by name and shape, in packing order
    lora_b      every B likewise
    """

    family: Literal["pretrained"] = "pretrained"
    library: Literal["transformers", "timm"]
    checkpoint: FileName
    sha256: Annotated[dict[FileName, Hex64], Field(min_length=1, max_length=64)]
    reads: Input
    width: Annotated[int, Field(ge=1, le=1_000_000)]
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] = 16.0
    targets: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1)]
    share: Literal["share-a", "freeze-a"] = "share-a"
    lora_a: Annotated[Shapes, Field(min_length=1), AfterValidator(checked_shapes)]
    lora_b: Annotated[Shapes, Field(min_length=1), AfterValidator(checked_shapes)]

    @model_validator(mode="after")
    def _library_fits(self) -> Self:
        if not isinstance(self.reads, TokenInput if self.library == "transformers" else ImageInput):
            raise ValueError(f"an encoder of {self.library} does not read {self.reads.kind}s")
        if [name.rpartition(".")[0] for name, _ in self.lora_a] != [name.rpartition(".")[0] for name, _ in self.lora_b]:
            raise ValueError("lora_a and lora_b are not of the same layers")
        return self

    @property
    def input(self) -> Input:
        """``reads``."""
        return self.reads

    @property
    def outputs(self) -> int:
        """``width``."""
        return self.width

    @property
    def reads_tokens(self) -> bool:
        """Whether it is an encoder of texts."""
        return self.library == "transformers"

    def shapes(self) -> Shapes:
        """Every A, or with ``freeze-a`` every B."""
        return self.lora_a if self.share == "share-a" else self.lora_b

    def private_shapes(self) -> Shapes:
        """Every B, or with ``freeze-a`` nothing."""
        return self.lora_b if self.share == "share-a" else ()

    def frozen(self) -> FloatArrays:
        """With ``freeze-a`` the As, which nobody trains and everybody draws alike."""
        return {} if self.share == "share-a" else draw(self, self.lora_a, 0)

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """A as peft draws it, uniform in ±1/√in; B zero, so that training starts from the checkpoint itself."""
        return (0.0 if name.endswith("lora_b") else 1.0 / 3.0), math.prod(shape[1:])
