"""Rosenbrock's valley."""

from __future__ import annotations

from torch import Tensor

from steepest.race.point import landscape_task
from steepest.race.task import Landscape, Task


def height(x: Tensor, y: Tensor) -> Tensor:
    """(1 - x)^2 + 100 (y - x^2)^2. Source: Rosenbrock 1960."""
    return (1 - x).square() + 100 * (y - x.square()).square()


def task() -> Task:
    """From (-1.2, 1), the classical start."""
    window = Landscape(height, (-1.8, 1.8), (-0.8, 2.2), ((1.0, 1.0),))
    return landscape_task("rosenbrock", "Rosenbrock's valley", window, (-1.2, 1.0), 300)
