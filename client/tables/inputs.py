"""The form in which a backbone takes rows: the shape of one row, without the batch axis, and its dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class RowInput:
    """A vector of ``width`` standardised numbers."""

    dtype: ClassVar[Literal["float32"]] = "float32"
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """``steps`` vectors of ``channels`` numbers, oldest first."""

    dtype: ClassVar[Literal["float32"]] = "float32"
    steps: int
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.steps, self.channels)


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image, channels first, values about -1 … 1."""

    dtype: ClassVar[Literal["float32"]] = "float32"
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class TokenInput:
    """``length`` token ids below ``vocabulary``; 0 is padding."""

    dtype: ClassVar[Literal["int32"]] = "int32"
    length: int
    vocabulary: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


Input = RowInput | SequenceInput | ImageInput | TokenInput
