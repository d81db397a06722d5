"""Multiplication and shift by constants, entry by entry: folded batch norm, input normalisation, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.ops.kinds import Affine


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """``y = weight * x + bias``, both broadcast to the shape of x.

    Args:
        weight: float64, of the input's rank, each axis of the input's length or one.
        bias: likewise.
    """

    code: ClassVar[str] = "scale"
    weight: Tensor
    bias: Tensor

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    @property
    def offset(self) -> Tensor:
        """The bias."""
        return self.bias

    @property
    def keeps_entries_apart(self) -> bool:
        """A diagonal matrix."""
        return True

    @property
    def terms(self) -> int:
        """One product an entry."""
        return 1

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """``weight * x``."""
        return x * (self.weight.abs() if absolute else self.weight).to(x.dtype)

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """The same: a diagonal map is its own transpose."""
        return self.linear(y, absolute)

    def enclose(self, *xs: Interval) -> Interval:
        """By the ends, so that one that is infinite leaves the other."""
        return xs[0] * Interval.point(self.weight) + Interval.point(self.bias)

    def norm_2(self) -> float:
        """Largest absolute weight, exact."""
        return self.weight.abs().max().item() if self.weight.numel() else 0.0

    def norm_inf(self) -> float:
        """Largest absolute weight, exact."""
        return self.norm_2()

    def norm_1(self) -> float:
        """Largest absolute weight, exact."""
        return self.norm_2()
