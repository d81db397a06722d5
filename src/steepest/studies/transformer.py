"""A small transformer whose normalisation is after the branches or before them, in operations that torch can batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Self-attention and a two-layer network, each on a residual branch.

    Args:
        width: of the tokens.
        heads: of the attention, a divisor of the width.
        first: normalise the input of each branch (pre-LN) instead of each sum (post-LN).

    Source: Vaswani et al. 2017; R. Xiong et al., On layer normalization in the transformer architecture, ICML 2020, table 1.
    """

    def __init__(self, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self.heads, self.first = heads, first
        self.split, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, width]`` to the same."""
        for branch, norm in zip((self._attend, self.dense), self.norms, strict=True):
            x = x + branch(norm(x)) if self.first else norm(x + branch(x))
        return x

    def _attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in self.split(x).split(width, -1))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width / self.heads), -1)
        return self.join((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class RowsTransformer(nn.Module):
    """Images ``[batch, 1, 8, 8]`` to scores of ten classes: each row of pixels is a token; the mean of the tokens is read.

    Weights of the dense layers are Xavier's uniform ones with zero biases, as in the paper of the transformer.

    Args:
        depth: blocks.
        width, heads, first: as in ``Block``; before the scores a transformer with ``first`` normalises once more.
    """

    def __init__(self, depth: int, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(8, width)
        self.place = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.Sequential(*(Block(width, heads, first) for _ in range(depth)))
        self.last = nn.LayerNorm(width) if first else nn.Identity()
        self.head = nn.Linear(width, 10)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The scores, ``[batch, 10]``."""
        return self.head(self.last(self.blocks(self.enter(x.flatten(0, 1)) + self.place)).mean(1))
