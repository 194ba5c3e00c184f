"""The bag of hashed n-grams of ``NgramsSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from commonroot.client.backbones.parts import embedding, linear
from commonroot.common.backbone import NgramsSpec


class Ngrams(nn.Module):
    """Embeddings of the tokens that are no padding, summed over √n, and one layer."""

    def __init__(self, spec: NgramsSpec) -> None:
        super().__init__()
        self.embedding = embedding(spec.vocabulary, spec.width)
        self.hidden = linear(spec.width, spec.width)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length) int32 to (n, width)."""
        return torch.relu(self.hidden(self._embedded(ids)[1]))

    def tokens(self, ids: Tensor) -> Tensor:
        """(n, length) int32 to (n, length, width)."""
        each, whole = self._embedded(ids)
        return torch.relu(self.hidden(each + whole[:, None]))

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        here = (ids != 0).to(torch.float32)
        each = self.embedding(ids) * here[:, :, None]
        return each, each.sum(dim=1) / here.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
