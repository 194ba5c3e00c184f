"""The residual convolutional network of ``RescnnSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from commonroot.client.backbones.parts import ChannelLevel, conv2d
from commonroot.common.backbone import RescnnSpec


class Stage(nn.Module):
    """A pre-activation residual block."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        stride = 2 if halve else 1
        self.before, self.first = ChannelLevel(inputs), conv2d(inputs, outputs, 3, stride=stride)
        self.between, self.second = ChannelLevel(outputs), conv2d(outputs, outputs, 3)
        self.shortcut = conv2d(inputs, outputs, 1, stride=stride) if halve else None

    def forward(self, image: Tensor) -> Tensor:
        """(n, inputs, height, width) to (n, outputs, …), of half the size where it halves."""
        ready = torch.relu(self.before(image))
        carried = image if self.shortcut is None else self.shortcut(ready)
        out: Tensor = carried + self.second(torch.relu(self.between(self.first(ready))))
        return out


class Rescnn(nn.Module):
    """Entry, one pre-activation residual block per stage, and the mean over all places."""

    def __init__(self, spec: RescnnSpec) -> None:
        super().__init__()
        widths = (spec.stages[0], *spec.stages)
        self.entry = conv2d(spec.channels, spec.stages[0], 3)
        self.stages = nn.ModuleList(Stage(widths[at], widths[at + 1], halve=at > 0) for at in range(len(spec.stages)))
        self.last = ChannelLevel(spec.stages[-1])

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, stages[-1])."""
        hidden = self.entry(images)
        for stage in self.stages:
            hidden = stage(hidden)
        return torch.relu(self.last(hidden)).mean(dim=(2, 3))
