"""Proof in floating point that a symmetric or Hermitian matrix is positive semidefinite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from steepest.numerics.rounding import TINY, gamma


def proves_semidefinite(matrix: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """True where every matrix within ``error`` of the given one (spectral norm) is positive semidefinite.

    If a floating-point Cholesky factorisation of ``A - c I`` runs to its end with
    ``c >= gamma(n + 1) / (1 - gamma(n + 1)) tr(A)``, then A is positive definite: the backward error of the
    factorisation is at most that (Rump, Verification of positive definiteness, BIT 2006, corollary 2.4). A complex
    product costs four real ones, hence the larger count. False means unproven, not indefinite.

    Args:
        matrix: ``[*batch, n, n]``, float64 or complex128; only the lower triangle is read.
        error: bound on the spectral norm of what the matrix is off by, per batch entry.

    Returns:
        Booleans ``[*batch]``.
    """
    n = matrix.shape[-1]
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).real
    slack = gamma((4 if matrix.is_complex() else 1) * (n + 8))
    trace = diagonal.abs().sum(-1) * (1.0 + gamma(n))
    shift = (2.0 * slack * trace + error) * (1.0 + slack) + n * TINY
    shifted = matrix.clone()
    shifted.diagonal(dim1=-2, dim2=-1).sub_(shift[..., None])
    _, info = torch.linalg.cholesky_ex(shifted)
    return (info == 0) & torch.isfinite(trace) & (diagonal >= shift[..., None]).all(-1)


def proves_semidefinite_blocks(blocks: Mapping[tuple[int, int], Tensor], error: float = 0.0) -> bool:
    """``proves_semidefinite`` for a sparse real matrix given by blocks, scaled to a diagonal of about one.

    A Cholesky factorisation that skips zero blocks and takes them in another order is one of a permuted matrix, with the same
    bound for its backward error: ``gamma |L| |L'|`` entry by entry, so ``gamma |L|_1 |L|_inf`` in the spectral norm (Higham 2002,
    theorem 10.3), which for large sparse matrices is far less than the trace. The order is chosen greedily by the work of the
    next elimination and of factoring the diagonal blocks that it fills.

    Args:
        blocks: ``[n_i, n_j]`` for ``i >= j``, float64, absent where zero; ``[n_i]`` for a diagonal block without off-diagonal entries.
        error: bound on the spectral norm of what the matrix is off by.
    """
    sizes = {i: len(b) for (i, j), b in blocks.items() if i == j}
    total = sum(sizes.values())
    diagonals = {i: b if b.ndim == 1 else b.diagonal() for (i, j), b in blocks.items() if i == j}
    trace = sum(d.abs().sum().item() for d in diagonals.values()) * (1.0 + gamma(total))
    slack = gamma(total + 8)
    for most in sorted({min(trace, max(512.0, trace / 16.0)), trace}):
        # Twice what the theorem asks, so that another proof of the same has room for its own rounding.
        shift = (5.0 * slack * most + error) * (1.0 + slack) + total * TINY
        if not shift < 1.0 or any((d <= shift).any() for d in diagonals.values()):
            return False
        mass = _factored(blocks, sizes, shift)
        if mass is None:
            return False
        if mass <= most or most == trace:
            return True
    return False


def _factored(blocks: Mapping[tuple[int, int], Tensor], sizes: Mapping[int, int], shift: float) -> float | None:
    """``|L|_1 |L|_inf`` of the Cholesky factor of the matrix less the shift, or None where it breaks down."""
    left: dict[tuple[int, int], Tensor] = {}
    for (i, j), b in blocks.items():
        left[i, j] = b - shift if i == j and b.ndim == 1 else b - torch.diag(torch.full((len(b),), shift, dtype=b.dtype)) if i == j else b
    remaining = set(sizes)
    rows = {i: torch.zeros(n, dtype=torch.float64) for i, n in sizes.items()}
    widest = 0.0
    while remaining:
        near = {i: [j for j in remaining if j != i and ((i, j) in left or (j, i) in left)] for i in remaining}

        def work(i: int, near: dict[int, list[int]] = near) -> float:
            around = sum(sizes[j] for j in near[i])
            thin = left[i, i].ndim == 1
            filled = sum(sizes[j] ** 3 / 3.0 for j in near[i] if left[j, j].ndim == 1)
            return (0.0 if thin else sizes[i] ** 3 / 3.0 + sizes[i] ** 2 * around) + sizes[i] * float(around) ** 2 + filled

        i = min(sorted(remaining), key=work)
        pivot = left.pop((i, i))
        sides = {j: left.pop((j, i)) if (j, i) in left else left.pop((i, j)).mT for j in near[i]}
        if pivot.ndim == 1:
            if not (pivot > 0).all():
                return None
            root = pivot.sqrt()
            sides = {j: s / root for j, s in sides.items()}
            rows[i] = rows[i] + root
            column = root.clone()
        else:
            factor, info = torch.linalg.cholesky_ex(pivot)
            if info.item() != 0:
                return None
            sides = {j: torch.linalg.solve_triangular(factor, s.mT, upper=False).mT for j, s in sides.items()}
            size = factor.abs()
            rows[i], column = rows[i] + size.sum(1), size.sum(0)
        for j, s in sides.items():
            size = s.abs()
            rows[j], column = rows[j] + size.sum(1), column + size.sum(0)
        widest = max(widest, column.max().item())
        remaining.discard(i)
        for j, a in sides.items():
            for k, b in sides.items():
                if k > j:
                    continue
                change = a @ b.mT
                old = left.get((j, k))
                if old is None:
                    left[j, k] = -change
                elif old.ndim == 1:
                    left[j, k] = torch.diag(old) - change
                else:
                    left[j, k] = old - change
    return widest * max(r.max().item() for r in rows.values()) * (1.0 + gamma(sum(sizes.values())))
