"""Cholesky factorisation of a positive definite matrix given by blocks; blocks that stay zero cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


class BlockCholesky:
    """``L L'`` in the blocks' own order.

    Args:
        starts: where each block begins, and the size of the matrix last.
        lower: the blocks of L, ``[n_i, n_j]`` for ``i >= j``, those on the diagonal lower triangular.
    """

    def __init__(self, starts: Sequence[int], lower: Mapping[tuple[int, int], Tensor]) -> None:
        self.slices = [slice(a, b) for a, b in pairwise(starts)]
        self.diagonal = [lower[i, i] for i in range(len(self.slices))]
        self.below: list[list[tuple[int, Tensor]]] = [[] for _ in self.slices]
        for (i, j), block in sorted(lower.items(), key=lambda item: item[0]):
            if i > j:
                self.below[j].append((i, block))
        self.size = starts[-1]

    @classmethod
    def factor(cls, starts: Sequence[int], blocks: Mapping[tuple[int, int], Tensor]) -> BlockCholesky | None:
        """The factor of a symmetric matrix, or None where it is not positive definite.

        Args:
            starts: where each block begins, and the size of the matrix last.
            blocks: ``[n_i, n_j]`` for ``i >= j``, absent where zero; of those on the diagonal the lower triangle is read.
        """
        left, lower = dict(blocks), {}
        count = len(starts) - 1
        for i in range(count):
            pivot, info = torch.linalg.cholesky_ex(left[i, i])
            if info.item() != 0:
                return None
            lower[i, i] = pivot
            for j in range(i + 1, count):
                if (j, i) in left:
                    lower[j, i] = torch.linalg.solve_triangular(pivot, left[j, i].mT, upper=False).mT
            for j in range(i + 1, count):
                for k in range(i + 1, j + 1):
                    if (j, i) in lower and (k, i) in lower:
                        old = left.get((j, k))
                        product = lower[j, i] @ lower[k, i].mT
                        left[j, k] = -product if old is None else old - product
        return cls(starts, lower)

    @cached_property
    def entries(self) -> int:
        """Numbers in the blocks."""
        return sum(d.numel() for d in self.diagonal) + sum(b.numel() for column in self.below for _, b in column)

    @cached_property
    def _inverses(self) -> list[Tensor]:
        return [torch.linalg.solve_triangular(d, torch.eye(len(d), dtype=d.dtype), upper=False) for d in self.diagonal]

    def solve(self, right: Tensor) -> Tensor:
        """``(L L')^-1`` times a matrix of many columns."""
        y = right.clone()
        for i, at in enumerate(self.slices):
            y[at] = self._inverses[i] @ y[at]
            for j, block in self.below[i]:
                y[self.slices[j]].addmm_(block, y[at], alpha=-1.0)
        for i in reversed(range(len(self.slices))):
            at = self.slices[i]
            for j, block in self.below[i]:
                y[at].addmm_(block.mT, y[self.slices[j]], alpha=-1.0)
            y[at] = self._inverses[i].mT @ y[at]
        return y

    def inverse(self) -> Tensor:
        """``(L L')^-1``, dense."""
        if len(self.slices) == 1:
            return torch.cholesky_inverse(self.diagonal[0])
        dense = self.solve(torch.eye(self.size, dtype=self.diagonal[0].dtype))
        return 0.5 * (dense + dense.mT)

    def pencil(self, blocks: Mapping[tuple[int, int], Tensor]) -> Callable[[Tensor], Tensor]:
        """``v -> L^-1 D L^-T v`` for a symmetric D of the same pattern, given like the matrix itself, its diagonal blocks whole."""
        if len(self.slices) > 1:
            return lambda v: self._congruent(blocks, v)
        (factor,), middle = self.diagonal, blocks[0, 0]

        def times(v: Tensor) -> Tensor:
            v = torch.linalg.solve_triangular(factor.mT, v[:, None], upper=True)
            return torch.linalg.solve_triangular(factor, middle @ v, upper=False)[:, 0]

        return times

    def _congruent(self, blocks: Mapping[tuple[int, int], Tensor], v: Tensor) -> Tensor:
        parts = [v[at] for at in self.slices]
        for i in reversed(range(len(parts))):
            for j, block in self.below[i]:
                parts[i] = torch.addmv(parts[i], block.mT, parts[j], alpha=-1.0)
            parts[i] = self._inverses[i].mT @ parts[i]
        out = [blocks[i, i] @ part for i, part in enumerate(parts)]
        for (i, j), block in blocks.items():
            if i != j:
                out[i].addmv_(block, parts[j])
                out[j].addmv_(block.mT, parts[i])
        for i in range(len(parts)):
            out[i] = self._inverses[i] @ out[i]
            for j, block in self.below[i]:
                out[j].addmv_(block, out[i], alpha=-1.0)
        return torch.cat(out)
