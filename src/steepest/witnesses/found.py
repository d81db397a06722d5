"""What a search has found: points, directions, and how steep the network is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """Points with their directions and hard norms: ``[count, n]``, ``[count, n]``, ``[count]``."""

    x: Tensor
    v: Tensor
    value: Tensor

    def take(self, rows: Tensor) -> Found:
        """Those rows."""
        return Found(self.x[rows], self.v[rows], self.value[rows])

    def best(self, count: int) -> Found:
        """The steepest few, steepest first."""
        return self.take(self.value.topk(min(count, len(self.value))).indices)

    def joined(self, other: Found) -> Found:
        """Both."""
        return Found(torch.cat([self.x, other.x]), torch.cat([self.v, other.v]), torch.cat([self.value, other.value]))

    def improved(self, other: Found) -> Found:
        """Place by place the steeper."""
        better = other.value > self.value
        row = better[:, None]
        return Found(torch.where(row, other.x, self.x), torch.where(row, other.v, self.v), torch.where(better, other.value, self.value))
