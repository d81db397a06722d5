"""The largest eigenvalue of a symmetric operator, by Lanczos."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def largest_eigenvalue(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """About the largest eigenvalue, the residual of the Ritz pair added; a guess, not a bound.

    Orthogonality is left to the three-term recurrence: what it loses repeats eigenvalues that have converged.

    Args:
        times: a vector times the matrix.
        start: a vector not orthogonal to the eigenvector.
        steps: products with the matrix.
    """
    q, before = start / start.norm(), torch.zeros_like(start)
    alpha, beta = [], [torch.zeros((), dtype=start.dtype)]
    for _ in range(min(steps, len(start))):
        v = times(q)
        alpha.append(v @ q)
        v = v.sub(alpha[-1] * q).sub_(beta[-1] * before)
        beta.append(v.norm())
        q, before = v / beta[-1].clamp(min=1e-300), q
    off = torch.stack(beta[1:])
    triangle = torch.diag(torch.stack(alpha)) + torch.diag(off[:-1], 1) + torch.diag(off[:-1], -1)
    values, vectors = torch.linalg.eigh(triangle)
    return (values[-1] + (off[-1] * vectors[-1, -1]).abs()).item()
