"""The least eigenvalue of a symmetric operator, by Lanczos."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def least_eigenvalue(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """About the least eigenvalue, less the residual of its Ritz pair; a guess, not a bound.

    Orthogonality is left to the three-term recurrence: what it loses repeats eigenvalues that have converged.

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
