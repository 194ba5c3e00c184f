"""The multi-layer perceptron of ``MlpSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from commonroot.client.backbones.parts import linear
from commonroot.common.backbone import MlpSpec


class Mlp(nn.Module):
    """Linear, activation, Linear, activation …"""

    def __init__(self, spec: MlpSpec) -> None:
        super().__init__()
        sizes = (spec.inputs, *spec.widths)
        self.layers = nn.ModuleList(linear(sizes[at], sizes[at + 1]) for at in range(len(spec.widths)))
        self.activation = torch.relu if spec.activation == "relu" else torch.tanh

    def forward(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        for layer in self.layers:
            rows = self.activation(layer(rows))
        return rows
