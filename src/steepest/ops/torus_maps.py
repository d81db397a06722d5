"""Fields on a torus, their frequencies, and the linear maps between fields, which act frequency by frequency."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Stride = tuple[int, ...] | None
"""Of a field: positions of the input's torus per step, along each axis. None: a vector, known entry by entry."""


@dataclass(frozen=True, eq=False)
class Frequencies:
    """The frequencies of fields on tori that a common coarse torus divides.

    A field of stride s lives on ``period / s`` positions. Its frequencies are kept by those of the coarsest field they fold to
    (aliases), of which one in each pair of conjugates is enough, since all fields are real.

    Args:
        period: positions of the input's torus along each axis.
        coarse: those of the coarsest field.
    """

    period: tuple[int, ...]
    coarse: tuple[int, ...]

    @cached_property
    def representatives(self) -> Tensor:
        """int64 ``[R, axes]``: one of each pair of conjugate frequencies of the coarse torus."""
        grid = torch.cartesian_prod(*(torch.arange(n) for n in self.coarse)).reshape(-1, len(self.coarse))
        place = torch.tensor([math.prod(self.coarse[a + 1 :]) for a in range(len(self.coarse))])
        mirrored = torch.remainder(-grid, torch.tensor(self.coarse))
        return grid[(grid * place).sum(1) <= (mirrored * place).sum(1)]

    @cached_property
    def weight(self) -> Tensor:
        """float64 ``[R]``: how many coarse frequencies each stands for, one or two."""
        mirrored = torch.remainder(-self.representatives, torch.tensor(self.coarse))
        return torch.where((mirrored == self.representatives).all(1), 1.0, 2.0).to(torch.float64)

    def size(self, stride: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of a field along each axis."""
        return tuple(n // s for n, s in zip(self.period, stride, strict=True))

    def aliases(self, stride: Stride) -> tuple[int, ...]:
        """How many frequencies of a field fold to each coarse one, along each axis."""
        if stride is None:
            return ()
        return tuple(n // c for n, c in zip(self.size(stride), self.coarse, strict=True))

    def index(self, stride: tuple[int, ...]) -> Tensor:
        """int64 ``[R, aliases, axes]``: a field's frequencies, in turns over its size."""
        shifts = torch.cartesian_prod(*(c * torch.arange(a) for c, a in zip(self.coarse, self.aliases(stride), strict=True)))
        return self.representatives[:, None] + shifts.reshape(-1, len(self.coarse))

    def waves(self, stride: tuple[int, ...], offset: Tensor) -> Tensor:
        """``e^(i w offset)``: complex128 ``[R, aliases, taps]`` for int64 ``[taps, axes]``; the phase is reduced in integers."""
        size = torch.tensor(self.size(stride))
        turns = torch.remainder(self.index(stride)[:, :, None] * offset, size).to(torch.float64) / size
        angle = 2.0 * math.pi * turns.sum(-1)
        return torch.polar(torch.ones_like(angle), angle)

    def fold(self, x: Tensor, fine: Stride, coarse: Stride) -> Tensor:
        """Sum over what a strided field does not tell apart; to a vector, over all frequencies.

        Args:
            x: ``[R, aliases, ...]``.
            fine: the stride x belongs to.
            coarse: the stride wanted.
        """
        if fine == coarse:
            return x
        if coarse is None:
            return torch.tensordot(self.weight.to(x.real.dtype), x.sum(1).real, 1)[None, None]
        few = self.aliases(coarse)
        split = x.reshape(len(x), *self._nested(fine, coarse), *x.shape[2:])
        return split.sum(tuple(range(1, 2 * len(few), 2))).flatten(1, len(few))

    def spread(self, x: Tensor, coarse: Stride, fine: Stride) -> Tensor:
        """The transpose of ``fold``: the same at every alias (the weights of frequencies are left to sums)."""
        if fine == coarse:
            return x
        assert fine is not None
        if coarse is None:
            return x.expand(len(self.representatives), math.prod(self.aliases(fine)), *x.shape[2:])
        few = self.aliases(coarse)
        x = x.reshape(len(x), *(n for m in few for n in (1, m)), *x.shape[2:])
        return x.expand(len(x), *self._nested(fine, coarse), *x.shape[1 + 2 * len(few) :]).flatten(1, 2 * len(few))

    def _nested(self, fine: Stride, coarse: Stride) -> list[int]:
        """Along each axis, how many aliases of the fine field fold to each of the coarse one's, and how many those are."""
        return [n for m, few in zip(self.aliases(fine), self.aliases(coarse), strict=True) for n in (m // few, few)]


class TorusMap(ABC):
    """A linear map of fields that commutes with shifts of the torus, or one from a field to a vector."""

    @abstractmethod
    def symbol(self, frequencies: Frequencies, stride: Stride) -> Tensor:
        """What it does to the amplitudes of unit waves, before folding: complex128 ``[R, aliases, out, in]``, float64 for vectors.

        A diagonal map gives its diagonal, float64 ``[1, 1, channels]``.

        Args:
            frequencies: of the torus.
            stride: of the field it reads.
        """


@dataclass(frozen=True, eq=False)
class Taps(TorusMap):
    """``y[i] = sum_k weight_k x[step i + offset_k]``: convolutions, pooling, shifts, scales, gathers.

    Args:
        weight: float64 ``[out, in, taps]``.
        offset: int64 ``[taps, axes]``.
        step: along each axis.
    """

    weight: Tensor
    offset: Tensor
    step: tuple[int, ...]

    def symbol(self, frequencies: Frequencies, stride: Stride) -> Tensor:
        """``sum_k weight_k e^(i w offset_k) / sqrt(step)``."""
        assert stride is not None
        waves = frequencies.waves(stride, self.offset)
        flat = self.weight.flatten(0, 1).mT / math.sqrt(math.prod(self.step))
        return torch.complex(waves.real @ flat, waves.imag @ flat).unflatten(-1, self.weight.shape[:2])


@dataclass(frozen=True, eq=False)
class Diagonal(TorusMap):
    """``y = weight x``, channel by channel, at every position.

    Args:
        weight: float64 ``[channels]``.
    """

    weight: Tensor

    def symbol(self, frequencies: Frequencies, stride: Stride) -> Tensor:
        """The weights, ``[1, 1, channels]``: a diagonal instead of a matrix."""
        return self.weight[None, None]


@dataclass(frozen=True, eq=False)
class Rows(TorusMap):
    """``y_m = sum_i rows_m[:, i] x[:, i]`` over the field's support: what comes out is a vector.

    Args:
        rows: float64 ``[out, in, *extent]``.
    """

    rows: Tensor

    def symbol(self, frequencies: Frequencies, stride: Stride) -> Tensor:
        """``sum_i rows[:, i] e^(i w i) / sqrt(positions)``."""
        assert stride is not None
        size = frequencies.size(stride)
        axes = tuple(range(2, 2 + len(size)))
        index = frequencies.index(stride)
        place = torch.tensor([math.prod(size[a + 1 :]) for a in range(len(size))])
        waves = torch.fft.ifftn(self.rows, size, axes, norm="ortho").flatten(2)
        return waves[:, :, (index * place).sum(-1).flatten()].permute(2, 0, 1).unflatten(0, index.shape[:2])


@dataclass(frozen=True, eq=False)
class Matrix(TorusMap):
    """``y = matrix x`` between vectors.

    Args:
        matrix: float64 ``[out, in]``.
    """

    matrix: Tensor

    def symbol(self, frequencies: Frequencies, stride: Stride) -> Tensor:
        """The matrix itself, ``[1, 1, out, in]``."""
        return self.matrix[None, None]
