"""Extreme eigenvalues of a symmetric operator that is known by its products alone: Lanczos."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Eigenpairs:
    """Ritz pairs of a symmetric operator.

    Each interval ``values[i] -+ residuals[i]`` holds an eigenvalue (Parlett 1998, theorem 4.5.1), up to the rounding of the products; that
    it is the extreme one is likely, not proven.

    Args:
        values: float64 ``[k]``, the largest first, then the smallest, each from the end inwards.
        residuals: ``|A u - value u|`` of the unit vectors u.
        vectors: ``[k, n]``, the unit vectors.
        products: how many times a vector was multiplied.
        converged: whether every residual met the tolerance, or the whole space was searched.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    products: int
    converged: bool


def extreme_eigenvalues(
    times: Callable[[Tensor], Tensor],
    start: Tensor,
    largest: int = 1,
    smallest: int = 0,
    tolerance: float = 1e-4,
    steps: int = 100,
) -> Eigenpairs:
    """The largest and smallest eigenvalues, by Lanczos with full reorthogonalisation.

    Every new vector is made orthogonal to all earlier ones, twice, so that no eigenvalue that has converged comes back as a copy, in float32
    too. One product a step; the basis takes ``steps`` vectors.

    Args:
        times: a vector times the matrix.
        start: a vector ``[n]`` not orthogonal to the eigenvectors that are sought.
        largest, smallest: how many of either end.
        tolerance: stop once all residuals are below this part of the largest ``|value|``.
        steps: most products.
    """
    n = start.numel()
    steps = min(steps, n)
    wanted = min(largest + smallest, n)
    basis = start.new_empty(min(steps, 16) + 1, n)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    basis[0] = start / torch.linalg.vector_norm(start)
    eps = torch.finfo(start.dtype).eps
    for k in range(steps):
        if k + 2 > len(basis):
            basis = torch.cat([basis, basis.new_empty(min(len(basis), steps + 1 - len(basis)), n)])
        v = times(basis[k])
        size = torch.linalg.vector_norm(v)
        known = basis[: k + 1]
        along = known @ v
        v = torch.addmv(v, known.T, along, alpha=-1.0)
        again = known @ v
        v = torch.addmv(v, known.T, again, alpha=-1.0)
        norm = torch.linalg.vector_norm(v)
        *column, size, left = torch.cat([along + again, size[None], norm[None]]).tolist()
        if not math.isfinite(size):
            raise FloatingPointError("a product with the matrix is not finite")
        projected[k, : k + 1] = projected[: k + 1, k] = torch.tensor(column, dtype=torch.float64)
        # The Krylov space is invariant: what is left of the product is rounding, and a new direction goes on for eigenvalues still missing.
        exhausted = left <= 10 * eps * size
        if exhausted and k + 1 < wanted:
            v = torch.randn(n, generator=torch.Generator().manual_seed(k), dtype=torch.float64).to(v)
            for _ in range(2):
                v = torch.addmv(v, known.T, known @ v, alpha=-1.0)
            norm = torch.linalg.vector_norm(v)
        basis[k + 1] = v / norm
        if k + 1 < wanted:
            continue
        values, vectors = torch.linalg.eigh(projected[: k + 1, : k + 1])
        picked = _ends(k + 1, largest, smallest)
        residuals = 0.0 if exhausted else left * vectors[-1, picked].abs()
        converged = exhausted or bool((residuals <= tolerance * values.abs().max()).all())
        if converged:
            break
    ritz = vectors[:, picked].T.to(basis) @ known
    residuals = torch.zeros(len(picked), dtype=torch.float64) + residuals
    return Eigenpairs(values[picked], residuals, ritz, k + 1, converged or k + 1 == n)


def least_eigenvalue(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """About the least eigenvalue, less the residual of its Ritz pair; a guess, not a bound.

    For a few steps where each microsecond counts: orthogonality is left to the three-term recurrence, and what it loses repeats eigenvalues
    that have converged.

    Args:
        times: a vector times the matrix.
        start: a vector not orthogonal to the eigenvector.
        steps: products with the matrix.
    """
    q, before = start / torch.linalg.vector_norm(start), torch.zeros_like(start)
    alpha, beta = [], [start.new_zeros(())]
    tiny = torch.finfo(start.dtype).tiny
    for _ in range(min(steps, len(start))):
        v = times(q)
        alpha.append(torch.dot(v, q))
        v = torch.addcmul(torch.addcmul(v, q, alpha[-1], value=-1.0), before, beta[-1], value=-1.0)
        beta.append(torch.linalg.vector_norm(v))
        q, before = v / (beta[-1] + tiny), q
    off = torch.stack(beta[1:])
    triangle = torch.diag(torch.stack(alpha)) + torch.diag(off[:-1], 1) + torch.diag(off[:-1], -1)
    values, vectors = torch.linalg.eigh(triangle)
    return (values[0] - (off[-1] * vectors[-1, 0]).abs()).item()


def _ends(count: int, largest: int, smallest: int) -> list[int]:
    """Where ascending values hold the largest, falling, then the smallest, rising; none twice."""
    top = list(range(count - 1, max(count - 1 - largest, -1), -1))
    return top + list(range(min(smallest, count - len(top))))
