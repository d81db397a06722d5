"""Dense layers: a matrix on the last axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steepest.graph.operator import Shape
from steepest.numerics.matrix_norm import norm_1_above, norm_2_above, norm_inf_above
from steepest.numerics.rounding import CLAIM_MARGIN, ROOT_TINY, gamma
from steepest.ops.kinds import Affine


@dataclass(frozen=True, eq=False)
class Dense(Affine):
    """``y[..., o] = sum_i weight[o, i] x[..., i] + bias[o]``.

    Args:
        weight: ``[out, in]``, float64.
        bias: ``[out]``, float64.
    """

    code: ClassVar[str] = "dense"
    weight: Tensor
    bias: Tensor

    @property
    def shape(self) -> Shape:
        """The input's shape with the last axis replaced."""
        return (*self.in_shapes[0][:-1], self.weight.shape[0])

    @property
    def offset(self) -> Tensor:
        """The bias."""
        return self.bias

    @property
    def terms(self) -> int:
        """The longer side."""
        return max(self.weight.shape)

    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """``x W'``."""
        weight = self.weight.abs() if absolute else self.weight
        return x @ weight.mT.to(x.dtype)

    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """``y W``."""
        weight = self.weight.abs() if absolute else self.weight
        return y @ weight.to(y.dtype)

    def row_norms_2(self, scale: Tensor) -> Tensor:
        """Through the squared weights."""
        return (scale.square() @ self.weight.mT.square()).sqrt() * (1.0 + gamma(self.weight.shape[1] + 4)) + ROOT_TINY

    def norm_2(self) -> float:
        """Largest singular value, proven."""
        return norm_2_above(self.weight).item() * CLAIM_MARGIN

    def norm_inf(self) -> float:
        """Largest absolute row sum."""
        return norm_inf_above(self.weight).item()

    def norm_1(self) -> float:
        """Largest absolute column sum."""
        return norm_1_above(self.weight).item()
