"""Multipliers for a batch of small quadratic inequalities at once: a barrier method by Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.bounds.signs.forms import Forms

FURTHER = 0.15
"""By how much the barrier falls once a step is near the central path."""

WORSE = 0.1
"""How near the optimum, relatively, is near enough where it is above what is asked for."""

ROOM = 1e-7
"""By how much weights are raised, so that what they exceed by their sums is definite."""

NEAR = 0.6
"""The Newton decrement below which it is."""


@dataclass(frozen=True, eq=False)
class Inequality:
    """``|C x + D v|^2 <= sum_j w_j x_j^2 + sum_i t_i (z_i^2 - v_i^2)`` where ``z = A x + B v``.

    With w and t >= 0 that make it true for all x and v, ``sum w`` bounds ``|C x + D v|^2`` wherever ``|v_i| <= |z_i|`` and ``|x_j| <= 1``;
    and if all w are one number, that number does so for ``|x|_2 <= 1``.

    Args:
        g: ``[A, B]``, ``[batch, neurons, inputs + neurons]``; rows and columns of neurons that are not open are zero.
        f: ``[C, D]``, ``[batch, outputs, inputs + neurons]``.
        open: ``[batch, neurons]``.
        tied: whether all w are one number.
    """

    g: Tensor
    f: Tensor
    open: Tensor
    tied: bool

    @classmethod
    def of(cls, forms: Forms, norm: float, row: Tensor) -> Inequality:
        """For the norm of the Jacobian: in linf of its rows, in l1 of its columns, given by ``row`` for each of the batch."""
        across = forms.open[:, :, None].to(torch.float64)
        a, b = forms.a * across, forms.b * across
        c, d = forms.c, forms.d
        if norm == 1.0:
            a, b, c, d = d.mT, b.mT, c.mT, a.mT
        if norm != 2.0:
            c, d = (t[torch.arange(len(t)), row][:, None] for t in (c, d))
        return cls(torch.cat([a, b], 2), torch.cat([c, d], 2), forms.open, norm == 2.0)

    @property
    def inputs(self) -> int:
        """The length of x."""
        return self.g.shape[2] - self.g.shape[1]

    @property
    def weights(self) -> int:
        """How many different w there are."""
        return 1 if self.tied else self.inputs

    def shortened(self) -> tuple[Inequality, Tensor]:
        """The same with the neurons that are open first and those that never are left out; and which are kept, ``[batch, kept]``."""
        most = int(self.open.sum(1).max()) if len(self.open) else 0
        kept = torch.argsort((~self.open).to(torch.int8), dim=1, stable=True)[:, :most]
        columns = torch.cat([torch.arange(self.inputs).expand(len(kept), -1), self.inputs + kept], 1)[:, None]
        g = self.g.gather(1, kept[..., None].expand(-1, -1, self.g.shape[2]))
        g, f = (x.gather(2, columns.expand(-1, x.shape[1], -1)) for x in (g, self.f))
        return Inequality(g, f, self.open.gather(1, kept), self.tied), kept

    def take(self, rows: Tensor) -> Inequality:
        """Part of the batch."""
        return Inequality(self.g[rows], self.f[rows], self.open[rows], self.tied)

    def matrix(self, w: Tensor, t: Tensor) -> Tensor:
        """What must be semidefinite: ``[batch, inputs + neurons, inputs + neurons]``, one on the diagonal of what is not open."""
        found = -self.f.mT @ self.f - self.g.mT @ (t[:, :, None] * self.g)
        added = torch.cat([w.expand(-1, self.inputs), torch.where(self.open, t, 1.0)], 1)
        found.diagonal(dim1=1, dim2=2).add_(added)
        return found

    def start(self) -> Tensor:
        """Multipliers that make the part on v definite: dominant diagonals, the last neurons first."""
        n = self.inputs
        b, d = self.g[:, :, n:].abs(), self.f[:, :, n:].abs()
        own = (d * d.sum(2, keepdim=True)).sum(1)
        own = 1.2 * own + 1e-3 * own.amax(1, keepdim=True).clamp(min=1e-30)
        reach = b.sum(2)
        t = own
        for _ in range(b.shape[1] + 1):
            new = own + 1.2 * ((t * reach)[:, :, None] * b).sum(1)
            if torch.equal(new, t):
                break
            t = new
        return torch.where(self.open, t, 0.0)

    def least(self, t: Tensor) -> Tensor:
        """Weights w that go with given multipliers, infinite where there are none, ``[batch, weights]``.

        The least if all are one number, and otherwise sums of magnitudes along the rows of what they must exceed.
        """
        n = self.inputs
        if n == 0:
            return torch.zeros(len(t), self.weights, dtype=torch.float64)
        whole = self.matrix(torch.zeros(len(t), 1, dtype=torch.float64), t)
        factor, info = torch.linalg.cholesky_ex(whole[:, n:, n:])
        half = torch.linalg.solve_triangular(factor, whole[:, n:, :n], upper=False)
        schur = half.mT @ half - whole[:, :n, :n]
        fine = (info == 0) & torch.isfinite(schur).flatten(1).all(1)
        schur = torch.where(fine[:, None, None], schur, 0.0)
        if self.tied:
            found = torch.linalg.eigvalsh(schur)[:, -1:].clamp(min=0.0)
        else:
            found = schur.abs().sum(2)
            found = found * (1.0 + ROOM) + ROOM / n * found.sum(1, keepdim=True)
        return torch.where(fine[:, None], found, math.inf)


def tighten(problem: Inequality, t: Tensor, steps: int, enough: float = 0.0, precision: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Multipliers and weights near the optimum: ``(sum of w or w, w, t)``, every batch entry feasible; infinite where nothing was found.

    Args:
        problem: the inequalities.
        t: where to begin; the part on v definite.
        steps: Newton steps.
        enough: a value below which none need be improved.
        precision: relative, of the value.
    """
    every, (problem, kept) = t, problem.shortened()
    t = t.gather(1, kept)
    count, n = len(t), problem.inputs
    best_w, best_t = problem.least(t), t.clone()
    best = best_w.sum(1)
    size = n + problem.open.sum(1).to(torch.float64)
    w = 1.05 * best_w + 1e-3 * best[:, None] / problem.weights + 1e-300
    # Where nothing is open the weights are the least already.
    active = torch.isfinite(best) & (best > enough) & problem.open.any(1)
    mu = 0.3 * w.sum(1) / size
    for _ in range(steps):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        part = problem if len(rows) == count else problem.take(rows)
        pw, pt, pmu = w[rows], t[rows], mu[rows]
        dw, dt, decrement, sound = _newton(part, pw, pt, pmu)
        # Twice the length that self-concordance allows, and where that is too far, that.
        safe = 1.0 / (1.0 + decrement)
        length = (2.0 * safe).clamp(max=1.0)
        _, info = torch.linalg.cholesky_ex(part.matrix(pw + length[:, None] * dw, pt + length[:, None] * dt))
        fine = sound
        length = torch.where(info != 0, safe, 0.95 * length)
        pw = torch.where(fine[:, None], pw + length[:, None] * dw, pw)
        pt = torch.where(fine[:, None], pt + length[:, None] * dt, pt)
        w[rows], t = pw, t.index_put((rows,), pt)
        now = pw.sum(1)
        better = fine & (now < best[rows])
        best[rows] = torch.where(better, now, best[rows])
        best_w[rows] = torch.where(better[:, None], pw, best_w[rows])
        best_t[rows] = torch.where(better[:, None], pt, best_t[rows])
        central = decrement < NEAR
        mu[rows] = torch.where(central, FURTHER * pmu, pmu)
        # On the central path the optimum is at least this.
        below = now - 1.5 * pmu * size[rows]
        done = (
            ~fine | (best[rows] <= enough) | (central & ((now - below < precision * now) | (below > enough) & (now - below < WORSE * now)))
        )
        active[rows[done]] = False
    exact = problem.least(best_t)
    better = exact.sum(1) < best
    best, best_w = torch.where(better, exact.sum(1), best), torch.where(better[:, None], exact, best_w)
    return best, best_w, torch.zeros_like(every).scatter(1, kept, best_t)


def _newton(problem: Inequality, w: Tensor, t: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The step for ``sum w / mu - log det M``, its decrement, and where it could be computed."""
    n, k = problem.inputs, problem.weights
    factor, info = torch.linalg.cholesky_ex(problem.matrix(w, t))
    eye = torch.eye(factor.shape[1], dtype=torch.float64).expand_as(factor)
    p = torch.cholesky_solve(eye, factor)
    pg = p @ problem.g.mT
    gpg = problem.g @ pg
    # With e_i the unit vectors and g_i the rows of G, the derivative of M by t_i is e_i e_i' - g_i g_i'.
    cross = pg[:, n:]
    hessian_t = p[:, n:, n:].square() - cross.square() - cross.mT.square() + gpg.square()
    gradient_t = gpg.diagonal(dim1=1, dim2=2) - p[:, n:, n:].diagonal(dim1=1, dim2=2)
    mixed = p[:, :n, n:].square() - pg[:, :n].square()
    corner = p[:, :n, :n].square()
    slope = p[:, :n, :n].diagonal(dim1=1, dim2=2)
    if problem.tied:
        mixed, corner, slope = mixed.sum(1, keepdim=True), corner.sum((1, 2))[:, None, None], slope.sum(1, keepdim=True)
    gradient = torch.cat([1.0 / mu[:, None] - slope, torch.where(problem.open, gradient_t, 0.0)], 1)
    hessian = torch.cat([torch.cat([corner, mixed], 2), torch.cat([mixed.mT, hessian_t], 2)], 1)
    closed = torch.cat([torch.zeros(len(w), k, dtype=torch.bool), ~problem.open], 1)
    hessian = torch.where(closed[:, :, None] | closed[:, None, :], 0.0, hessian)
    hessian.diagonal(dim1=1, dim2=2).add_(closed.to(torch.float64))
    scale = hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    scaled.diagonal(dim1=1, dim2=2).add_(1e-13)
    inner, other = torch.linalg.cholesky_ex(scaled)
    step = -torch.cholesky_solve((scale * gradient)[..., None], inner)[..., 0] * scale
    sound = (info == 0) & (other == 0) & torch.isfinite(step).all(1)
    step = torch.where(sound[:, None], step, 0.0)
    decrement = (-(step * gradient).sum(1)).clamp(min=0.0).sqrt()
    return step[:, :k], step[:, k:], torch.where(sound, decrement, 0.0), sound
