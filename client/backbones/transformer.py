"""The small transformer of ``TransformerSpec``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonroot.client.backbones.parts import Level, embedding, linear
from commonroot.common.backbone import TransformerSpec

#: Added to the attention score of padding; finite, so that a text of nothing but padding still gives numbers.
FAR_BELOW = -1e9


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.mix, self.out = Level(width), linear(width, 3 * width), linear(width, width)
        self.between, self.wide, self.back = Level(width), linear(width, 2 * width), linear(2 * width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        n, length, width = hidden.shape
        mixed = self.mix(self.before(hidden)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + self.out(attended.transpose(1, 2).reshape(n, length, width))
        out: Tensor = hidden + self.back(torch.relu(self.wide(self.between(hidden))))
        return out


class Transformer(nn.Module):
    """Embeddings and positions, blocks, a last level; the mean over tokens represents a text."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.embedding = embedding(spec.vocabulary, spec.width)
        self.positions = embedding(spec.length, spec.width)
        self.blocks = nn.ModuleList(_Block(spec.width, spec.heads) for _ in range(spec.layers))
        self.last = Level(spec.width)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length) int32 to (n, width)."""
        here = (ids != 0).to(torch.float32)[:, :, None]
        return (self.tokens(ids) * here).sum(dim=1) / here.sum(dim=1).clamp(min=1.0)

    def tokens(self, ids: Tensor) -> Tensor:
        """(n, length) int32 to (n, length, width)."""
        mask = ((ids == 0).to(torch.float32) * FAR_BELOW)[:, None, None, :]
        hidden = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, mask)
        out: Tensor = self.last(hidden)
        return out
