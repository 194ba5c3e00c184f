"""The residual perceptron of ``ResmlpSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonroot.client.backbones.parts import Level, linear
from commonroot.common.backbone import ResmlpSpec


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.level, self.wide, self.back = Level(width), linear(width, width), linear(width, width)
        self.dropout = dropout

    def forward(self, hidden: Tensor) -> Tensor:
        inner = torch.relu(self.wide(self.level(hidden)))
        if self.dropout:
            inner = F.dropout(inner, self.dropout, self.training)
        out: Tensor = hidden + self.back(inner)
        return out


class Resmlp(nn.Module):
    """Entry, residual blocks, a last level and ReLU."""

    def __init__(self, spec: ResmlpSpec) -> None:
        super().__init__()
        self.entry = linear(spec.inputs, spec.width)
        self.blocks = nn.ModuleList(_Block(spec.width, spec.dropout) for _ in range(spec.blocks))
        self.last = Level(spec.width)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, width)."""
        hidden = self.entry(rows)
        for block in self.blocks:
            hidden = block(hidden)
        return torch.relu(self.last(hidden))
