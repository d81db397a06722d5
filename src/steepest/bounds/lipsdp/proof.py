"""From multipliers to a proven bound: one linear matrix inequality in the network's own variables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.bounds.lipsdp.propagation import Infeasible, Propagation
from steepest.numerics.definite import proves_semidefinite_blocks
from steepest.numerics.rounding import gamma
from steepest.ops.lure import LureSystem

MARGINS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Tried on rho in turn, the least where slopes are exact alone: the checker encloses those of curved functions by other formulas."""

CAPS = (math.inf, 1e6, 1e3)
"""Limits of what one constraint may add beside the inputs' own weight.

Where a slope hardly varies its multiplier may be anything up to a huge value, which drowns the rest in rounding."""

SLOPES_OFF = 3e-12
"""By how much of their size the slopes of curved functions are off where others compute them by other formulas."""


LEAST = 1e-240
"""A map that is constant is given this rho, small but far enough above underflow for a proof."""


class Proof:
    """Proves what multipliers are worth.

    Args:
        system: the network.
    """

    def __init__(self, system: LureSystem) -> None:
        self.system = system
        self.rows = [system.matrices(s.v) for s in system.stages]
        self.output = system.matrices(system.output)
        self.reach = torch.zeros(system.multipliers, dtype=torch.float64)
        for s, rows in zip(system.stages, self.rows, strict=True):
            self.reach.index_add_(0, s.z_of, torch.ones(len(s.z_of), dtype=torch.float64))
            if not s.tied:
                mass = sum(b.square().sum(0) for b in rows.values())
                self.reach.index_add_(0, s.v_of, mass * s.middle.square())

    def best(self, t: Tensor, propagation: Propagation) -> tuple[float, Tensor]:
        """The least bound that these multipliers, or capped ones, prove in floating point, and those it needs.

        Args:
            t: of all stages, up to a common factor.
            propagation: float64, gives the least rho.
        """
        best, kept = math.inf, t
        scale = t.clamp(min=1e-290).median().item() if len(t) else 1.0
        for cap in CAPS:
            capped = torch.minimum(t, cap * scale / self.reach) if cap < math.inf else t
            if cap < math.inf and torch.equal(capped, t):
                break
            rho, capped = least_rho(propagation, capped)
            if math.isfinite(rho):
                value, used = self.first([(rho, capped)], best)
                if value < best:
                    best, kept = value, used
        return best, kept

    def first(self, feasible: Sequence[tuple[float, Tensor]], below: float = math.inf) -> tuple[float, Tensor]:
        """The least bound that any of several feasible points proves with a margin; infinite where none does.

        Args:
            feasible: rho and multipliers.
            below: what else is proven already.
        """
        margins = MARGINS[any(product.any() for product in self.system.slope_products) :]
        for value, margin, t in sorted(((r * (1 + m), m, t) for r, t in feasible for m in margins), key=lambda c: c[0]):
            if value >= below**2 * (1 - 1e-6):
                break
            # Half of the margin lifts everything against the output's part, the other half the inputs.
            if self.holds(t * (1 + margin / 2), value):
                return math.sqrt(value) * (1 + 1e-12), t * (1 + margin / 2)
        return math.inf, feasible[0][1]

    def holds(self, t: Tensor, rho: float) -> bool:
        """Whether ``rho E + sum t P - C'C`` is positive semidefinite, whatever rounding does."""
        system = self.system
        blocks: dict[tuple[int, int], Tensor] = {(0, 0): torch.full((system.signals[0].size,), rho, dtype=torch.float64)}
        mass: dict[tuple[int, int], Tensor] = {}
        curved: dict[tuple[int, int], Tensor] = {}
        for s, rows, product in zip(system.stages, self.rows, system.slope_products, strict=True):
            t_z, t_v = t[s.z_of], t[s.v_of]
            _add(blocks, s.z, s.z, t_z)
            if not s.tied:
                for b, v in rows.items():
                    _add(blocks, s.z, b, -(t_v * s.middle)[:, None] * v.mT)
            if product.any():
                self._products(blocks, mass, rows, t_v * product)
                if not s.tied:
                    _squares(curved, rows, t_v * (s.middle.square() + s.radius.square()) * (product != 0))
        # Minus C'C as a Schur complement, so that a variable which only the output reads keeps its diagonal block.
        last = len(system.signals)
        blocks[last, last] = torch.ones(system.signals[system.output].size, dtype=torch.float64)
        for b, v in self.output.items():
            _add(blocks, last, b, v.mT)
        diagonals = {i: b if b.ndim == 1 else b.diagonal() for (i, j), b in blocks.items() if i == j}
        if not all(((d > 1e-280) & (d < 1e280)).all() for d in diagonals.values()):
            return False
        scale = {i: torch.exp2(-torch.round(torch.log2(d) / 2)) for i, d in diagonals.items()}
        error, uncertain = (sum((m * scale[i].square()).sum().item() for (i, _), m in sums.items()) for sums in (mass, curved))
        scaled, off = {}, 0.0
        for (i, j), b in blocks.items():
            scaled[i, j] = b * scale[i].square() if b.ndim == 1 else b * scale[i][:, None] * scale[j]
            off += scaled[i, j].square().sum().item()
        # Several times what the checker will ask for.
        terms = 64 + max((len(r) for rows in (*self.rows, self.output) for r in rows.values()), default=0)
        # Of a curved function's constraint, what goes between z and v is at most the geometric mean of its two squares.
        slopes = SLOPES_OFF * (2.0 * uncertain + math.sqrt(off * (uncertain > 0)))
        return proves_semidefinite_blocks(scaled, 8.0 * gamma(terms) * (error + math.sqrt(off)) + slopes)

    def _products(
        self, blocks: dict[tuple[int, int], Tensor], mass: dict[tuple[int, int], Tensor], rows: dict[int, Tensor], weight: Tensor
    ) -> None:
        for b, v in rows.items():
            for c, u in rows.items():
                if c <= b:
                    _add(blocks, b, c, (v * weight) @ u.mT)
        _squares(mass, rows, weight.abs())


def _squares(sums: dict[tuple[int, int], Tensor], rows: dict[int, Tensor], weight: Tensor) -> None:
    """What goes into the diagonal, which bounds what goes in beside it."""
    for b, v in rows.items():
        sums[b, len(sums)] = (v.square() * weight).sum(1)


def _add(blocks: dict[tuple[int, int], Tensor], i: int, j: int, value: Tensor) -> None:
    if i < j:
        i, j, value = j, i, value.mT
    old = blocks.get((i, j))
    if old is None:
        blocks[i, j] = value
    elif old.ndim == value.ndim:
        blocks[i, j] = old + value
    else:
        blocks[i, j] = (torch.diag(old) if old.ndim == 1 else old) + (torch.diag(value) if value.ndim == 1 else value)


def least_rho(propagation: Propagation, t: Tensor) -> tuple[float, Tensor]:
    """The least rho for which rho times these multipliers, or slightly smaller ones, are feasible, and those; infinite where none is."""
    stages: Sequence[tuple[int, int]] = [(s.first, s.last) for s in propagation.system.stages]
    for wider in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        try:
            out, _, _ = propagation.run([-torch.log(t[a:b]) + wider for a, b in stages], None, trace=False)
        except Infeasible:
            continue
        rho = torch.linalg.eigvalsh(out)[-1].clamp(min=LEAST).item()
        return rho, rho * math.exp(-wider) * t
    return math.inf, t
