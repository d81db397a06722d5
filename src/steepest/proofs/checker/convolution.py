"""Claims about the l2 norms of convolutions with their padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steepest.proofs.checker.box import Array, slack
from steepest.proofs.checker.definite import matrix_norm_at_most
from steepest.proofs.checker.residual import settled_at_most
from steepest.proofs.checker.torus import Circles, Window, turned

_MATRIX = 2**24
_SIDES = (256, 1536)


def convolution_norm_at_most(kernel: Array, windows: Sequence[Window], claim: float) -> bool:
    """Whether a convolution has an l2 norm of at most the claim, padding included.

    Args:
        kernel: ``[groups, out, in, *kernel]``.
        windows: one per axis.
        claim: to be proven.
    """
    if not (math.isfinite(claim) and claim >= 0):
        return False
    peak = float(np.abs(kernel).max(initial=0.0))
    if not peak > 0:
        return True
    if claim == 0 or not math.isfinite(peak):
        return False
    # Powers of two are exact.
    unit = 2.0 ** math.floor(math.log2(peak))
    kernel, claim = kernel / unit, claim / unit
    if not all(w.round for w in windows):
        return _norm_above(kernel, windows) <= claim
    if _small(kernel, windows, _SIDES[0]):
        return _matrices_at_most(kernel, windows, claim)
    estimates = []
    for circles in turned(windows, kernel):
        estimates.append((circles.estimate(), circles))
        if estimates[-1][0] <= claim * claim and circles.at_most(claim):
            return True
    # Circles of 40 positions and more are within 1e-3 of the norm: what they do not prove is not worth the work.
    few = len(kernel) == 1 and not any(w.copies for w in windows) and min(w.circle for w in windows) < 40
    return few and settled_at_most(min(estimates, key=lambda pair: pair[0])[1], claim)


def _small(kernel: Array, windows: Sequence[Window], side: int) -> bool:
    rows, columns = (
        math.prod(n) * c for n, c in (([w.narrow for w in windows], kernel.shape[1]), ([w.wide for w in windows], kernel.shape[2]))
    )
    return min(rows, columns) <= side and len(kernel) * rows * columns <= _MATRIX


def _matrices(kernel: Array, windows: Sequence[Window]) -> tuple[Array, float]:
    """The operator of every group as a matrix, and what its sums are off by in Frobenius norm."""
    found = []
    for k in (kernel, np.abs(kernel)):
        m = k.reshape(*k.shape[:3], 1, 1, *k.shape[3:])
        for w in windows:
            m = np.moveaxis(np.tensordot(m, w.read, (5, 0)), (-2, -1), (4, 6))
            m = m.reshape(*m.shape[:3], m.shape[3] * m.shape[4], m.shape[5] * m.shape[6], *m.shape[7:])
        m = m.transpose(0, 1, 3, 2, 4)
        found.append(m.reshape(len(m), m.shape[1] * m.shape[2], -1))
    size = float(np.sqrt((found[1] ** 2).sum((1, 2))).max(initial=0.0)) * (1 + slack(found[1].size))
    return found[0], slack(math.prod(w.kernel for w in windows)) * size


def _matrices_at_most(kernel: Array, windows: Sequence[Window], claim: float) -> bool:
    matrices, off = _matrices(kernel, windows)
    room = (claim - off) * (1 - slack(1))
    return room > 0 and all(matrix_norm_at_most(m, room) for m in matrices)


def _proven(matrix: Array) -> float:
    if not matrix.any():
        return 0.0
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    guess = math.sqrt(max(0.0, float(np.linalg.eigvalsh(gram)[-1])))
    for rise in (1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2):
        if matrix_norm_at_most(matrix, guess * (1 + rise)):
            return guess * (1 + rise)
    return math.inf


def _circles_above(kernel: Array, windows: Sequence[Window]) -> float:
    """A proven bound by circles: a guess, raised until it is proven."""
    best = math.inf
    for circles in sorted(turned(windows, kernel), key=Circles.estimate)[:2]:
        top = 0.0
        for part in circles.chunks():
            top = max(top, float(np.linalg.eigvalsh(circles.grams(part)[0])[:, -1].max(initial=0.0)))
        for rise in (1e-7, 1e-6, 1e-5):
            guess = math.sqrt(top) * (1 + rise)
            if guess < best and circles.at_most(guess):
                best = guess
                break
    return best


def _norm_above(kernel: Array, windows: Sequence[Window]) -> float:
    """A proven bound; where entries are copied, from the outputs that read no copies and those that do.

    ``|W x|^2`` is the sum over both, so ``|W|^2 <= |inside|^2 + |ends|^2``; two ends that read nothing in common count as the larger.
    And ``|W| <= |T| sqrt(copies)`` for the convolution T of the padded input.
    """
    if not windows:
        return max(_proven(m) for m in kernel)
    if not kernel.any():
        return 0.0
    copied = [a for a, w in enumerate(windows) if not w.round]
    if _small(kernel, windows, _SIDES[1] if copied else _SIDES[0]):
        matrices, off = _matrices(kernel, windows)
        return (max(_proven(m) for m in matrices) + off) * (1 + slack(1))
    if not copied:
        return _circles_above(kernel, windows)
    copies, plain = 1, list(windows)
    for a in copied:
        positions = windows[a].positions
        copies *= int(np.bincount(positions).max())
        plain[a] = replace(windows[a], wide=len(positions), padding=(0, 0), mode="zeros")
    return min(_parts_above(kernel, windows, copied[0]), _norm_above(kernel, plain) * math.sqrt(copies)) * (1 + slack(4))


def _parts_above(kernel: Array, windows: Sequence[Window], axis: int) -> float:
    w = windows[axis]
    starts = w.stride * np.arange(w.narrow) - w.padding[0]
    inside = np.flatnonzero((starts >= 0) & (starts + w.dilation * (w.kernel - 1) < w.wide))
    total, read = 0.0, w.read
    if len(inside):
        before = w.padding[0] - w.stride * int(inside[0])
        after = w.stride * (len(inside) - 1) + w.dilation * (w.kernel - 1) + 1 - w.wide - before
        cropped = replace(w, padding=(before, after), narrow=len(inside), mode="zeros")
        total = _norm_above(kernel, [cropped if a == axis else v for a, v in enumerate(windows)]) ** 2
        ends = [np.arange(inside[0]), np.arange(inside[-1] + 1, w.narrow)]
    else:
        ends = [np.arange(w.narrow)]
    if len(ends) == 2 and (read[:, ends[0]].any((0, 1)) & read[:, ends[1]].any((0, 1))).any():
        ends = [np.concatenate(ends)]
    others, most = [v for a, v in enumerate(windows) if a != axis], 0.0
    for end in ends:
        if len(end):
            rows = read[:, end]
            rows = rows[:, :, rows.any((0, 1))]
            slab, around = (_slab(k, rows, axis) for k in (kernel, np.abs(kernel)))
            size = np.sqrt((around.reshape(*around.shape[:3], -1).sum(-1) ** 2).sum((1, 2))).max() * (1 + slack(around.size))
            most = max(most, _norm_above(slab, others) + slack(w.kernel) * float(size))
    return math.sqrt(total + most * most) * (1 + slack(8))


def _slab(kernel: Array, rows: Array, axis: int) -> Array:
    """The kernel in the other axes: positions of this one, written and read, become channels."""
    m = np.tensordot(np.moveaxis(kernel, 3 + axis, -1), rows, (-1, 0))
    m = np.moveaxis(m, (-2, -1), (2, 4))
    return m.reshape(len(m), m.shape[1] * m.shape[2], m.shape[3] * m.shape[4], *m.shape[5:])
