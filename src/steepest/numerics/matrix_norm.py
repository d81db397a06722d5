"""Proven operator norms of dense matrices, real or complex, in batches."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.rounding import ROOT_TINY, gamma


def norm_2_above(matrix: Tensor) -> Tensor:
    """Upper bound of the largest singular value, proven: ``tau^2 I - W'W`` is shown semidefinite.

    The Gram matrix is formed on the shorter side in floating point; its rounding error is at most
    ``gamma |W|_F^2`` in spectral norm and enters the proof. A guess from an eigenvalue solver starts the search and
    the Frobenius norm ends it, so the result is always finite for finite input.

    Args:
        matrix: ``[*batch, m, n]``, float64 or complex128.

    Returns:
        Bounds ``[*batch]``, float64, at most about 1e-10 above the norm where m and n are below a few thousand.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = matrix.mH
    rows, inner = matrix.shape[-2:]
    terms = (4 if matrix.is_complex() else 1) * (inner + rows + 8)
    frobenius_sq = matrix.abs().square().sum((-2, -1)) * (1.0 + gamma(rows * inner + 4))
    # Scaled to about one, so that squares neither overflow nor vanish.
    scale = torch.where(frobenius_sq > 0, frobenius_sq, 1.0).sqrt()
    scale = torch.exp2(torch.floor(torch.log2(scale)))
    scaled = matrix / scale[..., None, None]
    gram = scaled @ scaled.mH
    frobenius_sq = scaled.abs().square().sum((-2, -1)) * (1.0 + gamma(rows * inner + 4))
    error = gamma(terms) * frobenius_sq
    largest = torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0.0)
    bound_sq = frobenius_sq.clone()
    open_ = torch.ones_like(largest, dtype=torch.bool)
    eye = torch.eye(rows, dtype=matrix.dtype, device=matrix.device)
    for growth in (4.0, 64.0, 1e3, 1e5):
        guess = largest * (1.0 + growth * gamma(rows)) + growth * rows * error
        proven = proves_semidefinite(guess[..., None, None] * eye - gram, error + gamma(4) * guess) & open_
        bound_sq = torch.where(proven, torch.minimum(guess, bound_sq), bound_sq)
        open_ &= ~proven
        if not open_.any():
            break
    return bound_sq.sqrt() * scale * (1.0 + gamma(4))


def norm_inf_above(matrix: Tensor) -> Tensor:
    """Upper bound of the largest absolute row sum: the operator norm from linf to linf; ``[*batch]``."""
    return matrix.abs().sum(-1).amax(-1) * (1.0 + gamma(matrix.shape[-1]))


def norm_1_above(matrix: Tensor) -> Tensor:
    """Upper bound of the largest absolute column sum: the operator norm from l1 to l1; ``[*batch]``."""
    return norm_inf_above(matrix.mT)


def interval_norm_above(centre: Tensor, radius: Tensor, p: float) -> Tensor:
    """Upper bound of the operator norm of every matrix within ``radius`` of ``centre``, entrywise.

    For p = 2 the smaller of ``|C|_2 + |R|_2`` and ``| |C| + R |_2``; for 1 and inf the norm of ``|C| + R`` is exact.
    Infinite where any radius is.

    Args:
        centre: ``[*batch, m, n]``.
        radius: the same shape, non-negative, possibly infinite.
        p: 1, 2 or inf.
    """
    finite = torch.isfinite(radius).flatten(-2).all(-1)
    magnitude = torch.nan_to_num((centre.abs() + radius) * (1.0 + gamma(1)), posinf=0.0)
    if p == 1:
        bound = norm_1_above(magnitude)
    elif p == 2:
        radius = torch.nan_to_num(radius, posinf=0.0)
        split = (norm_2_above(centre) + norm_2_above(radius)) * (1.0 + gamma(1))
        bound = torch.minimum(split, norm_2_above(magnitude))
    else:
        bound = norm_inf_above(magnitude)
    return torch.where(finite, bound, torch.inf)


def dual_norm_above(magnitude: Tensor, p: float) -> Tensor:
    """Upper bound of the norm dual to lp, p one of 1, 2, inf, of vectors of at most these magnitudes along the last axis."""
    slack = 1.0 + gamma(magnitude.shape[-1] + 4)
    if p == 1:
        return magnitude.amax(-1)
    if p == 2:
        # Scaled so that squares neither overflow nor vanish.
        largest = magnitude.amax(-1, keepdim=True)
        scale = torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)
        return (magnitude / scale).square().sum(-1).sqrt() * scale.squeeze(-1) * slack + ROOT_TINY
    return magnitude.sum(-1) * slack
