"""Claims about operator norms, proven by a Cholesky factorisation that runs to its end (Rump 2006)."""

from __future__ import annotations

import math

import numpy as np

from steepest.proofs.checker.box import Array, slack


def definite(matrices: Array, error: float) -> bool:
    """Whether every Hermitian matrix within ``error`` (spectral norm) of each of a batch is positive semidefinite.

    The computed factorisation of A has a backward error of at most ``gamma tr(A)``; so if that of ``A - c I`` runs to its end
    with c above this and the error, A + E is semidefinite.
    """
    n = matrices.shape[-1]
    diagonal = np.real(np.diagonal(matrices, axis1=-2, axis2=-1))
    if not np.isfinite(matrices).all() or not math.isfinite(error):
        return False
    shift = (
        2.0 * slack((2 if np.iscomplexobj(matrices) else 1) * n + 8) * float(np.abs(diagonal).sum(-1).max())
        + error * (1 + slack(4))
        + 2.0**-1000
    )
    try:
        np.linalg.cholesky(matrices - shift * np.eye(n))
    except np.linalg.LinAlgError:
        return False
    return True


def matrix_norm_at_most(matrix: Array, claim: float) -> bool:
    """Whether ``|W|_2 <= claim`` for one real matrix."""
    matrices = matrix[None]
    if matrices.size == 0 or not np.abs(matrices).max() > 0:
        return claim >= 0
    if not (math.isfinite(claim) and claim > 0):
        return False
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.swapaxes(-1, -2)
    # Scaled by a power of two, so that nothing overflows; exact.
    unit = 2.0 ** math.floor(math.log2(claim))
    scaled, tau = matrices / unit, claim * (1 - 2 * slack(1)) / unit
    rows, inner = scaled.shape[-2:]
    gram = scaled @ scaled.swapaxes(-1, -2)
    mass = float((np.abs(scaled) ** 2).sum((-2, -1)).max()) * (1 + slack(rows * inner))
    error = slack(4 * inner + 8) * mass + slack(4) * tau * tau
    return definite(tau * tau * np.eye(rows) - gram, error)
