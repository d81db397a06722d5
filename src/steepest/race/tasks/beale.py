"""Beale's function: a plateau with steep walls."""

from __future__ import annotations

from torch import Tensor

from steepest.race.point import landscape_task
from steepest.race.task import Landscape, Task


def height(x: Tensor, y: Tensor) -> Tensor:
    """(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2. Source: Beale 1958."""
    return (1.5 - x + x * y).square() + (2.25 - x + x * y.square()).square() + (2.625 - x + x * y.pow(3)).square()


def task() -> Task:
    """From (1, 1.5)."""
    window = Landscape(height, (-0.5, 4.5), (-1.5, 2.0), ((3.0, 0.5),))
    return landscape_task("beale", "Beale's function", window, (1.0, 1.5), 200)
