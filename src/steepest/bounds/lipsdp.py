"""LipSDP on any graph: multipliers for the slope restriction of every nonlinearity, optimised as far as time allows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.interior_point import Iterate, QuadraticProgram
from steepest.numerics.rounding import gamma
from steepest.ops.lure import LureForm, lure_form, variables
from steepest.ops.region import enclose_domain
from steepest.results import Domain, Step, UpperBound


@dataclass(frozen=True)
class LipSDP:
    """The least l2 bound that slope restrictions prove, from one multiplier per neuron.

    Every activation with slopes in ``[c - r, c + r]`` over the domain obeys ``t ((z - c v)^2 - r^2 v^2) <= 0`` for differences of
    its input v and output z and any ``t >= 0``; summed over all neurons, ``|f(x) - f(y)|^2 <= rho |x - y|^2`` where
    ``rho E + sum_j t_j P_j - C'C`` is positive semidefinite. Any multipliers are a proof. A maximum enters as ``b + max(a - b, 0)`` pair
    by pair; other maps of groups (softmax, normalisation) by their Lipschitz constant, with one multiplier.

    The multipliers are found by covariance propagation, always feasible, with Adam on its free parameters; where the
    program is small enough an interior point takes over and stops at the optimum of LipSDP-Neuron.

    Args:
        seconds: limit; the best bound so far is returned.
        largest: most variables (inputs and neurons together).
        entries: most numbers in one dense matrix.
        exact: most variables for the interior point, after inputs that the network does not tell apart are merged.

    Source: Fazlyab et al. 2019 (LipSDP-Neuron); Xu and Sivaranjani 2024 (ECLipsE) for the layer by layer start.
    """

    name: str = "lipsdp"
    seconds: float = 20.0
    largest: int = 2600
    entries: int = 2**26
    exact: int = 1200

    def applies(self, graph: Graph, norm: float) -> bool:
        """Whether the norm is l2 and the matrices fit in memory."""
        size = variables(graph)
        return norm == 2.0 and size <= self.largest and size * max(math.prod(n.shape) for n in graph.nodes) <= self.entries

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)|_2 <= L |x - y|_2`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 2.

        Returns:
            The bound with the multipliers of every nonlinear node as steps; infinite where a node has no finite slope or where
            rounding leaves nothing to prove.
        """
        assert norm == 2.0
        started = time.perf_counter()
        form = lure_form(graph, enclose_domain(graph, domain))
        if form is None:
            return UpperBound(self.name, math.inf, (), time.perf_counter() - started, None)
        value, t, least = math.inf, torch.zeros(form.multipliers, dtype=torch.float64), 0.0
        for candidate, optimum in self._multipliers(form, started + self.seconds):
            least = max(least, optimum)
            proven, used = _proven(form, candidate)
            if proven < value:
                value, t = proven, used
        gap = max(0.0, 1.0 - least / value**2) if 0.0 < least and value < math.inf else None
        steps = tuple(Step(p.node, {"multipliers": p.laid_out(t).numpy()}) for p in form.parts)
        return UpperBound(self.name, value, steps, time.perf_counter() - started, None, gap)

    def _multipliers(self, form: LureForm, until: float) -> Iterator[tuple[Tensor, float]]:
        """Multipliers to be proven, each with what is known from below of the least rho: first order, then interior point."""
        H, C = form.decoupled()
        program = _merged_inputs(form, H, C)
        if form.multipliers == 0:
            yield torch.zeros(0, dtype=torch.float64), 0.0
            return
        small = program.C.shape[1] <= self.exact
        first = _Propagation(program, form)
        best = first.minimise(time.perf_counter() + (0.1 if small else 0.9) * (until - time.perf_counter()))
        if best is None:
            return
        rho, t = best
        yield t, 0.0
        if small:
            # The last iterate can be too close to the boundary to be proven in floating point; the ones before are further inside.
            last: deque[Iterate] = deque(maxlen=6)
            for found in program.solve(1.5 * t, 1.8 * rho):
                last.append(found)
                if time.perf_counter() > until:
                    break
            for found in reversed(last):
                yield found.t, found.rho * (1.0 - found.gap - found.residual) if found.residual < 1e-4 else 0.0


def _merged_inputs(form: LureForm, H: Tensor, C: Tensor) -> QuadraticProgram:
    """The program in the fewest coordinates of x: an orthogonal change, dropping directions nobody reads."""
    n = form.inputs
    reads = torch.cat([H[:, :n], C[:, :n]])
    values, vectors = torch.linalg.eigh(reads.T @ reads)
    kept = values > 1e-26 * values[-1].clamp(min=1e-300)
    basis = vectors[:, kept] if kept.any() else vectors[:, -1:]
    rest = C.shape[1] - n
    H, C = (torch.cat([m[:, :n] @ basis, m[:, n:]], 1) for m in (H, C))
    w_of = form.G_of
    assert len(w_of) == rest
    return QuadraticProgram(basis.shape[1], H, C, w_of, form.H_of, form.multipliers)


class _Propagation:
    """The joint covariance of x and w, node by node; feasible for any parameters.

    With ``Cov(x) = I`` and multipliers ``1 / D``, a node whose rows H read ``Q = H Cov H'`` needs ``D > Q``; then
    ``Cov += K (D - Q)^-1 K'`` with ``K = Cov H'``, w joins with covariance D and no cross terms, and ``rho`` is the largest
    eigenvalue of ``C Cov C'``. ``D = (1 + softplus(r)) lambda_max(e^-1/2 Q e^-1/2) e``, with e positive and free.
    """

    def __init__(self, program: QuadraticProgram, form: LureForm) -> None:
        self.program, self.stages = program, form.stages
        self.rows = [
            (
                ((program.H_of >= first) & (program.H_of < last)).nonzero()[:, 0],
                ((program.w_of >= first) & (program.w_of < last)).nonzero()[:, 0],
            )
            for first, last in form.stages
        ]

    def run(self, logs: list[Tensor], ratios: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The value of rho and the multipliers ``1 / D`` (to be scaled by rho)."""
        program = self.program
        n = program.inputs
        cov = torch.eye(n, dtype=torch.float64)
        taken = n
        t = torch.zeros(program.multipliers, dtype=torch.float64)
        for (first, last), (h_rows, w_rows), log, ratio in zip(self.stages, self.rows, logs, ratios, strict=True):
            H = program.H[h_rows, :taken]
            own_h, own_w = program.H_of[h_rows] - first, program.w_of[w_rows] - first
            K = cov @ H.T
            Q = H @ K
            e = torch.exp(log)[own_h]
            root = e.rsqrt()
            top = torch.linalg.eigvalsh(root[:, None] * Q * root)[-1]
            top = torch.where(top > 1e-200, top, 1.0)
            D = (1.0 + F.softplus(ratio)) * top * torch.exp(log)
            factor = torch.linalg.cholesky(torch.diag(D[own_h]) - Q)
            half = torch.linalg.solve_triangular(factor, K.T, upper=False)
            cov = cov + half.T @ half
            cov = torch.block_diag(cov, torch.diag(D[own_w]))
            taken += len(w_rows)
            t = torch.cat([t[:first], 1.0 / D, t[last:]])
        out = program.C @ cov @ program.C.T
        return torch.linalg.eigvalsh(out)[-1], t

    def minimise(self, until: float, steps: int = 200) -> tuple[float, Tensor] | None:
        """Adam on ``log rho``; the best feasible multipliers of the rule's own first guess and all later steps."""
        logs = self._start()
        if logs is None:
            return None
        ratios = [torch.zeros((), dtype=torch.float64) for _ in logs]
        free = [p.requires_grad_(True) for p in (*logs, *ratios)]
        optimizer = torch.optim.Adam(free, lr=0.1, betas=(0.9, 0.99))
        best: tuple[float, Tensor] | None = None
        opened = time.perf_counter()
        k = 0
        while k < steps:
            try:
                rho, t = self.run(logs, ratios)
            except RuntimeError:
                break
            value = rho.item()
            if not math.isfinite(value) or value <= 0:
                break
            if best is None or value < best[0]:
                best = (value, value * t.detach())
            optimizer.zero_grad()
            rho.log().backward()
            for p in free:
                p.grad = torch.zeros_like(p) if p.grad is None else torch.nan_to_num(p.grad)
            if k == 1:
                cost = (time.perf_counter() - opened) / 1.5
                steps = min(steps, max(k + 1, int(k + (until - time.perf_counter()) / cost)))
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (0.05 + 0.475 * (1 + math.cos(math.pi * k / steps)))
            optimizer.step()
            k += 1
            if time.perf_counter() > until:
                break
        return best

    def _start(self) -> list[Tensor] | None:
        """``e = diag Q`` of each node along the way, regularised; the shape of ECLipsE-Fast's choice."""
        logs: list[Tensor] = []
        program = self.program
        cov = torch.eye(program.inputs, dtype=torch.float64)
        taken = program.inputs
        for (first, last), (h_rows, w_rows) in zip(self.stages, self.rows, strict=True):
            H = program.H[h_rows, :taken]
            own_h, own_w = program.H_of[h_rows] - first, program.w_of[w_rows] - first
            K = cov @ H.T
            Q = H @ K
            if not torch.isfinite(Q).all():
                return None
            count = last - first
            e = torch.zeros(count, dtype=torch.float64).index_add(0, own_h, Q.diagonal())
            e = e + 0.1 * e.mean() if e.sum() > 1e-200 else torch.ones_like(e)
            root = e[own_h].rsqrt()
            top = torch.linalg.eigvalsh(root[:, None] * Q * root)[-1]
            top = torch.where(top > 1e-200, top, 1.0)
            D = 1.7 * top * e
            half = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.diag(D[own_h]) - Q), K.T, upper=False)
            cov = torch.block_diag(cov + half.T @ half, torch.diag(D[own_w]))
            taken += len(w_rows)
            logs.append(torch.log(e))
        return logs


def _proven(form: LureForm, t: Tensor) -> tuple[float, Tensor]:
    """The least bound that these multipliers prove in floating point in the network's own variables, and those it needs.

    Where a slope hardly varies its multiplier may be anything up to a huge value, which drowns the rest of the matrix in
    rounding; so it is also tried with caps on what one constraint adds beside the inputs' own weight.
    """
    best, kept = math.inf, t
    reach = torch.zeros(len(t), dtype=torch.float64).index_add(0, form.G_of, form.G.square().sum(1))
    scale = t.clamp(min=1e-290).median().item() if len(t) else 1.0
    for cap in (math.inf, 1e6, 1e3):
        capped = torch.minimum(t, cap * scale / reach) if cap < math.inf else t
        value = _proven_as_given(form, capped)
        if value < best * (1 - 1e-6):
            best, kept = value, capped
    return best, kept


def _proven_as_given(form: LureForm, t: Tensor) -> float:
    n, C = form.inputs, form.C
    G, H = t[form.G_of].sqrt()[:, None] * form.G, t[form.H_of].sqrt()[:, None] * form.H
    inner = G.T @ G - H.T @ H - C.T @ C
    try:
        if C.shape[1] > n:
            factor = torch.linalg.cholesky(inner[n:, n:])
            half = torch.linalg.solve_triangular(factor, inner[n:, :n], upper=False)
            rho = torch.linalg.eigvalsh(half.T @ half - inner[:n, :n])[-1].item()
        else:
            rho = torch.linalg.eigvalsh(-inner)[-1].item()
    except RuntimeError:
        return math.inf
    if not math.isfinite(rho):
        return math.inf
    rho = max(rho, 1e-290)
    # The checker encloses slopes by other formulas: the least margin covers what their rounding differs by.
    for margin in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        matrix = inner.clone()
        matrix.diagonal()[:n] += rho * (1 + margin)
        diagonal = matrix.diagonal()
        if not (diagonal > 0).all():
            continue
        scale = torch.exp2(-torch.round(torch.log2(diagonal) / 2))
        # Several times what the checker will ask for.
        mass = sum((m * scale).square().sum() for m in (G, H, C))
        error = 8.0 * gamma(len(G) + len(H) + len(C) + 64) * mass
        if proves_semidefinite(matrix * scale[:, None] * scale, error).item():
            return math.sqrt(rho * (1 + margin)) * (1 + 1e-12)
    return math.inf
