"""LipSDP with one multiplier per channel, for convolutional networks of any size."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch

from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.frequency import TorusPropagation
from steepest.bounds.lipsdp.propagation import Infeasible
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.device import moved, working_on
from steepest.ops.region import enclose_domain
from steepest.ops.torus import Unfit, torus_system
from steepest.results import Domain, Step, UpperBound

MARGIN = 1e-5
"""By how much the value is stated above what was computed. Whoever proves it adds every rounding error, which comes to less on small
networks and to more on the largest (1e-4 on ResNet-18 at 224 x 224); the bracket then states what was proven."""

LEAST = 1e-75
"""What is stated at least: the checker's floor under variances, which underflow must not reach, proves nothing smaller."""


@dataclass(frozen=True)
class ChannelLipSDP:
    """The least l2 bound that slope restrictions prove with one multiplier per channel of a convolutional network.

    The network is laid on a torus that holds it, where its covariances (``LipSDP``) are one small matrix for each frequency: the
    cost grows with the number of positions and the cube of the channels, not the cube of all entries. It is looser than one
    multiplier per neuron, and for large networks the only one to be had.

    Args:
        deadline: when to stop looking; the last pass, in float64, may overrun it.
        steps: most first-order steps.
        device: where they are taken.

    Source: Fazlyab et al. 2019 (LipSDP), with multipliers tied over positions; Sedghi, Gupta, Long 2019 (convolutions by frequency).
    """

    name: str = "lipsdp-channel"
    deadline: Deadline = field(default_factory=lambda: Deadline.after(20.0))
    steps: int = 2000
    device: str = "cpu"

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)|_2 <= L |x - y|_2`` for x, y in the domain, which must be convex.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 2.

        Returns:
            The bound, with ``1 / D`` of every nonlinear node as steps; infinite where the network cannot be laid on a torus. The value is
            computed in float64 without bounding its rounding: the checker, which does, has the last word.
        """
        assert norm == 2.0
        started = time.perf_counter()
        history: list[tuple[float, float]] = []

        def seen(rho: float) -> None:
            if rho > 0 and (not history or rho < history[-1][1] ** 2):
                history.append((time.perf_counter() - started, math.sqrt(rho)))

        try:
            system = moved(torus_system(graph, enclose_domain(graph, domain)), self.device)
            with working_on(self.device):
                first = TorusPropagation(system, torch.float32)
                found = minimise(first, self.deadline, seen, steps=self.steps, reserve=2.0, overrun=math.inf)
                if found is None:
                    return self._nothing(started, "the time does not suffice for one pass")
                out, d, _ = TorusPropagation(system, entries=0).run([torch.log(x) for x in found], None, trace=False)
        except (Unfit, Infeasible) as error:
            return self._nothing(started, str(error) or "rounding leaves nothing to prove")
        value = max(math.sqrt(torch.linalg.eigvalsh(out)[-1].clamp(min=0.0).item()) * (1.0 + MARGIN), LEAST)
        multipliers = 1.0 / torch.cat(d).cpu() if d else torch.zeros(0, dtype=torch.float64)
        steps = tuple(Step(p.node, {"multipliers": multipliers[p.first : p.last].reshape(p.shape).numpy()}) for p in system.parts)
        taken = time.perf_counter() - started
        return UpperBound(self.name, value, steps, taken, None, None, (*((s, max(v, value)) for s, v in history), (taken, value)))

    def _nothing(self, started: float, reason: str) -> UpperBound:
        return UpperBound(self.name, math.inf, (), time.perf_counter() - started, remark=f"LipSDP by channels was left out: {reason}.")
