"""Whether linear inequalities over a box leave an interior: many small linear programs at once, by a primal-dual interior point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steepest.numerics.rounding import gamma

ROOM = 1024.0
"""By how much more than its own rounding a proof keeps away from zero, so that another evaluation of it holds as well."""


@dataclass(frozen=True, eq=False)
class Rooms:
    """What is known of ``{x : a x <= b, lo <= x <= hi}``, one for each of a batch.

    Args:
        x: ``[batch, n]``, a point, deep inside where there is an interior.
        depth: ``[batch]``, distance by which x keeps all inequalities and the box, negative where it does not.
        y: ``[batch, rows]``, non-negative multipliers that show that there is no point, where they do, or come near it.
        empty: ``[batch]``, whether they do, in floating point with rounding in hand.
    """

    x: Tensor
    depth: Tensor
    y: Tensor
    empty: Tensor


def rooms(a: Tensor, b: Tensor, lo: Tensor, hi: Tensor, steps: int = 40, early: bool = True) -> Rooms:
    """The largest ball inside each polyhedron, or multipliers y >= 0 with ``y'(a x - b) > 0`` for every x of the box.

    Solves ``max d : a_i x + |a_i| d <= b_i, lo + d <= x <= hi - d`` until either ``d > 0`` or the multipliers prove that no such d
    is left.

    Args:
        a: ``[batch, rows, n]``; rows of zeros say nothing, whatever their b.
        b: ``[batch, rows]``.
        lo, hi: ``[n]``, finite, ``lo < hi``.
        steps: most iterations.
        early: whether to end once the multipliers prove it, or where they are near the best.

    Source: the infeasible-start direction of Mehrotra 1992 from a feasible primal point; Farkas' lemma for the proof.
    """
    batch, rows, n = a.shape
    length = a.norm(dim=2)
    used = length > 0
    scale = torch.where(used, length, 1.0)
    a, b = a / scale[..., None], torch.where(used, b / scale, 1.0)
    centre, radius = 0.5 * (lo + hi), 0.5 * (hi - lo)
    # In units of the box: x = centre + radius u; the box's own rows keep d apart from the scale of x.
    eye = torch.eye(n, dtype=torch.float64).expand(batch, n, n)
    norm = used.to(torch.float64)
    depth = torch.cat([norm, (1.0 / radius).expand(batch, n), (1.0 / radius).expand(batch, n)], 1)
    m = torch.cat([torch.cat([a * radius, eye, -eye], 1), depth[..., None]], 2)
    right = torch.cat([b - a @ centre, torch.ones(batch, 2 * n, dtype=torch.float64)], 1)
    u = torch.zeros(batch, n + 1, dtype=torch.float64)
    room = torch.where(depth > 0, right / depth.clamp(min=1e-300), torch.inf).amin(1)
    unit = radius.amax()
    u[:, n] = room - 0.1 * (room.abs() + unit)
    goal = torch.zeros(n + 1, dtype=torch.float64)
    goal[n] = 1.0
    s = right - (m @ u[..., None])[..., 0]
    y = (1.0 / s) / ((m[..., n] / s).sum(1, keepdim=True))
    out_y, empty = torch.zeros(batch, rows, dtype=torch.float64), torch.zeros(batch, dtype=torch.bool)
    out_u = u.clone()
    active = torch.arange(batch)
    for _ in range(steps):
        # One step for those undecided.
        mu = (s * y).mean(1, keepdim=True)
        gram = m.mT @ ((y / s)[..., None] * m)
        gram.diagonal(dim1=1, dim2=2).mul_(1.0 + 1e-13)
        factor, info = torch.linalg.cholesky_ex(gram)
        # A step to the optimum tells how far to aim and what the second order does; then the step that is taken.
        _, ds, dy = _direction(m, s, y, factor, goal.expand_as(u), torch.zeros_like(s))
        reach, reach_y = _reach(s, ds), _reach(y, dy)
        after = ((s + reach * ds) * (y + reach_y * dy)).mean(1, keepdim=True)
        aim = ((after / mu) ** 3).clamp(min=1e-6, max=0.9) * mu - ds * dy
        move, ds, dy = _direction(m, s, y, factor, goal - (m.mT @ (aim / s)[..., None])[..., 0], aim)
        length, length_y = 0.95 * _reach(s, ds), 0.95 * _reach(y, dy)
        sound = (info == 0) & torch.isfinite(move).all(1) & torch.isfinite(dy).all(1)
        u = torch.where(sound[:, None], u + length * move, u)
        s = torch.where(sound[:, None], right[active] - (m @ u[..., None])[..., 0], s).clamp(min=1e-300)
        y = torch.where(sound[:, None], (y + length_y * dy).clamp(min=1e-300), y)
        out_u[active] = u
        multipliers = torch.where(used[active], y[:, :rows] / scale[active], 0.0)
        shown = _shows(multipliers, a[active] * scale[active][..., None], b[active] * scale[active], lo, hi)
        out_y[active] = multipliers
        empty[active] = shown
        near = (s * y).sum(1) < 1e-14 * unit
        kept = sound & ~near & (u[:, n] <= 0) & ~(shown & early)
        if not kept.any():
            break
        active = active[kept]
        m, s, y, u = m[kept], s[kept], y[kept], u[kept]
    return Rooms(centre + radius * out_u[:, :n], out_u[:, n], out_y, empty)


def _direction(m: Tensor, s: Tensor, y: Tensor, factor: Tensor, force: Tensor, aim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, slacks and multipliers, towards ``s y = aim`` and ``M'y = goal``."""
    move = torch.cholesky_solve(force[..., None], factor)[..., 0]
    ds = -(m @ move[..., None])[..., 0]
    return move, ds, aim / s - y - y / s * ds


def _reach(x: Tensor, dx: Tensor) -> Tensor:
    worst = (-dx / x).amax(1, keepdim=True)
    return torch.where(worst > 1.0, 1.0 / worst, 1.0)


def _shows(y: Tensor, a: Tensor, b: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Whether ``y'(a x - b) > 0`` for every x of the box, with room for rounding."""
    row = (y[:, None] @ a)[:, 0]
    least = torch.where(row > 0, row * lo, row * hi).sum(1)
    size = (y[..., None] * a.abs()).sum(1) @ torch.maximum(lo.abs(), hi.abs()) + (y * b.abs()).sum(1)
    return least - (y * b).sum(1) > ROOM * gamma(y.shape[1] + a.shape[2]) * size


def balanced(
    a: np.ndarray, b: np.ndarray, some: np.ndarray, y: np.ndarray, lo: np.ndarray, hi: np.ndarray, least: float = 1e-6
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and multipliers that show ``a x <= b`` to be empty, or without an interior, where coordinates are unbounded.

    Their combination must be free of these exactly. So many rows as there are such coordinates are solved for, given the others; the true
    solution is positive where the computed one is far from zero, for any matrix near a. Where nothing is bounded and all b are zero, what
    is left says ``0 <= 0``, and the inequalities hold with equality wherever they hold.

    Args:
        a, b: ``[rows, n]``, ``[rows]``.
        some: ``[rows, n + 1]``, which entries of a, and last of b, are not surely zero.
        y: ``[rows]``, multipliers that nearly do it.
        lo, hi: ``[n]``, where x lies, perhaps infinite.
        least: share of the largest multiplier below which others are left out.

    Returns:
        Indices of rows, those that are solved for first, and their multipliers; or None.
    """
    from scipy.linalg import qr

    weight = y * np.linalg.norm(a, axis=1)
    rows = np.flatnonzero(weight > least * weight.max(initial=0.0))
    met = some[rows, :-1].any(0)
    loose = (np.isinf(lo) | np.isinf(hi)) & met
    bounded = np.isfinite(lo) & np.isfinite(hi)
    k = int(loose.sum())
    if len(rows) <= k:
        return None
    # Independent rows with large multipliers first.
    factors = qr((weight[rows] / np.linalg.norm(a[rows], axis=1))[None] * a[rows][:, loose].T, mode="r", pivoting=True)
    order = np.asarray(factors[-1])
    rows = rows[order]
    square = a[rows[:k]][:, loose].T
    try:
        inverse = np.linalg.inv(square)
    except np.linalg.LinAlgError:
        return None
    found = y[rows].copy()
    found[:k] = -inverse @ (found[k:] @ a[rows[k:]][:, loose])
    slack = ROOM * gamma(len(rows) + k)
    size = np.abs(square) @ np.abs(found[:k]) + found[k:] @ np.abs(a[rows[k:]][:, loose])
    off = slack * (np.abs(inverse) @ size).max(initial=0.0)
    if not (np.isfinite(found).all() and (found[:k] > 4.0 * off).all()):
        return None
    if not some[rows, -1].any() and not (bounded & met).any():
        return rows, found
    row = found @ a[rows][:, bounded]
    value = np.where(row > 0, row * lo[bounded], row * hi[bounded]).sum() - found @ b[rows]
    terms = np.abs(a[rows][:, bounded]) @ np.maximum(np.abs(lo[bounded]), np.abs(hi[bounded])) + np.abs(b[rows])
    lost = off * terms[:k].sum() + slack * (found @ terms)
    return (rows, found) if value > 4.0 * lost else None
