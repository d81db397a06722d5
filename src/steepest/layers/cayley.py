"""Matrices with orthonormal columns from free ones, by the Cayley transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cayley(free: Tensor) -> Tensor:
    """``[*batch, m, n]``, m >= n, to a matrix Q of the same shape with ``Q'Q = I``.

    With X the first n rows and Y the others, ``A = X - X' + Y'Y`` has a positive semidefinite symmetric part, so ``I + A`` is
    invertible and well conditioned, and ``Q = [(I - A) (I + A)^-1; -2 Y (I + A)^-1]``.

    Source: Trockman and Kolter, "Orthogonalizing convolutional layers with the Cayley transform" (2021), section 4, after Helfrich et al.
    """
    n = free.shape[-1]
    top, rest = free[..., :n, :], free[..., n:, :]
    eye = torch.eye(n, dtype=free.dtype, device=free.device)
    skew = top - top.mT
    if rest.shape[-2]:
        skew = skew + rest.mT @ rest
    inverse = torch.linalg.inv(eye + skew)
    # (I - A) (I + A)^-1 = 2 (I + A)^-1 - I
    upper = 2.0 * inverse - eye
    return torch.cat([upper, -2.0 * (rest @ inverse)], -2) if rest.shape[-2] else upper


def semi_orthogonal(free: Tensor, rows: int, columns: int) -> Tensor:
    """``[*batch, rows, columns]`` with orthonormal columns, or orthonormal rows where there are fewer of them."""
    q = cayley(free)
    return q if rows >= columns else q.mT


def free_matrix(batch: tuple[int, ...], rows: int, columns: int, like: Tensor) -> Tensor:
    """A random start for ``semi_orthogonal``: ``[*batch, max, min]``, entries of variance 1 / max."""
    longer, shorter = max(rows, columns), min(rows, columns)
    return torch.randn((*batch, longer, shorter), dtype=like.dtype, device=like.device) / math.sqrt(longer)
