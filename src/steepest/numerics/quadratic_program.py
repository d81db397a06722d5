"""Sums of quadratic constraints as block-sparse matrices: what the semidefinite program of LipSDP is made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

GROUP = 64
"""Variables are joined to blocks of at least so many entries: products of smaller blocks are slow."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A dense block of a sparse matrix, and where it lies."""

    row: int
    column: int
    block: Tensor

    @property
    def rows(self) -> slice:
        """Its range of rows."""
        return slice(self.row, self.row + self.block.shape[0])

    @property
    def columns(self) -> slice:
        """Its range of columns."""
        return slice(self.column, self.column + self.block.shape[1])


@dataclass(frozen=True, eq=False)
class QuadraticProgram:
    """Minimise rho over ``t >= 0`` with ``S = rho E + sum_j t_j P_j - C'C`` positive semidefinite.

    The variables are ``(x, z)`` and E is the identity on x. With rows h_i of H and ``g_i = e_i - lean_i h_i`` for the entries of z,
    ``P_j = sum_{z_i in j} g_i g_i' - sum_{h_i in j} h_i h_i'``. S has few blocks, products with it and its factor cost little, and
    ``<P_j, X P_k Y>`` is a sum of Hadamard products of ``G X G'``, ``G X H'`` and ``H X H'`` with the same of Y.

    Args:
        sizes: entries of x and of each variable in z; z comes after what it depends on.
        H: tiles, each within one variable's columns and one constraint's rows.
        C: tiles, each within one variable's columns; rows at 0.
        lean: ``[rows of H]``; zero where the rows of H are not one to one with entries of z.
        excess: ``lean^2 - 1``, exactly zero where it should be.
        own: int64 ``[rows of H]``, the entry of z that belongs to each row; any where lean is zero.
        z_of, v_of: the multiplier of each entry of z, and of each row of H.
        multipliers: how many.
    """

    sizes: tuple[int, ...]
    H: tuple[Tile, ...]
    C: tuple[Tile, ...]
    lean: Tensor
    excess: Tensor
    own: Tensor
    z_of: Tensor
    v_of: Tensor
    multipliers: int

    @property
    def inputs(self) -> int:
        """Entries of x."""
        return self.sizes[0]

    @property
    def size(self) -> int:
        """Entries of x and z."""
        return sum(self.sizes)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where the blocks of S begin; one block where several would save too little."""
        found, at = [0], 0
        for n in self.sizes:
            at += n
            if at - found[-1] >= GROUP:
                found.append(at)
        found = [*found[:-1], at] if len(found) > 1 else [0, at]
        filled = self._filled(found)
        return tuple(found) if 3 * filled < at * at else (0, at)

    @cached_property
    def work(self) -> float:
        """About how many floating-point operations at the speed of matrix products an iteration of the interior point takes."""
        n, rows = self.size, len(self.v_of)
        tiles = sum(t.block.numel() for t in self.H)
        solve = 2.0 * n * n if len(self.starts) == 2 else 4.0 * self._filled(self.starts)
        return 18.0 * n * tiles + 5.0 * n * solve + 0.5 * (n**3 + self.multipliers**3) + 100.0 * n * (n + rows)

    def _filled(self, starts: Sequence[int]) -> int:
        """Entries of the Cholesky factor's blocks."""
        count = len(starts) - 1
        nonzero = {(i, i) for i in range(count)}
        nonzero.update((_block(starts, self._position(t.row)), _block(starts, t.column)) for t in self.H)
        nonzero.update((_block(starts, a.column), _block(starts, b.column)) for a, b in (*self._curved, *self._outputs))
        for i in range(count):
            below = [j for j in range(i + 1, count) if (j, i) in nonzero]
            nonzero.update((j, k) for j in below for k in below if k <= j)
        return sum((starts[i + 1] - starts[i]) * (starts[j + 1] - starts[j]) for i, j in nonzero)

    def _position(self, row: int) -> int:
        return self.inputs + int(self.own[row])

    @cached_property
    def _leaning(self) -> list[tuple[Tile, int]]:
        """Tiles that enter S beside z, and where their rows lie there."""
        return [(t, self._position(t.row)) for t in self.H if self.lean[t.rows].any()]

    @cached_property
    def _curved(self) -> list[tuple[Tile, Tile]]:
        """Tiles of H whose products enter S, the later column first."""
        tiles = [t for t in self.H if self.excess[t.rows].any()]
        return [(a, b) for a in tiles for b in tiles if a.row == b.row and a.column >= b.column]

    @cached_property
    def _outputs(self) -> list[tuple[Tile, Tile]]:
        return [(a, b) for a in self.C for b in self.C if a.column >= b.column]

    @cached_property
    def _plain(self) -> bool:
        """Whether every constraint is ``g_i g_i' - h_i h_i'`` with ``lean = 1``."""
        return self.single and bool((self.lean == 1.0).all())

    @cached_property
    def single(self) -> bool:
        """Whether rows of H, entries of z and multipliers are one to one, in order."""
        order = torch.arange(self.multipliers)
        return all(len(of) == self.multipliers and torch.equal(of, order) for of in (self.own, self.z_of, self.v_of))

    def slack(self, rho: float, t: Tensor, constant: bool = True) -> dict[tuple[int, int], Tensor]:
        """The blocks of S on and below the diagonal, with or without its constant part."""
        starts = self.starts
        blocks: dict[tuple[int, int], Tensor] = {}

        def part(row: int, column: int, shape: Sequence[int]) -> Tensor:
            i, j = _block(starts, row), _block(starts, column)
            if (i, j) not in blocks:
                blocks[i, j] = t.new_zeros(starts[i + 1] - starts[i], starts[j + 1] - starts[j])
            row, column = row - starts[i], column - starts[j]
            return blocks[i, j][row : row + shape[0], column : column + shape[1]]

        diagonal = torch.cat([t.new_full((self.inputs,), rho), t[self.z_of]])
        for a, b in pairwise(starts):
            part(a, a, (b - a, b - a)).diagonal().copy_(diagonal[a:b])
        weight = t[self.v_of]
        beside = (weight * self.lean)[:, None]
        for tile, row in self._leaning:
            part(row, tile.column, tile.block.shape).addcmul_(beside[tile.rows], tile.block, value=-1.0)
        if self._curved:
            weight = (weight * self.excess)[:, None]
        for a, b in self._curved:
            part(a.column, b.column, (a.block.shape[1], b.block.shape[1])).addmm_(a.block.mT, weight[a.rows] * b.block)
        if constant:
            for a, b in self._outputs:
                part(a.column, b.column, (a.block.shape[1], b.block.shape[1])).addmm_(a.block.mT, b.block, alpha=-1.0)
        return {(i, j): b.tril() + b.tril(-1).mT if i == j else b for (i, j), b in blocks.items()}

    # Products.

    def times(self, y: Tensor) -> Tensor:
        """``H Y``."""
        out = y.new_zeros(len(self.v_of), y.shape[1])
        for t in self.H:
            out[t.rows].addmm_(t.block, y[t.columns])
        return out

    def _lifted(self, y: Tensor) -> Tensor:
        """Rows of H to entries of z, times lean."""
        if self._plain:
            return y
        y = self.lean[:, None] * y
        return y if self.single else y.new_zeros(len(self.z_of), y.shape[1]).index_add_(0, self.own, y)

    def direction(self, rho: float, t: Tensor, y: Tensor, hy: Tensor) -> Tensor:
        """``(rho E + sum_j t_j P_j) Y``, given ``H Y``."""
        n = self.inputs
        gy = y[n:] - self._lifted(hy)
        out = torch.cat([rho * y[:n], t[self.z_of][:, None] * gy])
        inner = gy if self._plain else self.lean[:, None] * (gy if self.single else gy[self.own])
        inner = (inner + hy).mul_(t[self.v_of][:, None])
        for tile in self.H:
            out[tile.columns].addmm_(tile.block.mT, inner[tile.rows], alpha=-1.0)
        return out

    def inner(self, y: Tensor, hy: Tensor) -> Tensor:
        """``<E, Y>`` and all ``<P_j, Y>``, given ``H Y``."""
        n, diagonal = self.inputs, y.diagonal()
        cross = hy[:, n:].diagonal() if self.single else hy.gather(1, n + self.own[:, None])[:, 0]
        rows = -2.0 * self.lean * cross
        if self._curved:
            square = torch.zeros_like(rows)
            for t in self.H:
                square[t.rows] += (hy[t.rows, t.columns] * t.block).sum(1)
            rows = rows + self.excess * square
        value = y.new_zeros(1 + self.multipliers)
        value[0] = diagonal[:n].sum()
        if self.single:
            torch.add(diagonal[n:], rows, out=value[1:])
        else:
            value[1:].index_add_(0, self.z_of, diagonal[n:]).index_add_(0, self.v_of, rows)
        return value

    def constant(self, y: Tensor) -> float:
        """``<C'C, Y>``."""
        return sum(((a.block @ y[a.columns, b.columns]) * b.block).sum().item() for a in self.C for b in self.C)

    def schur(self, x: Tensor, y: Tensor, hx: Tensor, hy: Tensor) -> Tensor:
        """``<A_j, X A_k Y>`` for ``A = (E, P_1, ...)``, given ``H X`` and ``H Y``."""
        n, m = self.inputs, self.multipliers
        (gg, gh, hh, gx), (kk, kh, ll, gy) = self._squares(x, hx), self._squares(y, hy)
        b = x.new_empty(m + 1, m + 1)
        inner = b[1:, 1:]
        cross = self._gathered(gh.mul_(kh), self.z_of, self.v_of)
        inner.copy_(self._gathered(gg.mul_(kk), self.z_of, self.z_of)).sub_(cross).sub_(cross.mT)
        inner.add_(self._gathered(hh.mul_(ll), self.v_of, self.v_of))
        b[0, 0] = (x[:n, :n] * y[:n, :n]).sum()
        outer, sides = (gx * gy).sum(1), (hx[:, :n] * hy[:, :n]).sum(1)
        if self.single:
            b[0, 1:] = outer - sides
        else:
            b[0, 1:] = x.new_zeros(m).index_add_(0, self.z_of, outer).index_add_(0, self.v_of, -sides)
        b[1:, 0] = b[0, 1:]
        return b

    def _squares(self, y: Tensor, hy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``G Y G'``, ``G Y H'``, ``H Y H'`` and G Y on x."""
        n = self.inputs
        hh = self.times(hy.mT)
        lifted = self._lifted(hy)
        cross = lifted[:, n:]
        gh = hy[:, n:].mT - self._lifted(hh)
        gg = (y[n:, n:] - cross).sub_(cross.mT).add_(self._lifted(self._lifted(hh).mT))
        return gg, gh, hh, y[n:, :n] - lifted[:, :n]

    def _gathered(self, block: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Sums over the rows and columns of each multiplier."""
        if self.single:
            return block
        m = self.multipliers
        half = block.new_zeros(m, block.shape[1]).index_add_(0, rows, block)
        return block.new_zeros(m, m).index_add_(1, columns, half)


def _block(starts: Sequence[int], at: int) -> int:
    return bisect_right(starts, at) - 1
