"""Toy landscapes: a point in the plane."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steepest.race.task import Landscape, Task, full_batch


class Point(nn.Module):
    """The height of a landscape at a point that moves."""

    def __init__(self, landscape: Landscape, start: tuple[float, float]) -> None:
        super().__init__()
        self.landscape = landscape
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self) -> Tensor:
        """The height where it is now."""
        return self.landscape.function(self.x[0], self.x[1])


def landscape_task(name: str, title: str, landscape: Landscape, start: tuple[float, float], steps: int) -> Task:
    """A task that is drawn from one start, and not ranked."""
    return Task(
        name,
        title,
        lambda: Point(landscape, start),
        full_batch(),
        lambda model, batch: model(),
        lambda model: float(model()),
        measure="height",
        steps=steps,
        every=5,
        landscape=landscape,
    )
