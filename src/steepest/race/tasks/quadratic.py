"""A quadratic of condition number 1,000, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steepest.race.task import Task, full_batch

SIZE, CONDITION = 100, 1000.0


class Bowl(nn.Module):
    """f(x) = x' Q diag(e) Q' x / 2 with e log-spaced in [1 / CONDITION, 1], Q a random rotation; f = 0 at the minimum and 1 at the start.

    The rotation keeps methods with a rate per coordinate from profiting by axes that happen to be the eigenvectors.
    """

    rotation: Tensor
    curvatures: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q)
        self.register_buffer("curvatures", torch.logspace(-torch.log10(torch.tensor(CONDITION)).item(), 0, SIZE, dtype=torch.float64))
        x = self.rotation @ torch.randn(SIZE, dtype=torch.float64)
        self.x = nn.Parameter(x / self._height(x).sqrt())

    def _height(self, x: Tensor) -> Tensor:
        return (self.curvatures * (self.rotation.T @ x).square()).sum() / 2

    def forward(self) -> Tensor:
        """The height where it is now."""
        return self._height(self.x)


def task() -> Task:
    """100 variables, exact gradients; judged by the height above the minimum, as a share of the start's; the target is 1e-4."""
    return Task(
        "quadratic",
        "Quadratic of condition number 1,000 in 100 variables",
        Bowl,
        full_batch(),
        lambda model, batch: model(),
        lambda model: float(model()),
        measure="height above the minimum",
        steps=500,
        every=5,
        target=1e-4,
    )
