"""The residual block of Fixup: no normalisation, scalar biases and one scalar multiplier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FixupResidual(nn.Module):
    """``shortcut(x) + multiplier * branch(x) + bias``, a scalar bias added before each layer of the branch.

    Rule 3 of the paper: a multiplier (initially one) in every branch, and a scalar bias (initially zero) before each convolution, linear
    layer and elementwise activation. ``steepest.init.fixup_`` gives the weights their scale (rules 1 and 2).

    Args:
        branch: the layers of the branch in order; the weights among them should have no biases of their own.
        shortcut: the identity by default; a projection where shapes differ.

    Source: Zhang, Dauphin and Ma, "Fixup initialization: residual learning without normalization" (2019), section 3 and figure 1.
    """

    def __init__(self, branch: Sequence[nn.Module], shortcut: nn.Module | None = None) -> None:
        super().__init__()
        if not branch:
            raise ValueError("the branch of a residual block needs at least one layer")
        self.branch = nn.ModuleList(branch)
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.biases = nn.Parameter(torch.zeros(len(branch) + 1))
        self.multiplier = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output.

        Raises:
            ValueError: where the branch's output and the shortcut's differ in shape, so that an identity cannot be added.
        """
        out = x
        for layer, bias in zip(self.branch, self.biases[:-1], strict=True):
            out = layer(out + bias)
        skipped = self.shortcut(x)
        if out.shape != skipped.shape:
            raise ValueError(f"the branch gives {list(out.shape)} and the shortcut {list(skipped.shape)}: give a projection as shortcut")
        return skipped + self.multiplier * out + self.biases[-1]
