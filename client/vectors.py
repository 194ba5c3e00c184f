"""The tensors of one part of a network as one vector, so that a step costs a few operations however many there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from commonroot.client.accelerator import where


class Vector:
    """From now on the tensors lie in it, one behind the other: moving one moves both.

    whole     (size,)
    gradient  (size,), for whoever steps
    slopes    views of the gradient, tensor by tensor
    """

    def __init__(self, tensors: Mapping[str, nn.Parameter], whole: Tensor | None = None) -> None:
        """``whole``: that of another network, whose values these tensors take; their own where it is None."""
        self.tensors: list[nn.Parameter] = list(tensors.values())
        if whole is None:
            none = torch.zeros(0, device=self.tensors[0].device if self.tensors else where())
            whole = torch.cat([none, *(tensor.detach().reshape(-1) for tensor in self.tensors)])
        self.whole = whole
        for tensor, view in zip(self.tensors, self._views(whole), strict=True):
            tensor.data = view
        self.gradient = torch.empty_like(whole)
        self.slopes = self._views(self.gradient)

    def _views(self, vector: Tensor) -> list[Tensor]:
        found = torch.split_with_sizes(vector, [tensor.numel() for tensor in self.tensors])
        return [view.view(tensor.shape) for view, tensor in zip(found, self.tensors, strict=True)]
