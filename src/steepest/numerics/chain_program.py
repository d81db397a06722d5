"""Chains of quadratic constraints, layer by layer: each constraint joins two neighbouring variables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from steepest.numerics.quadratic_program import QuadraticProgram
from steepest.numerics.semiseparable import Semiseparable, Tridiagonal

WORK_EACH, WORK_CUBE = 2.7e7, 3.3e3
"""What a layer takes in an iteration of the interior point: calls, and for each cubed entry of its width."""


@dataclass(frozen=True, eq=False)
class ChainProgram:
    """A ``QuadraticProgram`` whose S is block tridiagonal, its layers filled up to one width.

    A vector of multipliers is ``[n, w]``: rho first in its first row, then a row for each layer; elsewhere it is one, and a direction zero.

    Args:
        size: entries of all variables.
        H: ``[n - 1, w, w]``, rows of layer k on layer k - 1.
        C: ``[outputs, w]``, on the last layer.
        lean, excess: ``[n - 1, w]``, as in ``QuadraticProgram``.
        real: ``[n, w]``, one for the entries of the variables.
    """

    size: int
    H: Tensor
    C: Tensor
    lean: Tensor
    excess: Tensor
    real: Tensor

    @classmethod
    def of(cls, program: QuadraticProgram) -> ChainProgram | None:
        """The program as a chain, or None where it is none."""
        sizes, starts = program.sizes, [0, *accumulate(program.sizes)]
        places = [(t.row, t.column, *t.block.shape) for t in program.H]
        layers = [(starts[k] - sizes[0], starts[k - 1], sizes[k], sizes[k - 1]) for k in range(1, len(sizes))]
        if not layers or places != layers or not program.single or [t.column for t in program.C] != [starts[-2]]:
            return None
        n, w = len(sizes), max(sizes)
        new = program.lean.new_zeros
        H, C, real, lean, excess = new(n - 1, w, w), new(len(program.C[0].block), w), new(n, w), new(n - 1, w), new(n - 1, w)
        C[:, : sizes[-1]] = program.C[0].block
        for k, size in enumerate(sizes):
            real[k, :size] = 1.0
        for k, t in enumerate(program.H):
            rows, columns = t.block.shape
            H[k, :rows, :columns] = t.block
            lean[k, :rows], excess[k, :rows] = program.lean[t.rows], program.excess[t.rows]
        return cls(program.size, H, C, lean, excess, real)

    @cached_property
    def on(self) -> Tensor:
        """``[n, w]``, one where a vector of multipliers has its entries."""
        on = self.real.clone()
        on[0, 1:] = 0.0
        return on

    @cached_property
    def pairs(self) -> Tensor:
        """``[n, w, w]``, one within the variables."""
        return self.real[:, :, None] * self.real[:, None, :]

    @cached_property
    def _leaning(self) -> Tensor:
        return self.lean[:, :, None] * self.H

    @cached_property
    def _curved(self) -> bool:
        return bool(self.excess.any())

    @property
    def work(self) -> float:
        """About how many floating-point operations at the speed of large matrix products an iteration takes."""
        n, w = self.real.shape
        return n * (WORK_EACH + WORK_CUBE * w**3)

    def packed(self, rho: float, t: Tensor) -> Tensor:
        """A vector of multipliers."""
        v = torch.ones_like(self.real)
        v[self.on.bool()] = torch.cat([t.new_tensor([rho]), t])
        return v

    def unpacked(self, v: Tensor) -> tuple[float, Tensor]:
        """Rho and the others."""
        flat = v[self.on.bool()]
        return flat[0].item(), flat[1:]

    def slack(self, v: Tensor) -> Tridiagonal:
        """S, the identity where layers were filled up."""
        blocks = self.direction(v)
        blocks.diagonal[0].diagonal().add_(1.0 - self.real[0])
        blocks.diagonal[-1].addmm_(self.C.mT, self.C, alpha=-1.0)
        return blocks

    def direction(self, v: Tensor) -> Tridiagonal:
        """``v_0 E + sum_j v_j P_j``."""
        diagonal = torch.diag_embed(torch.cat([v[:1, :1] * self.real[:1], v[1:]]))
        if self._curved:
            diagonal[:-1] += self.H.mT @ ((v[1:] * self.excess)[:, :, None] * self.H)
        lower = -v[1:, :, None] * self._leaning
        return Tridiagonal(diagonal, lower, lower.mT)

    def inner(self, y: Tridiagonal) -> Tensor:
        """``<E, Y>`` and all ``<P_j, Y>``, as a vector of multipliers."""
        value = y.diagonal.diagonal(dim1=1, dim2=2).clone()
        value[1:] -= ((y.lower + y.upper.mT) * self._leaning).sum(2)
        if self._curved:
            value[1:] += self.excess * ((self.H @ y.diagonal[:-1]) * self.H).sum(2)
        value[0, 0] = (value[0] * self.real[0]).sum()
        return value * self.on

    def constant(self, y: Tridiagonal) -> float:
        """``<C'C, Y>``."""
        return ((self.C @ y.diagonal[-1]) * self.C).sum().item()

    def schur(self, x: Semiseparable, y: Semiseparable) -> Tensor:
        """``[n, w, w]``, ``<A_j, X A_k Y>`` for j and k of one layer; of the first layer rho's alone."""
        (gg, gh, hh), (kk, kh, ll) = self._squares(x), self._squares(y)
        cross = gh.mul_(kh)
        out = torch.zeros_like(x.diagonal)
        out[1:] = gg.mul_(kk).sub_(cross).sub_(cross.mT).add_(hh.mul_(ll))
        out[0, 0, 0] = (x.diagonal[0] * y.diagonal[0] * self.pairs[0]).sum()
        return 0.5 * (out + out.mT) * self.on[:, :, None] * self.on[:, None, :]

    def _squares(self, y: Semiseparable) -> tuple[Tensor, Tensor, Tensor]:
        """``G Y G'``, ``G Y H'`` and ``H Y H'`` of every layer."""
        lean, hh = self.lean[:, :, None], self.H @ y.diagonal[:-1] @ self.H.mT
        cross = lean * (self.H @ y.tridiagonal.upper)
        curved = lean * hh
        gg = y.diagonal[1:] - cross - cross.mT + curved * self.lean[:, None, :]
        return gg, (self.H @ y.tridiagonal.upper).mT - curved, hh

    def read(self, k: int, x: Semiseparable, y: Semiseparable) -> tuple[Tensor, Tensor, Tensor]:
        """Rows ``a_j``, ``b_j`` and ``h_j`` with ``<P_j, M> = a_j' M_ii b_j - h_j' M_ii h_j`` for layer k and ``i = k - 1``.

        M is ``X D Y`` for a D of earlier layers alone.
        """
        leaning, on = self._leaning[k - 1], self.real[k][:, None]
        return on * (x.left[k - 1] - leaning), on * (y.right[k - 1].mT - leaning), self.H[k - 1]

    def written(self, k: int, x: Semiseparable, y: Semiseparable) -> Tensor:
        """``[w, w, w]``, the block ``(k, k)`` of ``X P_j Y`` for every j of layer k, without what later layers add."""
        if k == 0:
            return ((x.diagonal[0] * self.real[0]) @ y.diagonal[0])[None]
        on, lean, H = self.real[k], self.lean[k - 1], self.H[k - 1]
        left, right = x.left[k - 1] @ x.diagonal[k - 1] @ H.mT, y.left[k - 1] @ y.diagonal[k - 1] @ H.mT
        a, b = on * (x.diagonal[k] - lean * left), on * (y.diagonal[k] - lean * right)
        return a.mT[:, :, None] * b.mT[:, None, :] - left.mT[:, :, None] * right.mT[:, None, :]
