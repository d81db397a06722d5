"""A primal-dual interior point for sums of quadratic constraints (the semidefinite program of LipSDP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.block_cholesky import BlockCholesky
from steepest.numerics.lanczos import largest_eigenvalue
from steepest.numerics.quadratic_program import QuadraticProgram

ROUGH, FINE = 6, 10
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
    n, size = program.inputs, program.size + program.multipliers
    start = torch.randn(program.size, generator=torch.Generator().manual_seed(0), dtype=t.dtype)
    factor = program.factor(rho, t)
    if factor is None:
        return
    dense = len(program.starts) == 2
    z = factor.inverse()
    # X = mu S^-1 scaled to unit trace on x: on the central path but for the dual equations.
    mu = 1.0 / z.diagonal()[:n].sum().item()
    x, s = mu * z, mu / t
    whole = (0, program.size)
    x_factor = BlockCholesky.factor(whole, {(0, 0): x})
    if x_factor is None:
        return
    hx, hz = program.times(x), program.times(z)
    ex, px = program.inner(x, hx)
    cx = program.constant(x)
    for _ in range(iterations):
        schur = program.schur(x, z, hx, hz)
        schur.diagonal()[1:] += s / t
        scale = schur.diagonal().clamp(min=1e-300).rsqrt()
        schur.mul_(scale[:, None]).mul_(scale)
        schur.diagonal().add_(1e-15)
        solver, info = torch.linalg.cholesky_ex(schur)
        if info.item() != 0:
            return
        ez, pz = program.inner(z, hz)
        centre = torch.cat([t.new_tensor([ez]), pz + 1.0 / t])
        need = torch.cat([t.new_tensor([-1.0]), torch.zeros_like(t)])

        def move_to(right: Tensor, scale: Tensor = scale, solver: Tensor = solver) -> tuple[float, Tensor]:
            move = torch.cholesky_solve((scale * right)[:, None], solver)[:, 0] * scale
            return move[0].item(), move[1:]

        def moved(drho: float, dt: Tensor, y: Tensor, hy: Tensor, z: Tensor = z, factor=factor) -> Tensor:
            """The symmetric part of ``Y dS S^-1``."""
            change = program.direction(drho, dt, y, hy)
            change = z @ change if dense else factor.solve(change)
            return (change + change.mT).mul_(0.5)

        mu = (rho * ex + ((px + s) @ t).item() - cx) / size
        drho, dt = move_to(need)
        dx = -x - moved(drho, dt, x, hx)
        ds = -s - s * dt / t
        blocks = program.slack(drho, dt, constant=False)
        a = min(1.0, _reach(factor.pencil(blocks), start, ROUGH), _ratio(t, dt))
        b = min(1.0, _reach(x_factor.pencil({(0, 0): dx}), start, ROUGH), _ratio(s, ds))
        # The step closes the dual equations in proportion to b.
        after = (rho + a * drho) * (ex + b * (1.0 - ex)) + (1.0 - b) * ((t + a * dt) @ (px + s)).item() - cx - b * program.constant(dx)
        sigma = min(0.9, max(1e-6, (after / (size * mu)) ** 2)) if after > 0 else 0.9
        cautious = 0.9 + 0.09 * min(a, b)
        second = moved(drho, dt, dx, program.times(dx))
        e2, p2 = program.inner(second, program.times(second))
        second_s = ds * dt / t
        drho, dt = move_to(need + sigma * mu * centre - torch.cat([t.new_tensor([e2]), p2 + second_s]))
        dx = (sigma * mu * z).sub_(x).sub_(moved(drho, dt, x, hx)).sub_(second)
        ds = sigma * mu / t - s - s * dt / t - second_s
        blocks = program.slack(drho, dt, constant=False)
        a = min(1.0, cautious * min(_reach(factor.pencil(blocks), start, FINE), _ratio(t, dt)))
        b = min(1.0, cautious * min(_reach(x_factor.pencil({(0, 0): dx}), start, FINE), _ratio(s, ds)))
        for _ in range(12):
            factor = program.factor(rho + a * drho, t + a * dt)
            if factor is not None:
                break
            a *= 0.7
        else:
            return
        for _ in range(12):
            x_factor = BlockCholesky.factor(whole, {(0, 0): x + b * dx})
            if x_factor is not None:
                break
            b *= 0.7
        else:
            return
        rho, t, s = rho + a * drho, t + a * dt, s + b * ds
        x.add_(dx, alpha=b)
        z = factor.inverse()
        hx, hz = program.times(x), program.times(z)
        ex, px = program.inner(x, hx)
        cx = program.constant(x)
        residual = max(abs(ex - 1.0), ((px + s).abs() @ t).item() / rho)
        gap = (rho * ex + ((px + s) @ t).item() - cx) / rho
        yield Iterate(t, rho, gap, residual)
        if (gap < tolerance and residual < tolerance) or max(a, b) < 1e-4:
            return


def _ratio(x: Tensor, dx: Tensor) -> float:
    """The longest step that keeps a positive vector non-negative."""
    worst = (-dx / x).max().item() if len(x) else 0.0
    return 1.0 / worst if worst > 1e-12 else 1e12


def _reach(times: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """About the longest step that keeps ``L L' + a D`` semidefinite, given products with ``L^-1 D L^-T``."""
    worst = largest_eigenvalue(lambda v: -times(v), start, steps)
    return 1.0 / worst if worst > 1e-12 else 1e12
