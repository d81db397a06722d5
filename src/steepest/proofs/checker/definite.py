"""Claims about operator norms, proven by a Cholesky factorisation that runs to its end (Rump 2006)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from steepest.proofs.checker.box import Array, slack


def definite(matrices: Array, error: float) -> bool:
    """Whether every Hermitian matrix within ``error`` (spectral norm) of each of a batch is positive semidefinite.

    The computed factorisation of A has a backward error of at most ``gamma tr(A)``; so if that of ``A - c I`` runs to its end
    with c above this and the error, A + E is semidefinite.
    """
    n = matrices.shape[-1]
    diagonal = np.real(np.diagonal(matrices, axis1=-2, axis2=-1))
    if not np.isfinite(diagonal).all() or not math.isfinite(error):
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
    return _norms_at_most(matrix[None], claim, 0.0)


def _norms_at_most(matrices: Array, claim: float, off: float) -> bool:
    """Whether every matrix within ``off`` of each of a batch has an l2 norm of at most the claim."""
    if matrices.size == 0 or not np.abs(matrices).max() > 0:
        return claim >= off
    if not (math.isfinite(claim) and claim > off):
        return False
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = np.conj(matrices.swapaxes(-1, -2))
    # Scaled by a power of two, so that nothing overflows; exact.
    unit = 2.0 ** math.floor(math.log2(claim))
    scaled, tau = matrices / unit, (claim - off) * (1 - 2 * slack(1)) / unit
    rows, inner = scaled.shape[-2:]
    gram = scaled @ np.conj(scaled.swapaxes(-1, -2))
    mass = float((np.abs(scaled) ** 2).sum((-2, -1)).max()) * (1 + slack(rows * inner))
    error = slack(4 * inner + 8) * mass + slack(4) * tau * tau
    return definite(tau * tau * np.eye(rows) - gram, error)


def convolution_norm_at_most(
    weight: Array,
    groups: int,
    stride: Sequence[int],
    dilation: Sequence[int],
    starts: Sequence[int],
    wide: Sequence[int],
    narrow: Sequence[int],
    claim: float,
    entries: int = 2**22,
) -> bool:
    """Whether a zero-padded convolution from ``wide`` to ``narrow`` sizes has an l2 norm of at most the claim.

    Output i reads input ``stride i + dilation k - start = stride (i + q) + r``: a convolution of stride one with shifts q over the
    phases r. On a circle of N positions, ``N >= max(narrow + max q, ceil(wide / stride) - min q)``, no position of the output
    reaches one of the input the long way round, so the operator is a part of the circulant one, whose norm is the largest over
    frequencies of ``|sum_k K_k e^(i w q_k)|``; so it is if what goes round is turned by any phase. Two turns are tried.
    """
    dims = len(stride)
    shifts, phases, periods = [], [], []
    for a in range(dims):
        offsets = [dilation[a] * k - starts[a] for k in range(weight.shape[2 + a])]
        shifts.append([math.floor(o / stride[a]) for o in offsets])
        phases.append([o - stride[a] * q for o, q in zip(offsets, shifts[a], strict=True)])
        length = math.ceil(wide[a] / stride[a])
        periods.append(max(narrow[a] + max(shifts[a]), length - min(shifts[a]), length, narrow[a], 1))
    out, inside = weight.shape[0] // groups, weight.shape[1]
    taps = list(itertools.product(*(range(k) for k in weight.shape[2:])))
    kernel = weight.reshape(groups, out, inside, len(taps))
    phase_of = [tuple(phases[a][t[a]] for a in range(dims)) for t in taps]
    used = sorted(set(phase_of))
    place = np.array([used.index(r) for r in phase_of])
    q = np.array([[shifts[a][t[a]] for a in range(dims)] for t in taps], dtype=np.float64)
    # A wave e^(i w q) is known to slack(angle's operations); so is their sum, in Frobenius norm.
    mass = math.sqrt(float((np.abs(kernel).sum(-1) ** 2).sum((1, 2)).max())) * (1 + slack(kernel.size))
    off = slack(64 * (len(taps) + 16 + int(np.abs(q).max(initial=0)) * dims)) * mass
    grid = np.array(list(itertools.product(*(range(n) for n in periods))), dtype=np.float64).reshape(-1, dims)
    size = np.array(periods, dtype=np.float64)
    for turn in (0.5, 0.0):
        weights = np.array([math.prod(periods[a + 1 :]) for a in range(dims)], dtype=np.float64)
        mirrored = np.mod(-grid - 2 * turn, size)
        half = (grid[(grid @ weights) <= (mirrored @ weights)] + turn) / size
        narrow_side = min(out, inside * len(used))
        step = max(1, entries // max(1, groups * (2 * out * inside * len(used) + 3 * narrow_side**2)))
        if all(_frequencies(kernel, place, len(used), q, half[i : i + step], claim, off) for i in range(0, len(half), step)):
            return True
    return False


def _frequencies(kernel: Array, place: Array, phases: int, q: Array, turns: Array, claim: float, off: float) -> bool:
    angle = turns @ q.T
    waves = np.exp(2j * np.pi * (angle - np.round(angle)))
    groups, out, inside, _ = kernel.shape
    symbol = np.zeros((len(turns), groups, out, inside, phases), dtype=np.complex128)
    for r in range(phases):
        mine = place == r
        symbol[..., r] = np.tensordot(waves[:, mine], kernel[..., mine], (1, 3))
    return _norms_at_most(symbol.reshape(len(turns) * groups, out, inside * phases), claim, off)
