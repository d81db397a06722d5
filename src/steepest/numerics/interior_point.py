"""A primal-dual interior point for sums of quadratic constraints (the semidefinite program of LipSDP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.block_cholesky import BlockCholesky
from steepest.numerics.lanczos import least_eigenvalue
from steepest.numerics.quadratic_program import QuadraticProgram

ROUGH, FINE = 4, 10
"""Lanczos steps for the step lengths of the predictor and of the step taken."""


@dataclass(frozen=True, eq=False)
class Iterate:
    """A feasible point of the program and what is known of the optimum.

    Args:
        t: the multipliers, positive.
        rho: with them feasible.
        gap: ``<S, X> + s't`` over rho: how far rho can be from the optimum where ``residual`` is small.
        residual: largest violation of the dual equations, relative to the dual's unit trace.
    """

    t: Tensor
    rho: float
    gap: float
    residual: float


def interior_point(program: QuadraticProgram, t: Tensor, rho: float, iterations: int = 60, tolerance: float = 1e-5) -> Iterator[Iterate]:
    """Iterates from a strictly feasible point, each feasible; ends at the tolerance, or where rounding stops progress.

    The HKM direction with Mehrotra's corrector. Where S has few blocks an iteration costs two Cholesky factorisations of the
    program's size and products of a dense matrix with these blocks.

    Args:
        program: what to solve.
        t, rho: where S is positive definite.
        iterations: at most.
        tolerance: of the gap relative to rho.

    Source: Helmberg, Rendl, Vanderbei, Wolkowicz 1996 (the search direction); Mehrotra 1992 (the corrector).
    """
    n, size, whole = program.inputs, program.size + program.multipliers, (0, program.size)
    start = torch.randn(program.size, generator=torch.Generator().manual_seed(0), dtype=t.dtype)
    slack = program.slack(rho, t)
    factor = BlockCholesky.factor(program.starts, slack)
    if factor is None:
        return
    z = factor.inverse()
    # X = mu S^-1 scaled to unit trace on x: on the central path but for the dual equations.
    mu = 1.0 / z.diagonal()[:n].sum().item()
    x, s = mu * z, mu / t
    x_factor = BlockCholesky.factor(whole, {(0, 0): x})
    need = torch.zeros(1 + program.multipliers, dtype=t.dtype)
    need[0] = -1.0
    for _ in range(iterations):
        if x_factor is None:
            return
        hx, hz = program.times(x), program.times(z)
        ax, az, cx = program.inner(x, hx), program.inner(z, hz), program.constant(x)
        solver = _Solver.of(program.schur(x, z, hx, hz), s / t)
        if solver is None:
            return
        open_rho, open_t = 1.0 - ax[0].item(), -(ax[1:] + s)
        mu = (rho * (1.0 - open_rho) - (open_t @ t).item() - cx) / size
        # Predictor: straight to the optimum.
        drho, dt = solver(need)
        dx = -x - _twisted(program, factor, z, drho, dt, x, hx)
        ds = -s - s * dt / t
        a = min(1.0, _reach(factor, program.slack(drho, dt, constant=False), start, ROUGH), _ratio(t, dt))
        b = min(1.0, _reach(x_factor, {(0, 0): dx}, start, ROUGH), _ratio(s, ds))
        # What <S, X> + s't would be: the step closes the dual equations in proportion to b.
        after = (rho + a * drho) * (1.0 - (1.0 - b) * open_rho) - (1.0 - b) * ((t + a * dt) @ open_t).item()
        after -= cx + b * program.constant(dx)
        sigma = min(0.9, max(1e-6, (after / (size * mu)) ** 2)) if after > 0 else 0.9
        cautious = 0.9 + 0.09 * min(a, b)
        # Corrector: to sigma mu, with what the predictor's second order does.
        second = _twisted(program, factor, z, drho, dt, dx, program.times(dx))
        second_s = ds * dt / t
        right = need + sigma * mu * az - program.inner(second, program.times(second))
        right[1:] += sigma * mu / t - second_s
        drho, dt = solver(right)
        dx = (sigma * mu * z).sub_(x).sub_(_twisted(program, factor, z, drho, dt, x, hx)).sub_(second)
        ds = sigma * mu / t - s - s * dt / t - second_s
        change = program.slack(drho, dt, constant=False)
        a = min(1.0, cautious * min(_reach(factor, change, start, FINE), _ratio(t, dt)))
        b = min(1.0, cautious * min(_reach(x_factor, {(0, 0): dx}, start, FINE), _ratio(s, ds)))
        for _ in range(12):
            moved = {at: block if at not in change else torch.add(block, change[at], alpha=a) for at, block in slack.items()}
            factor = BlockCholesky.factor(program.starts, moved)
            if factor is not None:
                break
            a *= 0.7
        else:
            return
        slack = moved
        for _ in range(12):
            x_factor = BlockCholesky.factor(whole, {(0, 0): x + b * dx})
            if x_factor is not None:
                break
            b *= 0.7
        rho, t, s = rho + a * drho, t + a * dt, s + b * ds
        x.add_(dx, alpha=b)
        z = factor.inverse()
        # <P_j, X> + s_j shrinks by 1 - b, exactly but for rounding, which the next iteration sees.
        hx = program.times(x)
        ax = program.inner(x, hx)
        residual = max(abs(ax[0].item() - 1.0), ((ax[1:] + s).abs() @ t).item() / rho)
        gap = (rho * ax[0].item() + ((ax[1:] + s) @ t).item() - program.constant(x)) / rho
        yield Iterate(t, rho, gap, residual)
        if (gap < tolerance and residual < tolerance) or max(a, b) < 1e-4:
            return


@dataclass(frozen=True, eq=False)
class _Solver:
    """The Cholesky factor of the Schur complement, scaled to a unit diagonal."""

    factor: Tensor
    scale: Tensor

    @classmethod
    def of(cls, schur: Tensor, diagonal: Tensor) -> _Solver | None:
        schur.diagonal()[1:].add_(diagonal)
        scale = schur.diagonal().clamp(min=1e-300).rsqrt()
        schur.mul_(scale[:, None]).mul_(scale).diagonal().add_(1e-15)
        factor, info = torch.linalg.cholesky_ex(schur)
        return cls(factor, scale) if info.item() == 0 else None

    def __call__(self, right: Tensor) -> tuple[float, Tensor]:
        move = torch.cholesky_solve((self.scale * right)[:, None], self.factor)[:, 0] * self.scale
        return move[0].item(), move[1:]


def _twisted(program: QuadraticProgram, factor: BlockCholesky, z: Tensor, drho: float, dt: Tensor, y: Tensor, hy: Tensor) -> Tensor:
    """The symmetric part of ``Y dS S^-1``."""
    change = program.direction(drho, dt, y, hy)
    change = z @ change if len(program.starts) == 2 else factor.solve(change)
    return (change + change.mT).mul_(0.5)


def _ratio(x: Tensor, dx: Tensor) -> float:
    """The longest step that keeps a positive vector non-negative."""
    worst = (dx / x).min().item() if len(x) else 0.0
    return -1.0 / worst if worst < -1e-12 else 1e12


def _reach(factor: BlockCholesky, d: Mapping[tuple[int, int], Tensor], start: Tensor, steps: int) -> float:
    """About the longest step that keeps ``L L' + a D`` semidefinite."""
    worst = least_eigenvalue(factor.pencil(d), start, steps)
    return -1.0 / worst if worst < -1e-12 else 1e12
