"""Batch normalisation that cannot expand."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class LipschitzBatchNorm(nn.Module):
    """Channels are centred, and scaled by no more than one: in evaluation a map of l2 (and any lp) norm at most one.

    ``y = s (x - mean) + bias`` with s = 1 (``scale="none"``), ``min(1, 1 / std)`` of each channel (``"channel"``), or one number for all
    channels, ``min(1, 1 / max std)`` (``"one"``). Usual batch norm divides by small deviations and so has no bound worth having.

    In training the mean and the deviation are the batch's, so outputs of one sample depend on the others: the bound speaks of evaluation
    alone.

    Args:
        num_features: channels C of the input ``[N, C, ...]``.
        scale: see above.
        eps: added to the variance.
        momentum: of the running statistics.
        bias: whether a bias per channel is learnt.

    Raises:
        ValueError: for options out of range, an input of another shape, or one value per channel in training.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        scale: Literal["none", "channel", "one"] = "none",
        eps: float = 1e-5,
        momentum: float = 0.1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1 or not eps >= 0 or not 0 < momentum <= 1:
            raise ValueError(f"expected num_features >= 1, eps >= 0 and 0 < momentum <= 1, not {num_features}, {eps} and {momentum}")
        if scale not in ("none", "channel", "one"):
            raise ValueError(f"scale must be none, channel or one, not {scale!r}")
        self.num_features, self.scale, self.eps, self.momentum = num_features, scale, eps, momentum
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected an input [N, {self.num_features}, ...], not {list(x.shape)}")
        mean, variance = self.running_mean, self.running_var
        if self.training:
            if x.numel() // self.num_features < 2:
                raise ValueError("one value per channel has no variance: give larger batches in training")
            axes = [a for a in range(x.dim()) if a != 1]
            if self.scale == "none":
                mean = x.mean(axes)
            else:
                variance, mean = torch.var_mean(x, axes, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                if self.scale != "none":
                    self.running_var.lerp_(variance, self.momentum)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if self.scale == "none":
            return x - (mean if self.bias is None else mean - self.bias).reshape(shape)
        y = (x - mean.reshape(shape)) * self._factor(variance).reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def plain(self, dims: int) -> nn.Module:
        """The same in evaluation, as ``nn.BatchNorm`` for inputs of so many axes."""
        kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        if dims not in kinds:
            raise ValueError(f"batch normalisation takes inputs of two to five axes, not {dims}")
        norm = kinds[dims](self.num_features, eps=0.0)
        with torch.no_grad():
            norm.weight.copy_(self._factor(self.running_var).clamp(max=1.0))
            norm.bias.copy_(torch.zeros_like(norm.bias) if self.bias is None else self.bias)
            norm.running_mean.copy_(self.running_mean)  # type: ignore[union-attr]
        return norm.eval()

    def extra_repr(self) -> str:
        """Features and scale."""
        return f"{self.num_features}, scale={self.scale}"

    def _factor(self, variance: Tensor) -> Tensor:
        if self.scale == "none":
            return torch.ones_like(variance)
        if self.scale == "one":
            variance = variance.amax().expand_as(variance)
        return (variance + self.eps).clamp(min=1.0).rsqrt()
