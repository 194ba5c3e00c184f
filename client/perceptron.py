"""A chain of linear maps, and its way back.

The way back is gone with the very products, sums and functions that PyTorch's derivatives call, so every bit is theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from commonroot.client.model import DepartmentModel
from commonroot.client.slopes import Linear, Places
from commonroot.common.backbone import MlpSpec

_through_relu = torch.ops.aten.threshold_backward.default
_through_tanh = torch.ops.aten.tanh_backward.default


class Perceptron:
    """Adapter and layers with their activations, as a ``Body``."""

    def __init__(self, model: DepartmentModel, spec: MlpSpec) -> None:
        layers = [Linear(layer) for layer in model.backbone.layers]  # type: ignore[union-attr]
        first = [] if model.adapter is None else [Linear(model.adapter, active=False)]
        self._maps = [*first, *layers]
        self._relu = spec.activation == "relu"
        self._activation = torch.relu if self._relu else torch.tanh
        self._lowest = 0

    def ask(self, places: Places) -> bool:
        """As ``Body`` has it."""
        asked = [at for at, layer in enumerate(self._maps) if layer.ask(places)]
        self._lowest = min(asked, default=len(self._maps))
        return bool(asked)

    def represent(self, x: Tensor) -> Tensor:
        """As ``Body`` has it."""
        return self.forward(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(n, columns) to the representation, and what each map reads, the representation last."""
        seen = [x]
        for layer in self._maps:
            out = layer.forward(seen[-1])
            seen.append(self._activation(out) if layer.active else out)
        return seen[-1], seen

    def back(self, slope: Tensor, seen: list[Tensor]) -> None:
        """As ``Body`` has it."""
        for at in range(len(self._maps) - 1, self._lowest - 1, -1):
            layer = self._maps[at]
            if layer.active:
                slope = _through_relu(slope, seen[at + 1], 0) if self._relu else _through_tanh(slope, seen[at + 1])
            layer.tell(slope, seen[at])
            if at > self._lowest:
                slope = slope.mm(layer.first)
