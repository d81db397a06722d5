"""A sparse symmetric matrix by blocks, and the proof that it is positive semidefinite."""

from __future__ import annotations

import math

import numpy as np

from steepest.proofs.checker.box import Array, slack

_LARGEST = 2**28
_PANEL = 64


class BlockMatrix:
    """A real symmetric matrix; blocks ``(i, j)`` with ``i >= j``, absent where zero, a vector for a diagonal block that is diagonal."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int], Array] = {}

    def add(self, i: int, j: int, value: Array) -> None:
        """Add to a block and to its mirror image; a vector adds to the diagonal."""
        if i < j:
            i, j, value = j, i, value.T
        old = self.blocks.get((i, j))
        if old is None:
            self.blocks[i, j] = value
        elif old.ndim == value.ndim:
            self.blocks[i, j] = old + value
        else:
            self.blocks[i, j] = _square(old) + _square(value)

    def diagonal(self, i: int) -> Array:
        """Of block ``(i, i)``."""
        b = self.blocks[i, i]
        return b if b.ndim == 1 else np.diagonal(b)

    def scaled(self, scale: dict[int, Array]) -> BlockMatrix:
        """``S M S`` for diagonal S, powers of two."""
        out = BlockMatrix()
        for (i, j), b in self.blocks.items():
            out.blocks[i, j] = b * scale[i] * scale[i] if b.ndim == 1 else b * scale[i][:, None] * scale[j]
        return out

    def semidefinite(self, error: float) -> bool:
        """Whether every symmetric matrix within ``error`` (spectral norm) is positive semidefinite.

        A Cholesky factorisation that passes over zero blocks and eliminates in another order is one of a permuted matrix, its
        sums merely taken in another order. The computed L is exact for a matrix that differs by at most ``gamma |L| |L'|``, entry
        by entry (Higham 2002, theorem 10.3); in the spectral norm that is at most ``gamma |L|_1 |L|_inf``, and at most
        ``gamma tr(A)`` (Rump 2006).

        Raises:
            ValueError: where the factors are too large to hold.
        """
        sizes = {i: len(b) for (i, j), b in self.blocks.items() if i == j}
        count = sum(sizes.values())
        trace = sum(float(np.abs(self.diagonal(i)).sum()) for i in sizes) * (1 + slack(count))
        if not all(np.isfinite(b).all() for b in self.blocks.values()) or not math.isfinite(error):
            return False
        for most in sorted({min(trace, max(512.0, trace / 16)), trace}):
            mass = self._factored(sizes, 2.0 * slack(count + 8) * most + error * (1 + slack(4)) + 2.0**-1000)
            if mass is None:
                return False
            if mass <= most or most == trace:
                return True
        return False

    def _factored(self, sizes: dict[int, int], shift: float) -> float | None:
        """``|L|_1 |L|_inf`` of the Cholesky factor of the matrix less ``shift``, or None where it breaks down."""
        work = BlockMatrix()
        work.blocks = left = dict(self.blocks)
        for i in sizes:
            left[i, i] = left[i, i] - (shift if left[i, i].ndim == 1 else shift * np.eye(sizes[i]))
        remaining = set(sizes)
        rows = {i: np.zeros(n) for i, n in sizes.items()}
        widest = 0.0
        while remaining:
            near = {i: sorted(j for j in remaining if j != i and ((i, j) in left or (j, i) in left)) for i in remaining}
            i = min(sorted(remaining), key=lambda i, near=near: _work(left, near[i], i))
            pivot = left.pop((i, i))
            sides = {j: left.pop((j, i)) if (j, i) in left else left.pop((i, j)).T for j in near[i]}
            if sum(s.size for s in sides.values()) + sum(b.size for b in left.values()) > _LARGEST:
                raise ValueError(f"the factors would hold more than {_LARGEST} numbers")
            if pivot.ndim == 1:
                if not (pivot > 0).all():
                    return None
                root = np.sqrt(pivot)
                sides = {j: s / root for j, s in sides.items()}
                rows[i] += root
                column = root.copy()
            else:
                try:
                    factor = np.linalg.cholesky(pivot)
                except np.linalg.LinAlgError:
                    return None
                sides = {j: _divided(s, factor) for j, s in sides.items()}
                size = np.abs(factor)
                rows[i] += size.sum(1)
                column = size.sum(0)
            for j, side in sides.items():
                size = np.abs(side)
                rows[j] += size.sum(1)
                column = column + size.sum(0)
            widest = max(widest, float(column.max(initial=0.0)))
            remaining.discard(i)
            for j, a in sides.items():
                for k, b in sides.items():
                    if k <= j:
                        work.add(j, k, -(a @ b.T))
        return widest * max(float(r.max(initial=0.0)) for r in rows.values()) * (1 + slack(2 * sum(sizes.values())))


def _work(left: dict[tuple[int, int], Array], near: list[int], i: int) -> float:
    """Of eliminating a block, and of factoring the diagonal blocks that it fills."""
    size, around = len(left[i, i]), float(sum(len(left[j, j]) for j in near))
    filled = sum(len(left[j, j]) ** 3 / 3 for j in near if left[j, j].ndim == 1)
    return (0.0 if left[i, i].ndim == 1 else size**3 / 3 + size**2 * around) + size * around**2 + filled


def _square(b: Array) -> Array:
    return np.diag(b) if b.ndim == 1 else b


def _divided(side: Array, factor: Array) -> Array:
    """``side factor^-T`` by substitution, panel by panel."""
    out = np.array(side, order="F")
    for first in range(0, len(factor), _PANEL):
        last = min(first + _PANEL, len(factor))
        panel = out[:, first:last] - out[:, :first] @ factor[first:last, :first].T
        corner = factor[first:last, first:last]
        for k in range(last - first):
            panel[:, k] = (panel[:, k] - panel[:, :k] @ corner[k, :k]) / corner[k, k]
        out[:, first:last] = panel
    return out
