"""LipSDP on any graph: multipliers for the slope restriction of every nonlinearity, optimised as far as time allows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.bounds.lipsdp.first_order import RATE, minimise
from steepest.bounds.lipsdp.plan import plan
from steepest.bounds.lipsdp.program import quadratic_program
from steepest.bounds.lipsdp.proof import LEAST, Proof, least_rho
from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime, Propagation
from steepest.bounds.lipsdp.starts import Start, absolute, by_neuron, closed_form, even
from steepest.graph import Graph
from steepest.numerics.chain_interior_point import chain_interior_point
from steepest.numerics.chain_program import ChainProgram
from steepest.numerics.deadline import Deadline
from steepest.numerics.device import moved, working_on
from steepest.numerics.interior_point import Iterate, interior_point
from steepest.numerics.quadratic_program import QuadraticProgram
from steepest.ops.enclosures import Enclosures
from steepest.ops.free_form import entries, free_form
from steepest.ops.lure import LureSystem, lure_system
from steepest.results import Domain, Step, UpperBound

WIDER = 1.02
"""The interior point starts this much inside: close to where the first-order steps ended, with room to move."""

FREE = 2**23
"""Numbers up to which the maps between the input and all nonlinearities are multiplied out."""

QUICK = 1e-9
"""About how many seconds an iteration of the interior point takes for each cubed variable."""

DEEPER, NARROW = 4, 128
"""Chains of layers up to so narrow may have so many times as many entries: their interior point is linear in depth."""

SLOWER = 1.25
"""As many times as long an iteration of the chain's interior point may take as the dense one's: it takes fewer of them."""

DROWNED = 1e3
"""A bound so many times above what was found, before rounding, is none."""

SOON = 0.02
"""Seconds of an interior-point iteration below which it begins at an even start, without looking for LipLT's."""

WARM_RATE = 0.03
"""Of the first-order method where it begins from multipliers that are good already."""


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
        deadline: when to stop looking; proving what was found may overrun it.
        steps: most first-order steps.
        exact: most entries of the input and all nonlinearities for the interior point, four times as many for chains of narrow layers;
            fewer where time is short.
        largest: most entries of a signal whose covariance is held dense.
        channels: what one multiplier per channel gave, where to begin.
        entries: most numbers in the blocks of the matrix that is the proof.
        device: where the first-order steps are taken; the interior point and the proof are the processor's.
        enclosures: of the nodes over the domain, where they are known already.
        gap: of rho to the optimum, relatively, at which the interior point stops.

    Source: Fazlyab et al. 2019 (LipSDP-Neuron); Xu and Sivaranjani 2024 (ECLipsE), of which the propagation is the general form.
    """

    name: str = "lipsdp"
    deadline: Deadline = field(default_factory=lambda: Deadline.after(20.0))
    steps: int = 2000
    exact: int = 4500
    largest: int = 5200
    entries: int = 3 * 2**25
    channels: UpperBound | None = None
    device: str = "cpu"
    enclosures: Enclosures | None = None
    gap: float = 1e-5

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)|_2 <= L |x - y|_2`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 2.

        Returns:
            The bound with the multipliers of every nonlinear node as steps; infinite where a node has no finite slope, where the
            matrices would be too large, or where rounding leaves nothing to prove.
        """
        assert norm == 2.0
        started = time.perf_counter()
        known = self.enclosures or Enclosures.over(graph, domain)
        system = lure_system(graph, known.values)
        refusal = self._refusal(system)
        if refusal:
            return self._nothing(started, refusal)
        assert system is not None
        history: list[tuple[float, float]] = []

        def seen(rho: float) -> None:
            if rho > 0 and (not history or rho < history[-1][1] ** 2):
                history.append((time.perf_counter() - started, math.sqrt(rho)))

        found = self._optimise(system, seen)
        if found is None:
            return self._nothing(started, "the time does not suffice to find and prove multipliers")
        value, t, least = found
        # Far above what the multipliers are worth, what is left to prove is rounding's doing.
        if value == math.inf or (history and value > DROWNED * history[-1][1]):
            return self._nothing(started, "rounding leaves nothing to prove")
        gap = max(0.0, 1.0 - least / value**2) if 0.0 < least else None
        steps = tuple(Step(p.node, {"multipliers": p.laid_out(t).numpy()}) for p in system.parts)
        taken = time.perf_counter() - started
        history = [(s, max(v, value)) for s, v in history] + [(taken, value)]
        return UpperBound(self.name, value, steps, taken, None, gap, tuple(history), work=known.work)

    def _nothing(self, started: float, reason: str) -> UpperBound:
        return UpperBound(self.name, math.inf, (), time.perf_counter() - started, remark=f"LipSDP was left out: {reason}.")

    def refusal(self, graph: Graph, domain: Domain) -> str:
        """Why the network is left out, whatever the time; empty where it is not."""
        return self._refusal(lure_system(graph, (self.enclosures or Enclosures.over(graph, domain)).values))

    def is_small(self, graph: Graph, domain: Domain) -> bool:
        """Whether so few slopes are uncertain that the interior point will be used in time."""
        system = lure_system(graph, (self.enclosures or Enclosures.over(graph, domain)).values)
        return system is not None and system.size <= self.exact and 15.0 * QUICK * system.size**3 < self.deadline.left()

    def multipliers(self, system: LureSystem) -> tuple[float, Tensor] | None:
        """The least bound that can be proven in time, and its multipliers; None where there is none."""
        found = None if self._refusal(system) else self._optimise(system, lambda rho: None)
        return None if found is None or not math.isfinite(found[0]) else (found[0], found[1])

    def _refusal(self, system: LureSystem | None) -> str:
        if system is None:
            return "a node is a product of branches or has no finite slope over the domain"
        if not self._fits(system):
            return f"a layer has more than {self.largest} neurons, or the layers' matrices more than {self.entries} numbers"
        return ""

    def _fits(self, system: LureSystem) -> bool:
        if entries(system) > self.entries:
            return False
        return plan(system).largest <= self.largest

    def _optimise(self, system: LureSystem, seen: Callable[[float], None]) -> tuple[float, Tensor, float] | None:
        """The least proven bound, its multipliers, and what is known of the least rho from below; None where time is too short."""
        if entries(system) <= FREE:
            system = free_form(system)
        proof = Proof(system)
        exact = Propagation(system)
        if not system.stages:
            value, t = proof.best(torch.zeros(0, dtype=torch.float64), exact)
            return value, t, 0.0
        program = None
        if system.size <= self.exact * (DEEPER if exact.plan.largest <= NARROW else 1):
            program = _in_layers(quadratic_program(system, proof.rows, proof.output))
            dense = isinstance(program, QuadraticProgram)
            # It takes 6 to 20 iterations.
            if (dense and system.size > self.exact) or 15.0 * _seconds(program) > max(self.deadline.left(), 4.0):
                program = None
        # Float32 holds where slopes vary by as much everywhere; its result is only a proposal.
        alike = all((s.radius >= 1e-3 * max(1e-3, s.radius.max().item())).all() for s in system.stages)
        single = alike and exact.plan.largest > 400
        # What comes after has the rest of the time: a pass and a factorisation in float64, or the interior point.
        reserve = 6.0 if single else 3.0 if program is None else 0.0
        enough = math.inf if program is None else min(_worth(system) * _seconds(program), 0.35 * self.deadline.left())
        with working_on(self.device):
            first = exact
            if single or self.device != "cpu":
                first = Propagation(moved(system, self.device), torch.float32 if single else torch.float64)
            # LipLT's norms would take longer than the iterations they save.
            start, rate = (even(system), RATE) if program is not None and _seconds(program) < SOON else self._start(first)
            found = minimise(first, self.deadline, seen, rate, self.steps, reserve, enough, start)
        if found is None:
            return None
        t = 1.0 / torch.cat(found).cpu()
        if program is None:
            return *proof.best(t, exact), 0.0
        return self._finish(program, proof, exact, t, seen)

    def _start(self, propagation: Propagation) -> tuple[Start, float]:
        """Where to begin, and how fast: slowly from what one multiplier per channel has come to."""
        d = None if self.channels is None else by_neuron(propagation.system, self.channels)
        if d is not None:
            try:
                return absolute(propagation, d, self.deadline)[1], WARM_RATE
            except (Infeasible, OutOfTime):
                pass
        return closed_form(propagation, self.deadline), RATE

    def _finish(
        self, program: QuadraticProgram | ChainProgram, proof: Proof, exact: Propagation, t: Tensor, seen: Callable[[float], None]
    ) -> tuple[float, Tensor, float]:
        """The interior point from these multipliers, and the best of its iterates that can be proven."""
        rho, feasible = least_rho(exact, t)
        if not LEAST < rho < math.inf:
            return *proof.best(t, exact), 0.0
        least = 0.0
        # The last iterate can be too close to the boundary to be proven in floating point; the ones before are further inside.
        last: deque[Iterate] = deque(maxlen=6)
        start = WIDER * feasible, WIDER**2 * rho
        if isinstance(program, ChainProgram):
            iterates = chain_interior_point(program, *start, tolerance=self.gap)
        else:
            iterates = interior_point(program, *start, tolerance=self.gap)
        for iterate in iterates:
            last.append(iterate)
            seen(iterate.rho)
            if iterate.residual < 1e-4:
                least = max(least, iterate.rho * (1.0 - iterate.gap - iterate.residual))
            if self.deadline.passed():
                break
        value, best = proof.first([(rho, feasible), *((i.rho, i.t) for i in last)])
        if value == math.inf:
            value, best = proof.best(t, exact)
        return value, best, least


def _worth(system: LureSystem) -> float:
    """How many iterations' time is well spent on where the interior point starts: the deeper, the further are even multipliers off."""
    return min(5.0, 0.25 * len(system.stages))


def _seconds(program: QuadraticProgram | ChainProgram) -> float:
    """About how long an iteration of the interior point takes."""
    return 0.002 + program.work / 3e10


def _in_layers(program: QuadraticProgram) -> QuadraticProgram | ChainProgram:
    """The program layer by layer, where it is a chain and its interior point takes less time that way."""
    chain = ChainProgram.of(program)
    return program if chain is None or chain.work > SLOWER * program.work else chain
