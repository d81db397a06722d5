"""The interior point for chains: as ``interior_point``, in time linear in depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.chain_program import ChainProgram
from steepest.numerics.interior_point import Iterate
from steepest.numerics.lanczos import least_eigenvalue
from steepest.numerics.reduced_cholesky import ReducedCholesky
from steepest.numerics.semiseparable import Product, Semiseparable, Tridiagonal, completion, inverse

ROUGH, FINE = 10, 20
"""Lanczos steps for the step lengths of the predictor and of the step taken; they cost little here."""

SOLVED = 1e-6
"""Conjugate gradients stop where the residual, in the preconditioner's norm, has fallen by so much."""


def chain_interior_point(chain: ChainProgram, t: Tensor, rho: float, iterations: int = 60, tolerance: float = 1e-5) -> Iterator[Iterate]:
    """Iterates from a strictly feasible point, each feasible; ends at the tolerance, or where rounding stops progress.

    The HKM direction with Mehrotra's corrector, X completed after each step from its blocks beside the diagonal, all that the program
    sees of it, to the largest determinant. X and ``S^-1`` are then semiseparable, and the Schur complement times a vector takes two passes
    over the layers. Its systems are solved by conjugate gradients; what they leave over shows in the residual, and the next step closes it.

    Args:
        chain: what to solve.
        t, rho: where S is positive definite.
        iterations: at most.
        tolerance: of the gap relative to rho.

    Source: Fukuda, Kojima, Murota, Nakata 2001; Nakata, Fujisawa, Fukuda, Kojima, Murota 2003 (completion in interior points).
    """
    on, unit = chain.on, torch.zeros_like(chain.on)
    unit[0, 0] = 1.0
    stages = on - unit
    start = torch.randn(chain.real.numel(), generator=torch.Generator().manual_seed(0), dtype=t.dtype)
    v = chain.packed(rho, t)
    z = inverse(chain.slack(v))
    if z is None:
        return
    # X = mu S^-1 scaled to unit trace on x: on the central path but for the dual equations.
    mu = 1.0 / chain.inner(z.tridiagonal)[0, 0].item()
    x, s = completion(_filled(chain, z.tridiagonal.times(mu))), mu * stages / v
    earlier = None
    for _ in range(iterations):
        if x is None:
            return
        at, az = x.tridiagonal, chain.inner(z.tridiagonal)
        both, cx = chain.inner(at) + s, chain.constant(at)
        earlier = ReducedCholesky(chain, x, z, s / v, earlier)
        system = _System(chain, x, z, s / v, earlier)
        mu = ((v * both).sum().item() - cx) / chain.size
        slack_reach, x_reach = _slack_reach(z, start), _completion_reach(x, start)
        # Predictor: straight to the optimum.
        d = system.solve(-unit)
        direction, product = chain.direction(d), system.twisted(d)
        change = product.tridiagonal
        dx = _inside(chain, at.plus(change.symmetric()).times(-1.0))
        ds = -s - s * d / v
        a = min(1.0, slack_reach(direction, ROUGH), _ratio(v, d, stages))
        b = min(1.0, x_reach(dx, ROUGH), _ratio(s, ds, stages))
        # What <S, X> + s't would be: the step closes the dual equations in proportion to b.
        after = ((v + a * d) * (unit - (1.0 - b) * (unit - both))).sum().item() - cx - b * chain.constant(dx)
        sigma = min(0.9, max(1e-6, (after / (chain.size * mu)) ** 2)) if after > 0 else 0.9
        cautious = 0.9 + 0.09 * min(a, b)
        # Corrector: to sigma mu, with what the predictor's second order does: dX dS S^-1 with dX = -X - (X dS S^-1 + S^-1 dS X) / 2.
        # The last two parts are halves of X dS S^-1 dS S^-1 and S^-1 dS X dS S^-1.
        second = product.then(direction, z).plus(product.transposed.then(direction, z))
        second = change.plus(second, 0.5).times(-1.0).symmetric()
        second_s = ds * d / v
        d = system.solve(-unit + sigma * mu * az - chain.inner(second) + stages * (sigma * mu / v - second_s))
        if not torch.isfinite(d).all():
            return
        direction = chain.direction(d)
        dx = z.tridiagonal.times(sigma * mu).plus(at, -1.0).plus(system.twisted(d).tridiagonal.symmetric(), -1.0).plus(second, -1.0)
        dx = _inside(chain, dx)
        ds = stages * (sigma * mu / v - second_s) - s - s * d / v
        a = min(1.0, cautious * min(slack_reach(direction, FINE), _ratio(v, d, stages)))
        b = min(1.0, cautious * min(x_reach(dx, FINE), _ratio(s, ds, stages)))
        for _ in range(12):
            z = inverse(chain.slack(v + a * d))
            if z is not None:
                break
            a *= 0.7
        else:
            return
        for _ in range(12):
            x = completion(at.plus(dx, b))
            if x is not None:
                break
            b *= 0.7
        else:
            b = 0.0
        v, s, at = v + a * d, s + b * ds, at.plus(dx, b)
        both = chain.inner(at) + s
        rho, t = chain.unpacked(v)
        residual = max(abs(both[0, 0].item() - 1.0), (stages * both.abs() * v).sum().item() / rho)
        gap = ((v * both).sum().item() - chain.constant(at)) / rho
        yield Iterate(t, rho, gap, residual)
        if (gap < tolerance and residual < tolerance) or max(a, b) < 1e-4:
            return


@dataclass(frozen=True, eq=False)
class _System:
    """The Schur complement ``<A_j, X A_k S^-1>`` with ``s / t`` on its diagonal."""

    chain: ChainProgram
    x: Semiseparable
    z: Semiseparable
    weight: Tensor
    near: ReducedCholesky

    def twisted(self, d: Tensor) -> Product:
        """``X dS S^-1``."""
        return Product.of(self.x, self.chain.direction(d), self.z)

    def times(self, d: Tensor) -> Tensor:
        return self.chain.inner(self.twisted(d).tridiagonal) + self.weight * d

    def solve(self, right: Tensor) -> Tensor:
        return conjugate_gradients(self.times, self.near.solve, right)


def conjugate_gradients(times: Callable[[Tensor], Tensor], near: Callable[[Tensor], Tensor], right: Tensor, most: int = 200) -> Tensor:
    """The solution of a positive definite system.

    Args:
        times: a vector times the matrix.
        near: a vector times the inverse of a matrix near it.
        right: the right side.
        most: products.
    """
    x, r = torch.zeros_like(right), right
    z = p = near(r)
    size = first = (r * z).sum().item()
    for _ in range(most):
        q = times(p)
        step = size / (p * q).sum().item()
        x, r = x + step * p, r - step * q
        z = near(r)
        new = (r * z).sum().item()
        if not new > SOLVED**2 * first:
            break
        p, size = z + new / size * p, new
    return x


def _filled(chain: ChainProgram, blocks: Tridiagonal) -> Tridiagonal:
    """With the identity where layers were filled up."""
    inside = _inside(chain, blocks)
    return Tridiagonal(inside.diagonal + torch.diag_embed(1.0 - chain.real), inside.lower, inside.upper)


def _inside(chain: ChainProgram, blocks: Tridiagonal) -> Tridiagonal:
    """With zeros where layers were filled up."""
    return Tridiagonal(blocks.diagonal * chain.pairs, blocks.lower, blocks.upper)


def _ratio(x: Tensor, dx: Tensor, on: Tensor) -> float:
    """The longest step that keeps a positive vector non-negative."""
    return _step((dx / x)[on > 0].min().item())


def _step(worst: float) -> float:
    return -1.0 / worst if worst < -1e-12 else 1e12


def _slack_reach(z: Semiseparable, start: Tensor) -> Callable[[Tridiagonal, int], float]:
    """About the longest step that keeps ``S + a D`` semidefinite: with ``S^-1 = A R R' A'``, by the eigenvalues of ``R' A' D A R``."""
    root, shape = torch.linalg.cholesky_ex(z.innovation)[0], z.diagonal.shape[:2]

    def reach(d: Tridiagonal, steps: int) -> float:
        def times(v: Tensor) -> Tensor:
            parts = list(root @ v.reshape(*shape, 1))
            for k in range(1, len(parts)):
                parts[k] = torch.addmm(parts[k], z.left[k - 1], parts[k - 1])
            whole = torch.stack(parts)
            out = d.diagonal @ whole
            out[1:] += d.lower @ whole[:-1]
            out[:-1] += d.upper @ whole[1:]
            parts = list(out)
            for k in reversed(range(len(parts) - 1)):
                parts[k] = torch.addmm(parts[k], z.left[k].mT, parts[k + 1])
            return (root.mT @ torch.stack(parts)).flatten()

        return _step(least_eigenvalue(times, start, steps))

    return reach


def _completion_reach(x: Semiseparable, start: Tensor) -> Callable[[Tridiagonal, int], float]:
    """About the longest step that keeps every two neighbouring blocks of ``X + b D`` semidefinite."""
    first, second = torch.linalg.cholesky_ex(x.diagonal[:-1])[0], torch.linalg.cholesky_ex(x.innovation[1:])[0]
    factor = torch.cat([torch.cat([first, torch.zeros_like(first)], 2), torch.cat([x.left @ first, second], 2)], 1)
    start = start.repeat(2)[: factor.shape[0] * factor.shape[1]]

    def reach(d: Tridiagonal, steps: int) -> float:
        pairs = torch.cat([torch.cat([d.diagonal[:-1], d.upper], 2), torch.cat([d.lower, d.diagonal[1:]], 2)], 1)
        pairs = torch.linalg.solve_triangular(factor, pairs, upper=False)
        pairs = torch.linalg.solve_triangular(factor, pairs.mT, upper=False)

        def times(v: Tensor) -> Tensor:
            return (pairs @ v.reshape(*factor.shape[:2], 1)).flatten()

        return _step(least_eigenvalue(times, start, steps))

    return reach
