"""Layers without values: they come from a broadcast or a seed, never from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(inputs: int, outputs: int) -> nn.Linear:
    """``weight`` (outputs, inputs) and ``bias`` (outputs,)."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")


def embedding(rows: int, width: int) -> nn.Embedding:
    """``weight`` (rows, width)."""
    return nn.Embedding(rows, width, device="meta").to_empty(device="cpu")


def conv1d(inputs: int, outputs: int, kernel: int, *, dilation: int = 1) -> nn.Conv1d:
    """``weight`` (outputs, inputs, kernel) and ``bias``; no padding."""
    return nn.Conv1d(inputs, outputs, kernel, dilation=dilation, device="meta").to_empty(device="cpu")


def conv2d(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """``weight`` (outputs, inputs, kernel, kernel) and ``bias``; padded so that stride 1 keeps the size."""
    made = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, device="meta")
    return made.to_empty(device="cpu")


class Level(nn.Module):
    """Each row's last axis to mean 0 and variance 1, then times ``gain`` plus ``shift``.

    Layer normalisation: Ba, Kiros, Hinton, 2016, arXiv:1607.06450.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))

    def forward(self, values: Tensor) -> Tensor:
        """(…, width) to (…, width)."""
        return F.layer_norm(values, self.gain.shape, self.gain, self.shift)


class ChannelLevel(nn.Module):
    """The same for an image, by groups of channels: Wu, He, 2018, arXiv:1803.08494."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # the most groups, eight at most, of two channels or more each
        self.groups = max(g for g in range(1, 9) if channels % g == 0 and channels // g >= 2)
        self.gain = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))

    def forward(self, values: Tensor) -> Tensor:
        """(n, channels, height, width) to the same."""
        return F.group_norm(values, self.groups, self.gain, self.shift)
