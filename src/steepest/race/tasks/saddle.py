"""A saddle with a minimum on either side."""

from __future__ import annotations

from torch import Tensor

from steepest.race.point import landscape_task
from steepest.race.task import Landscape, Task


def height(x: Tensor, y: Tensor) -> Tensor:
    """x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle at the origin, minima of height -1/4 at (0, 1) and (0, -1)."""
    return x.square() / 2 - y.square() / 2 + y.pow(4) / 4


def task() -> Task:
    """From (1, 1e-3), almost on the line that leads into the saddle."""
    window = Landscape(height, (-1.2, 1.2), (-1.4, 1.4), ((0.0, 1.0), (0.0, -1.0)))
    return landscape_task("saddle", "A saddle between two minima", window, (1.0, 1e-3), 150)
