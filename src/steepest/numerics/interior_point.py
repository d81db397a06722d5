"""A primal-dual interior point for sums of quadratic constraints (the semidefinite program of LipSDP)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Iterate:
    """A feasible point of the program below and what is known of the optimum.

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


@dataclass(frozen=True, eq=False)
class QuadraticProgram:
    """Minimise rho over ``t >= 0`` with ``S = rho E + sum_j t_j P_j - C'C`` positive semidefinite.

    The variables are ``(x, w)``; E is the identity on x, and ``P_j = sum_{w_i in j} e_i e_i' - sum_{i in j} H_i' H_i``, so the
    Schur complement ``B_jk = <P_j, X P_k S^-1>`` is made of Hadamard products of blocks of X and ``S^-1`` between w and H, and an
    iteration costs a few products of N x N matrices.

    Args:
        inputs: entries of x.
        H: ``[rows, N]``.
        C: ``[outputs, N]``.
        w_of: the multiplier each entry of w belongs to, ``[N - inputs]``.
        H_of: likewise for the rows of H.
        multipliers: how many.

    Source: Helmberg, Rendl, Vanderbei, Wolkowicz 1996 (the search direction); Fazlyab et al. 2019 (the program).
    """

    inputs: int
    H: Tensor
    C: Tensor
    w_of: Tensor
    H_of: Tensor
    multipliers: int

    def slack(self, rho: float | Tensor, t: Tensor) -> Tensor:
        """``rho E + sum_j t_j P_j - C'C``."""
        diagonal = torch.cat([torch.as_tensor(rho, dtype=t.dtype).expand(self.inputs), t[self.w_of]])
        return torch.diag(diagonal) - (self.H.T * t[self.H_of]) @ self.H - self.C.T @ self.C

    def _inner(self, x: Tensor, hx: Tensor) -> tuple[Tensor, Tensor]:
        """``<E, X>`` and ``<P_j, X>``, given ``H X``."""
        n = self.inputs
        value = torch.zeros(self.multipliers, dtype=x.dtype)
        value = value.index_add(0, self.w_of, x.diagonal()[n:])
        value = value.index_add(0, self.H_of, -(hx * self.H).sum(1))
        return x.diagonal()[:n].sum(), value

    def _direction(self, rho: float, t: Tensor) -> Tensor:
        """The change of S along ``(rho, t)``."""
        diagonal = torch.cat([torch.as_tensor(rho, dtype=t.dtype).expand(self.inputs), t[self.w_of]])
        return torch.diag(diagonal) - (self.H.T * t[self.H_of]) @ self.H

    def _gathered(self, block: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        m = self.multipliers
        if len(rows) == m and len(columns) == m:
            return block
        return torch.zeros(m, m, dtype=block.dtype).index_put_((rows[:, None], columns[None, :]), block, accumulate=True)

    def _schur(self, x: Tensor, z: Tensor, hx: Tensor, hz: Tensor) -> Tensor:
        """``B`` over ``(rho, t)``, given ``H X`` and ``H Z``."""
        n, m = self.inputs, self.multipliers
        cross = self._gathered(hx[:, n:] * hz[:, n:], self.H_of, self.w_of)
        b = torch.empty(m + 1, m + 1, dtype=x.dtype)
        b[1:, 1:] = self._gathered(x[n:, n:] * z[n:, n:], self.w_of, self.w_of) - cross - cross.T
        b[1:, 1:] += self._gathered((hx @ self.H.T) * (hz @ self.H.T), self.H_of, self.H_of)
        b[0, 0] = (x[:n, :n] * z[:n, :n]).sum()
        side = torch.zeros(m, dtype=x.dtype).index_add(0, self.w_of, (x[n:, :n] * z[n:, :n]).sum(1))
        b[0, 1:] = side.index_add(0, self.H_of, -(hx[:, :n] * hz[:, :n]).sum(1))
        b[1:, 0] = b[0, 1:]
        return b

    def solve(self, t: Tensor, rho: float, iterations: int = 60, tolerance: float = 1e-5) -> Iterator[Iterate]:
        """Iterates from a strictly feasible point, each feasible; ends at the tolerance, or where rounding stops progress.

        Args:
            t, rho: where S is positive definite.
            iterations: at most.
            tolerance: of the gap relative to rho.
        """
        size = self.C.shape[1] + self.multipliers
        slack = self.slack(rho, t)
        factor = torch.linalg.cholesky(slack)
        z = torch.cholesky_inverse(factor)
        # Near the central path: X = mu S^-1 scaled to unit trace on x.
        mu = 1.0 / z.diagonal()[: self.inputs].sum().item()
        x, s = mu * z, mu / t
        x_factor = torch.linalg.cholesky(x)
        hx, hz = self.H @ x, self.H @ z
        for _ in range(iterations):
            schur = self._schur(x, z, hx, hz)
            schur.diagonal()[1:] += s / t
            scale = schur.diagonal().clamp(min=1e-300).rsqrt()
            solver, info = torch.linalg.cholesky_ex(schur * scale[:, None] * scale + 1e-15 * torch.eye(len(schur), dtype=x.dtype))
            if info.item() != 0:
                return
            ez, pz = self._inner(z, hz)
            mu = ((slack * x).sum().item() + (s @ t).item()) / size
            need = torch.cat([-torch.ones(1, dtype=x.dtype), torch.zeros_like(t)])
            centre = torch.cat([ez[None], pz + 1.0 / t])
            move = torch.cholesky_solve((scale * need)[:, None], solver)[:, 0] * scale
            ds = self._direction(move[0].item(), move[1:])
            dx = -x - _symmetric(x @ ds @ z)
            d_s = -s - s * move[1:] / t
            a = min(1.0, _reach(factor, ds, 12), _ratio(t, move[1:]))
            b = min(1.0, _reach(x_factor, dx, 12), _ratio(s, d_s))
            after = ((slack + a * ds) * (x + b * dx)).sum().item() + ((t + a * move[1:]) @ (s + b * d_s)).item()
            sigma = min(0.9, max(1e-6, (after / (size * mu)) ** 2)) if after > 0 else 0.9
            second = _symmetric(dx @ ds @ z)
            ex, px = self._inner(second, self.H @ second)
            second_s = d_s * move[1:] / t
            right = need + sigma * mu * centre - torch.cat([ex[None], px + second_s])
            move = torch.cholesky_solve((scale * right)[:, None], solver)[:, 0] * scale
            ds = self._direction(move[0].item(), move[1:])
            dx = sigma * mu * z - x - _symmetric(x @ ds @ z) - second
            d_s = sigma * mu / t - s - s * move[1:] / t - second_s
            a = min(1.0, 0.95 * min(_reach(factor, ds), _ratio(t, move[1:])))
            b = min(1.0, 0.95 * min(_reach(x_factor, dx), _ratio(s, d_s)))
            for _ in range(12):
                trial, info = torch.linalg.cholesky_ex(slack + a * ds)
                if info.item() == 0:
                    break
                a *= 0.7
            else:
                return
            for _ in range(12):
                x_trial, info = torch.linalg.cholesky_ex(x + b * dx)
                if info.item() == 0:
                    break
                b *= 0.7
            else:
                return
            rho, t = rho + a * move[0].item(), t + a * move[1:]
            x, x_factor, s = x + b * dx, x_trial, s + b * d_s
            # Formed anew, so that rounding does not pile up.
            slack = self.slack(rho, t)
            factor, z = trial, torch.cholesky_inverse(trial)
            hx, hz = self.H @ x, self.H @ z
            ex, px = self._inner(x, hx)
            residual = max(abs(ex.item() - 1.0), ((px + s).abs() * t).sum().item() / rho)
            gap = ((slack * x).sum().item() + (s @ t).item()) / rho
            yield Iterate(t, rho, gap, residual)
            if (gap < tolerance and residual < tolerance) or max(a, b) < 1e-4:
                return


def _symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + x.T)


def _ratio(x: Tensor, dx: Tensor) -> float:
    """The longest step that keeps a positive vector non-negative."""
    worst = (-dx / x).max().item() if len(x) else 0.0
    return 1.0 / worst if worst > 1e-12 else 1e12


def _reach(factor: Tensor, d: Tensor, steps: int = 24) -> float:
    """About the longest step that keeps ``L L' + a D`` semidefinite: one over the largest eigenvalue of ``-L^-1 D L^-T``, by Lanczos."""
    n = len(factor)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(n, generator=generator, dtype=factor.dtype)
    basis = [q / q.norm()]
    alpha: list[float] = []
    beta: list[float] = []
    for k in range(min(steps, n)):
        v = torch.linalg.solve_triangular(factor.T, basis[-1][:, None], upper=True)
        v = -torch.linalg.solve_triangular(factor, d @ v, upper=False)[:, 0]
        alpha.append((v @ basis[-1]).item())
        stack = torch.stack(basis)
        v = v - stack.T @ (stack @ v)
        v = v - stack.T @ (stack @ v)
        size = v.norm().item()
        if size < 1e-12 * max(1e-300, max(map(abs, alpha))) or k == min(steps, n) - 1:
            beta.append(size)
            break
        beta.append(size)
        basis.append(v / size)
    triangle = torch.diag(torch.tensor(alpha, dtype=factor.dtype))
    for k, off in enumerate(beta[: len(alpha) - 1]):
        triangle[k, k + 1] = triangle[k + 1, k] = off
    values, vectors = torch.linalg.eigh(triangle)
    worst = values[-1].item() + abs(beta[-1] * vectors[-1, -1].item())
    return 1.0 / worst if worst > 1e-12 else 1e12
