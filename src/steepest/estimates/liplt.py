"""LipLT, as far as power iteration knows the norms it is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from steepest.bounds.lipsdp.starts import liplt
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.ops.kinds import Elementwise, Group, count
from steepest.ops.lure import lure_system
from steepest.ops.region import enclose_domain
from steepest.results import Domain, Estimate

LARGEST = 1_000_000
"""Most entries of all nonlinearities times their number: about what one step of all power iterations costs."""


@dataclass(frozen=True)
class LipLT:
    """The loop-transformed bound in l2, on any graph without products of branches.

    The bound itself is proven for norms that are known; here they come from power iteration, from below. LipSDP with the multipliers
    that belong to it (``bounds.lipsdp.starts``) is the proof, and is never above it.

    Args:
        deadline: past it there is no estimate.

    Source: Fazlyab et al. 2023, theorem 1.
    """

    name: str = "liplt"
    deadline: Deadline = field(default_factory=Deadline)

    def estimate(self, graph: Graph, domain: Domain) -> Estimate | None:
        """The value over a convex domain, or None where the method does not apply or takes too long."""
        started = time.perf_counter()
        sizes = [count(node.shape) for node in graph.nodes if isinstance(node.op, (Elementwise, Group))]
        if not sizes or sum(sizes) * len(sizes) > LARGEST or self.deadline.passed():
            return None
        system = lure_system(graph, enclose_domain(graph, domain))
        found = None if system is None or not system.stages else liplt(system, self.deadline)
        if found is None:
            return None
        remark = "the bound of LipLT with norms from power iteration, which finds them from below"
        return Estimate(self.name, found.value, time.perf_counter() - started, remark)
