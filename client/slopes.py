"""What networks whose slopes are written out have in common: maps that tell their slopes, and the part below a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Where the slopes of tensors are to lie, by the tensors' ``id``; who is not in it has none.
Places = Mapping[int, Tensor]


class Pair:
    """Two tensors of a layer that nobody records, and where their slopes are to lie; None where nobody asks for them.

    It reads the memory that the layer's tensors have when it is made; they must not be put elsewhere.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self._layer = first, second
        self.first, self.second = first.detach(), second.detach()
        self.of_first: Tensor | None = None
        self.of_second: Tensor | None = None

    def ask(self, places: Places) -> bool:
        """Take note of where the slopes are to lie; whether any are asked for."""
        self.of_first, self.of_second = (places.get(id(tensor)) for tensor in self._layer)
        return self.of_first is not None or self.of_second is not None


class Linear(Pair):
    """A linear map: its weight and its bias."""

    def __init__(self, layer: nn.Linear, *, active: bool = True) -> None:
        super().__init__(layer.weight, layer.bias)
        self.active = active

    def forward(self, read: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return F.linear(read, self.first, self.second)

    def tell(self, slope: Tensor, read: Tensor) -> None:
        """Write the slopes that are asked for, from that of the output and what was read."""
        if self.of_first is not None:
            torch.mm(slope.t(), read, out=self.of_first)
        if self.of_second is not None:
            torch.sum(slope, 0, out=self.of_second)


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
