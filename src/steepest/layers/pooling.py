"""Average pooling scaled to an l2 norm of one."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class ScaledAvgPool2d(nn.Module):
    """Sums over windows that do not overlap, divided by the square root of their size: an orthogonal projection, so of l2 norm one.

    Plain average pooling has the norm ``1 / sqrt(size)`` and wastes it. Two plain modules are safe as they are: ``nn.MaxPool2d(k)`` with
    windows that do not overlap is 1-Lipschitz, and ``nn.PixelUnshuffle(k)`` rearranges and keeps every norm.

    Args:
        kernel_size: of the windows, and their distance.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if len(self.kernel_size) != 2 or min(self.kernel_size) < 1:
            raise ValueError(f"kernel_size must be one or two numbers of at least 1, not {kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C, H // k, W // k]``; rows and columns left over are dropped."""
        return functional.avg_pool2d(x, self.kernel_size) * math.sqrt(math.prod(self.kernel_size))

    def plain(self, channels: int) -> nn.Conv2d:
        """The same as a depthwise convolution."""
        conv = nn.Conv2d(channels, channels, self.kernel_size, self.kernel_size, groups=channels, bias=False)
        nn.init.constant_(conv.weight, 1.0 / math.sqrt(math.prod(self.kernel_size)))
        return conv

    def extra_repr(self) -> str:
        """The size."""
        return f"kernel_size={self.kernel_size}"
