"""Enclosures of every node over a domain: interval propagation, with the first layer taken over a ball rather than its box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import above
from steepest.ops.kinds import Affine
from steepest.results import Domain


def enclose_domain(graph: Graph, domain: Domain) -> list[Interval]:
    """Sets that hold every node's output (of one sample) over the domain, node by node."""
    if domain.kind == "ball":
        assert domain.centre is not None and domain.radius is not None and domain.norm is not None
        centre = torch.from_numpy(domain.centre.reshape(graph.input_shape))
        return enclose_ball(graph, centre, torch.tensor(domain.radius, dtype=torch.float64), domain.norm)
    lo, hi = domain.bounds(graph.input_shape)
    return graph.enclose(Interval(torch.from_numpy(lo.copy()), torch.from_numpy(hi.copy())))


def enclose_ball(graph: Graph, centre: Tensor, radius: Tensor, p: float) -> list[Interval]:
    """Sets that hold every node's output over the lp balls around given centres.

    The smallest box around an l2 ball is wider than the ball by ``sqrt(n)`` in its corners, and an affine map of the ball
    is known exactly: entry i of ``W diag(d) x`` moves by at most ``radius |(W_ij d_j)_j|_2``. So as long as entries have
    only been moved and scaled, their scales d are carried along, and the first affine layers after that are intersected with
    this bound. An l1 ball lies in the l2 ball of its radius; for linf the box is the ball.

    Args:
        graph: the network.
        centre: ``[*lead, *input_shape]``, float64.
        radius: ``[*lead]``, non-negative.
        p: 1, 2 or inf.
    """
    reach = radius.reshape(*radius.shape, *[1] * len(graph.input_shape)).expand(centre.shape)
    return enclose_region(graph, Interval.outward(centre - reach, centre + reach), centre, radius, p)


def enclose_region(graph: Graph, box: Interval, centre: Tensor | None, radius: Tensor | None, p: float) -> list[Interval]:
    """The same over the common part of boxes ``[*lead, *input_shape]`` and balls, where there are any."""
    if p == math.inf or centre is None or radius is None:
        return graph.enclose(box)
    values = [box]
    moved: dict[int, tuple[Interval, Tensor]] = {0: (Interval.point(centre), torch.ones(graph.input_shape, dtype=torch.float64))}
    for index, node in enumerate(graph.nodes[1:], start=1):
        value = node.op.enclose(*(values[i] for i in node.inputs))
        if isinstance(node.op, Affine) and node.inputs[0] in moved:
            middle, scale = moved[node.inputs[0]]
            middle = node.op.enclose(middle)
            if node.op.keeps_entries_apart:
                moved[index] = (middle, above(node.op.linear(scale, absolute=True)))
            else:
                spread = above(node.op.row_norms_2(scale) * radius.reshape(*radius.shape, *[1] * len(node.shape)))
                value = value.intersect(Interval.outward(middle.lo - spread, middle.hi + spread))
        values.append(value)
    return values
