"""What a backbone reads: the shape and type of one row, so that departments know what to bring their data to.

RowInput       (width,)                     float32   standardised columns
SequenceInput  (steps, channels)            float32   a window of readings, oldest first
ImageInput     (channels, height, width)    float32   in about [-1, 1]
TokenInput     (length,)                    int32     token ids below ``vocabulary``; 0 is padding, not a token
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

Size = Annotated[int, Field(ge=1, le=1_000_000)]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowInput:
    """Standardised columns."""

    width: Size
    kind: Literal["row"] = "row"
    dtype: ClassVar[Literal["float32"]] = "float32"

    @property
    def shape(self) -> Shape:
        """Of one row, without the batch axis."""
        return (self.width,)


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """Readings of several channels at equally spaced steps."""

    steps: Size
    channels: Size
    kind: Literal["sequence"] = "sequence"
    dtype: ClassVar[Literal["float32"]] = "float32"

    @property
    def shape(self) -> Shape:
        """Of one row, without the batch axis."""
        return (self.steps, self.channels)


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Pixels, channels first."""

    channels: Size
    height: Size
    width: Size
    kind: Literal["image"] = "image"
    dtype: ClassVar[Literal["float32"]] = "float32"

    @property
    def shape(self) -> Shape:
        """Of one row, without the batch axis."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids, padded with 0 behind the last one."""

    length: Size
    vocabulary: Annotated[int, Field(ge=2, le=4_194_304)]
    kind: Literal["token"] = "token"
    dtype: ClassVar[Literal["int32"]] = "int32"

    @property
    def shape(self) -> Shape:
        """Of one row, without the batch axis."""
        return (self.length,)


Input = Annotated[RowInput | SequenceInput | ImageInput | TokenInput, Field(discriminator="kind")]
