"""The dilated causal convolutions of ``TcnSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonroot.client.backbones.parts import Level, conv1d, linear
from commonroot.common.backbone import TcnSpec


class _Block(nn.Module):
    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.level, self.wide = Level(width), conv1d(width, width, kernel, dilation=dilation)
        self.back = linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, steps, width) to the same; a step sees itself and earlier ones only."""
        padded = F.pad(self.level(hidden).transpose(1, 2), (self.past, 0))
        out: Tensor = hidden + self.back(torch.relu(self.wide(padded)).transpose(1, 2))
        return out


class Tcn(nn.Module):
    """Entry, dilated residual blocks, a last level; the last step beside the mean over steps, and one layer."""

    def __init__(self, spec: TcnSpec) -> None:
        super().__init__()
        self.entry = linear(spec.channels, spec.width)
        self.blocks = nn.ModuleList(_Block(spec.width, spec.kernel, 2**at) for at in range(spec.layers))
        self.last = Level(spec.width)
        self.exit = linear(2 * spec.width, spec.width)

    def forward(self, windows: Tensor) -> Tensor:
        """(n, steps, channels) to (n, width)."""
        hidden = self.entry(windows)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.last(hidden)
        return torch.relu(self.exit(torch.cat([hidden[:, -1], hidden.mean(dim=1)], dim=1)))
