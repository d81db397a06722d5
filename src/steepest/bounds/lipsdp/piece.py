"""Multipliers for one small piece of the inputs after another, from where its neighbour's ended, or for one piece as well as can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest.bounds.lipsdp.bound import FREE, LipSDP
from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.plan import Known
from steepest.bounds.lipsdp.proof import Proof
from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime, Propagation
from steepest.bounds.lipsdp.starts import Start
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops.free_form import entries, free_form
from steepest.ops.lure import LureSystem, Part, lure_system


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What covers a piece, and where the next may begin.

    Args:
        value: square root of the least rho that they prove, not counting rounding.
        inverse: ``1 / D`` by node, as a certificate lays it out, zero where the slope is fixed; rho of them are the multipliers.
        ratios: by node.
    """

    value: float
    inverse: Mapping[int, Tensor]
    ratios: Mapping[int, float]


@dataclass(frozen=True)
class PieceLipSDP:
    """LipSDP with the slopes of one piece, by the first-order method alone unless the piece is the ``whole``.

    The inequality is one between linear maps with every slope anywhere in its range, so it bounds the norm of the Jacobian wherever
    the slopes are in these ranges, whatever the shape of the set of inputs where they are.

    Args:
        first: steps where nothing is known.
        next: steps from a neighbour's multipliers.
        largest: most entries of a dense covariance.
        whole: where there is one piece alone, how to find its multipliers.
    """

    first: int = 80
    next: int = 6
    largest: int = 1200
    whole: LipSDP | None = None

    def tighten(self, graph: Graph, values: list[Interval], near: Multipliers | None, deadline: Deadline) -> Multipliers | None:
        """Multipliers for the piece over which the nodes have these values, or None where there are none in time.

        Args:
            graph: the network.
            values: enclosures of every node over the piece, of one sample.
            near: those of a piece that holds this one, or is like it.
            deadline: when to stop.
        """
        system = lure_system(graph, values)
        if system is None or not system.stages:
            return None
        if self.whole is not None:
            found = replace(self.whole, deadline=deadline).multipliers(system)
            if found is None:
                return None
            value, t = found
            return Multipliers(value, {p.node: p.laid_out(t / value**2) for p in system.parts}, {})
        if entries(system) <= FREE:
            system = free_form(system)
        propagation = Propagation(system)
        if propagation.plan.largest > self.largest:
            return None
        best: list[float] = []
        start = None if near is None else _start(system, near)
        steps, rate = (self.first, 0.1) if start is None else (self.next, 0.05)
        found = minimise(propagation, deadline, best.append, rate, steps, start=start)
        if found is None or not best:
            return None
        d = torch.cat(found)
        stages = {s.node: i for i, s in reversed(list(enumerate(system.stages)))}
        try:
            _, _, records = propagation.run([x.log() for x in found], None, deadline, trace=False)
        except (OutOfTime, Infeasible):
            return None
        tops = {r.step.stage: r.top for r in records if not isinstance(r.step, Known)}
        ratios = {node: max(1e-3, 1.0 / tops[i] - 1.0) for node, i in stages.items()}
        return Multipliers(math.sqrt(max(best[-1], 1e-290)), {p.node: p.laid_out(1.0 / d) for p in system.parts}, ratios)

    def proves(self, graph: Graph, values: list[Interval], found: Multipliers, bound: float) -> bool:
        """Whether they prove the bound in floating point."""
        system = lure_system(graph, values)
        if system is None:
            return False
        t = torch.cat([found.inverse[p.node].flatten()[p.free] for p in system.parts]) if system.parts else torch.zeros(0)
        return Proof(system).holds(bound * bound * t.double(), bound * bound)


def _start(system: LureSystem, near: Multipliers) -> Start | None:
    """The neighbour's D where this piece has one, the typical one where the neighbour had none."""
    if any(p.node not in near.inverse for p in system.parts):
        return None
    every = torch.cat([_of(p, near) for p in system.parts])
    return Start(tuple(every[s.first : s.last] for s in system.stages), tuple(near.ratios.get(s.node, 0.5) for s in system.stages))


def _of(part: Part, near: Multipliers) -> Tensor:
    inverse = near.inverse[part.node].flatten()[part.free]
    known = inverse > 0
    logs = -torch.log(torch.where(known, inverse, 1.0))
    return torch.where(known, logs, logs[known].median() if known.any() else torch.zeros(()).double())
