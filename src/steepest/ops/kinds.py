"""The kinds of operators. Algorithms dispatch on these, never on layers."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steepest.graph.operator import Operator, Shape
from steepest.numerics.interval import Interval, linear_image
from steepest.numerics.rounding import gamma, product_up, sum_up


@dataclass(frozen=True, eq=False)
class Affine(Operator):
    """``y = W x + b`` for a linear map W given by its action and its adjoint's, and those of ``|W|``."""

    @abstractmethod
    def linear(self, x: Tensor, absolute: bool = False) -> Tensor:
        """``W x``, or ``|W| x`` entrywise absolute."""

    @abstractmethod
    def adjoint(self, y: Tensor, absolute: bool = False) -> Tensor:
        """``W' y``, or ``|W|' y``."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """The most products in one sum of ``linear`` or ``adjoint`` (for rounding)."""

    @property
    def offset(self) -> Tensor | None:
        """b, broadcastable to the output's shape, or None."""
        return None

    @abstractmethod
    def norm_2(self) -> float:
        """Proven upper bound of the operator norm from l2 to l2."""

    @abstractmethod
    def norm_inf(self) -> float:
        """Proven upper bound of the operator norm from linf to linf."""

    @abstractmethod
    def norm_1(self) -> float:
        """Proven upper bound of the operator norm from l1 to l1."""

    @property
    def keeps_entries_apart(self) -> bool:
        """Whether W has at most one entry in every row and column: its norms are read off, and a ball stays an ellipsoid."""
        return False

    def row_norms_2(self, scale: Tensor) -> Tensor:
        """Upper bounds of ``sqrt(sum_j (W_ij scale_j)^2)``, of the output's shape, for a non-negative scale of the input's."""
        return self.linear(scale, absolute=True) * (1.0 + gamma(self.terms))

    @cached_property
    def _norms(self) -> dict[float, float]:
        return {}

    def norm(self, p: float) -> float:
        """Proven upper bound of the operator norm from lp to lp; computed once."""
        if p not in self._norms:
            self._norms[p] = {1: self.norm_1, 2: self.norm_2, math.inf: self.norm_inf}[p]()
        return self._norms[p]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """``W x + b``."""
        y = self.linear(xs[0])
        return y if self.offset is None else y + self.offset.to(y.dtype)

    def enclose(self, *xs: Interval) -> Interval:
        """Centre and radius through W and ``|W|``."""
        y = linear_image(xs[0], self.linear, lambda r: self.linear(r, absolute=True), self.terms)
        return y if self.offset is None else y + Interval.point(self.offset)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Centre and radius through the adjoint."""
        return (linear_image(cotangent, self.adjoint, lambda r: self.adjoint(r, absolute=True), self.terms),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """``W d``, as computed."""
        return Interval.point(self.linear(directions[0]))

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """``|W| L``."""
        return product_up(self.norm(p), inputs[0])

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """``W dx``."""
        return self.linear(dxs[0])


@dataclass(frozen=True, eq=False)
class Rearrangement(Affine):
    """Each output entry is an input entry or a constant: reshape, permute, slice, pad, gather, expand."""

    @property
    def terms(self) -> int:
        """Sums only arise in adjoints of repeated entries."""
        return self.copies()

    @property
    def keeps_entries_apart(self) -> bool:
        """Where no entry is copied."""
        return self.copies() <= 1

    def copies(self) -> int:
        """The most often any input entry appears in the output."""
        return 1

    def norm_2(self) -> float:
        """Square root of the most copies."""
        return math.nextafter(math.sqrt(self.copies()), math.inf) if self.copies() > 1 else float(self.copies())

    def norm_1(self) -> float:
        """The most copies."""
        return float(self.copies())

    def norm_inf(self) -> float:
        """One, or zero where nothing is kept."""
        return float(min(self.copies(), 1))


@dataclass(frozen=True, eq=False)
class Elementwise(Operator):
    """A function of one variable applied to every entry, known by its value and the range of its slope."""

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """The slope at x (at a kink, either one-sided slope)."""

    @abstractmethod
    def slopes(self, x: Interval) -> Interval:
        """Encloses every Clarke derivative over the set, entrywise, rounded outwards."""

    @property
    def kinks(self) -> tuple[float, ...] | None:
        """Where the slope changes, for a function that is linear in between; None for any other."""
        return None

    def soft_derivative(self, x: Tensor, sharpness: float) -> Tensor:
        """The slope with kinks smoothed at the scale of the layer, for searches; the slope itself where there is none."""
        del sharpness
        return self.derivative(x)

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Slopes times cotangents."""
        lead = xs[0].lo.ndim - len(self.shape)
        return (cotangent * self.slopes(xs[0]).map(lambda t: t.unsqueeze(lead)),)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """Slopes times directions, as computed."""
        lead = xs[0].lo.ndim - len(self.shape)
        slopes = self.slopes(xs[0]).map(lambda t: torch.broadcast_to(t, xs[0].lo.shape).unsqueeze(lead))
        ends = [torch.nan_to_num(slope * directions[0], nan=0.0, posinf=math.inf, neginf=-math.inf) for slope in (slopes.lo, slopes.hi)]
        return Interval(torch.minimum(*ends), torch.maximum(*ends))

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """The steepest slope over the region times L."""
        slopes = self.slopes(xs[0]).magnitude()
        return product_up(slopes.max().item() if slopes.numel() else 0.0, inputs[0])

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """Slope times dx."""
        slope = self.derivative(xs[0]) if sharpness is None else self.soft_derivative(xs[0], sharpness)
        return slope * dxs[0]


@dataclass(frozen=True, eq=False)
class Group(Operator):
    """A nonlinear map of one input that mixes entries of a group: max, sort, softmax, normalisation."""

    @abstractmethod
    def gain(self, p: float, x: Interval) -> float:
        """Upper bound of its Lipschitz constant over a set, from lp to lp; infinite where there is none."""

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """``gain L``."""
        return product_up(self.gain(p, xs[0]), inputs[0])


@dataclass(frozen=True, eq=False)
class Join(Operator):
    """A map of several inputs."""


@dataclass(frozen=True, eq=False)
class Bilinear(Join):
    """A product of two branches, linear in each."""

    @abstractmethod
    def gains(self, p: float, xs: tuple[Interval, ...]) -> tuple[float, float]:
        """Upper bounds of the Lipschitz constants in the first and in the second input over the region."""

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """Product rule: ``gain_1 L_1 + gain_2 L_2``."""
        first, second = self.gains(p, xs)
        return sum_up(product_up(first, inputs[0]), product_up(second, inputs[1]))


def lead_axes(x: Tensor, shape: Shape) -> tuple[int, ...]:
    """The leading axes of a tensor whose declared shape is ``shape``."""
    lead = x.ndim - len(shape)
    assert tuple(x.shape[lead:]) == shape, (tuple(x.shape), shape)
    return tuple(x.shape[:lead])


def count(shape: Shape) -> int:
    """Number of entries of a shape."""
    return math.prod(shape)


def ones(shape: Shape) -> Tensor:
    """A float64 tensor of ones."""
    return torch.ones(shape, dtype=torch.float64)
