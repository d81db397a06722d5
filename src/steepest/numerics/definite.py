"""Proof in floating point that a symmetric or Hermitian matrix is positive semidefinite."""

from __future__ import annotations

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
    shifted = matrix - torch.diag_embed(shift[..., None].expand(diagonal.shape)).to(matrix.dtype)
    _, info = torch.linalg.cholesky_ex(shifted)
    return (info == 0) & torch.isfinite(trace) & (diagonal >= shift[..., None]).all(-1)
