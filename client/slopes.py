"""What networks whose slopes are written out have in common: maps that tell their slopes, and the part below a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

#: Where the slopes of tensors are to lie, by the tensors' ``id``; who is not in it has none.
Places = Mapping[int, Tensor]


@dataclass(slots=True)
class Linear:
    """A linear map and where its slopes are to lie; None where nobody asks for them.

    It reads the memory that the layer's tensors have when it is made; they must not be put elsewhere.
    """

    layer: nn.Linear = field(repr=False)
    active: bool = True
    #: What the layer holds, as tensors that nobody records.
    weight: Tensor = field(init=False, repr=False)
    bias: Tensor = field(init=False, repr=False)
    of_weight: Tensor | None = field(default=None, init=False, repr=False)
    of_bias: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.weight, self.bias = self.layer.weight.detach(), self.layer.bias.detach()

    def ask(self, places: Places) -> bool:
        """Take note of where the slopes are to lie; whether any are asked for."""
        self.of_weight, self.of_bias = places.get(id(self.layer.weight)), places.get(id(self.layer.bias))
        return self.of_weight is not None or self.of_bias is not None

    def tell(self, slope: Tensor, read: Tensor) -> None:
        """Write the slopes that are asked for, from that of the output and what was read."""
        if self.of_weight is not None:
            torch.mm(slope.t(), read, out=self.of_weight)
        if self.of_bias is not None:
            torch.sum(slope, 0, out=self.of_bias)


class Body(Protocol):
    """A network below its head, with its way back."""

    def ask(self, places: Places) -> bool:
        """Say whose slopes ``back`` is to find; whether there are any below the head."""

    def represent(self, x: Tensor) -> Tensor:
        """Rows to their representation (n, outputs)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The same, and what ``back`` needs to know of the way."""

    def back(self, slope: Tensor, seen: Any) -> None:
        """From the slope over the representation, which may be overwritten, write those that are asked for."""
