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
        converged: whether every residual met the tolerance.
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

    Every new vector is made orthogonal to all earlier ones, twice: no eigenvalue that has converged comes back as a copy, in float32 too.
    One product a step; the basis takes ``steps`` vectors.

    Args:
        times: a vector times the matrix.
        start: a vector ``[n]`` not orthogonal to the eigenvectors that are sought.
        largest, smallest: how many of either end, at least one of both together.
        tolerance: stop once all residuals are below this part of the largest ``|value|``.
        steps: most products.

    Raises:
        FloatingPointError: when a product is not finite.
    """
    n = start.numel()
    wanted = min(largest + smallest, n)
    steps = max(wanted, min(steps, n))
    space = _Krylov(times, start, steps)
    while True:
        left = space.extend(wanted)
        if space.size < wanted:
            continue
        values, vectors = torch.linalg.eigh(space.projected[: space.size, : space.size])
        picked = _ends(space.size, largest, smallest)
        residuals = left * vectors[-1, picked].abs()
        converged = bool((residuals <= tolerance * values.abs().max()).all())
        if converged or space.size == steps:
            ritz = vectors[:, picked].T.to(space.basis) @ space.basis[: space.size]
            return Eigenpairs(values[picked], residuals, ritz, space.size, converged)


class _Krylov:
    """An orthonormal basis grown by products, and the operator projected on it."""

    def __init__(self, times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> None:
        self.times, self.size = times, 0
        self.basis = start.new_empty(min(steps, 15) + 1, start.numel())
        self.basis[0] = start / torch.linalg.vector_norm(start)
        self.projected = torch.zeros(steps, steps, dtype=torch.float64, device="cpu")

    def extend(self, wanted: int) -> float:
        """Multiply the newest vector, add what is left of the product as the next one, and say how much was left of it."""
        k = self.size
        if k + 2 > len(self.basis):
            grown = self.basis.new_empty(min(2 * len(self.basis), len(self.projected) + 1), self.basis.shape[1])
            grown[: k + 1] = self.basis
            self.basis = grown
        known, v = self.basis[: k + 1], self.times(self.basis[k])
        size = torch.linalg.vector_norm(v)
        v, along = _orthogonal(v, known)
        norm = torch.linalg.vector_norm(v)
        *column, whole, left = torch.cat([along, size[None], norm[None]]).tolist()
        if not math.isfinite(whole):
            raise FloatingPointError("a product with the matrix is not finite")
        self.projected[k, : k + 1] = self.projected[: k + 1, k] = torch.tensor(column, dtype=torch.float64)
        self.size = k + 1
        if left > 10 * torch.finfo(v.dtype).eps * whole:
            self.basis[k + 1] = v / norm
            return left
        # The space is invariant and what is left is rounding: eigenvalues that are still missing lie in another direction.
        if self.size < wanted:
            other = torch.randn(len(v), generator=torch.Generator().manual_seed(k), dtype=torch.float64).to(v)
            v, _ = _orthogonal(other, known)
            self.basis[k + 1] = v / torch.linalg.vector_norm(v)
        return 0.0


def _orthogonal(v: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of v beside an orthonormal basis, and its coefficients in it."""
    along = basis @ v
    v = torch.addmv(v, basis.T, along, alpha=-1.0)
    again = basis @ v
    return torch.addmv(v, basis.T, again, alpha=-1.0), along + again


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
