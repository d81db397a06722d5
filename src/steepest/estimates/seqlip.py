"""SeqLip: the steepest gates between each two layers of a chain, found greedily."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.graph.operator import Shape
from steepest.numerics.deadline import Deadline
from steepest.ops.kinds import Affine, Elementwise, count
from steepest.ops.region import enclose_domain
from steepest.ops.signals import unit_rows
from steepest.results import Domain, Estimate

WORK = 2e9
"""Products in singular value decompositions for each second of the time there is."""

LARGEST = 4096
"""Most entries of any tensor."""

WARM = 4
"""Steps of the power iteration before gates are chosen."""


@dataclass(frozen=True)
class SeqLip:
    """The product over neighbouring layers of the steepest choice of gates between them, in l2.

    A chain ``W_l D_{l-1} ... D_1 W_1`` with slopes ``lo_i <= D_i <= hi_i`` is a product of ``S_{i+1}^1/2 V_{i+1}' D_i U_i S_i^1/2``, where
    ``W_i = U_i S_i V_i'`` and the layers at both ends enter whole. The maxima of the factors' norms over all gates multiply to an upper
    bound, never above the product of norms. They are searched, from below, so what they multiply to is none.

    Args:
        deadline: past it there is no estimate; nothing is begun where the decompositions would take longer.
        starts: gates from which each search begins.
        steps: most alternations of a search.

    Source: Virmaux and Scaman 2018, section 5.
    """

    name: str = "seqlip"
    deadline: Deadline = field(default_factory=lambda: Deadline.after(1.0))
    starts: int = 32
    steps: int = 100

    def estimate(self, graph: Graph, domain: Domain) -> Estimate | None:
        """The value over a convex domain, or None where the network is no chain of affine maps and activations or too large."""
        started = time.perf_counter()
        chain = _chain(graph)
        if chain is None or not chain.gates or chain.work > WORK * min(self.deadline.left(), 60.0) or chain.largest > LARGEST:
            return None
        xs = enclose_domain(graph, domain)
        slopes = [op.slopes(xs[k - 1]) for k, op in chain.gates.items()]
        if not all(torch.isfinite(s.lo).all() and torch.isfinite(s.hi).all() for s in slopes):
            return None
        value, below = 1.0, None
        for i, layer in enumerate(chain.layers):
            if self.deadline.passed():
                return None
            left = right = _dense(layer, count(chain.shapes[i]))
            if 0 < i < len(chain.layers) - 1:
                u, s, vh = torch.linalg.svd(left, full_matrices=False)
                left, right = s.sqrt()[:, None] * vh, u * s.sqrt()
            if below is not None:
                lo, hi = (end.expand(chain.shapes[i]).flatten() for end in (slopes[i - 1].lo, slopes[i - 1].hi))
                factor = gate_maximum(left, below, lo, hi, self.starts, self.steps, self.deadline)
                if factor is None:
                    return None
                value *= factor
            below = right
        remark = "the steepest gates between each two layers, found greedily: steeper ones may exist"
        return Estimate(self.name, value, time.perf_counter() - started, remark) if math.isfinite(value) else None


def gate_maximum(
    left: Tensor, right: Tensor, lo: Tensor, hi: Tensor, starts: int = 32, steps: int = 100, deadline: Deadline | None = None
) -> float | None:
    """About ``max |left diag(d) right|_2`` over ``lo <= d <= hi``, never above it; None where the deadline passes.

    ``u' left diag(d) right v`` is linear in d: for unit vectors u, v the best d has every entry at an end, by the sign of its
    coefficient. Power iteration with d chosen anew at every half step never loses.

    Args:
        left: ``[p, n]``.
        right: ``[n, q]``.
        lo, hi: ``[n]``.
        starts: choices of d to begin with, all at ``hi`` and random ends.
        steps: most full steps.
        deadline: when to give up.
    """
    generator = torch.Generator().manual_seed(0)
    d = torch.where(torch.rand(starts, len(lo), generator=generator) < 0.5, lo, hi)
    d[0] = hi
    v = torch.randn(starts, right.shape[1], generator=generator, dtype=torch.float64)
    best = 0.0
    for step in range(steps + WARM):
        if deadline is not None and deadline.passed():
            return None
        v, _ = _unit(v)
        forward = v @ right.mT
        u, _ = _unit((d * forward) @ left.mT)
        if step >= WARM:
            d = torch.where(forward * (u @ left) > 0, hi, lo)
            u, _ = _unit((d * forward) @ left.mT)
        back = u @ left
        if step >= WARM:
            d = torch.where(forward * back > 0, hi, lo)
        v, norms = _unit((d * back) @ right)
        before, best = best, norms.max().item()
        if step > WARM and best <= before * (1.0 + 1e-6):
            break
    return best


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    norms = rows.norm(dim=1, keepdim=True)
    return rows / norms.clamp(min=1e-300), norms


@dataclass(frozen=True, eq=False)
class _Chain:
    """Affine operators between activations.

    Args:
        layers: the operators of each, one list more than there are activations.
        gates: the activations by node.
        shapes: of the input and of every activation.
        largest: entries of any tensor.
        work: products in the decompositions, and a tenth of those where there is only a matrix to be formed.
    """

    layers: list[list[Affine]]
    gates: dict[int, Elementwise]
    shapes: list[Shape]
    largest: int
    work: float


def _chain(graph: Graph) -> _Chain | None:
    layers: list[list[Affine]] = [[]]
    gates: dict[int, Elementwise] = {}
    for k, node in enumerate(graph.nodes[1:], start=1):
        if node.inputs != (k - 1,):
            return None
        if isinstance(node.op, Affine):
            layers[-1].append(node.op)
        elif isinstance(node.op, Elementwise):
            gates[k] = node.op
            layers.append([])
        else:
            return None
    shapes = [graph.input_shape, *(op.shape for op in gates.values())]
    sizes = [count(shape) for shape in (*shapes, graph.shape)]
    cubes = [m * n * min(m, n) for m, n in pairwise(sizes)]
    work = sum(cubes[1:-1]) + 0.1 * (cubes[0] + cubes[-1])
    return _Chain(layers, gates, shapes, max(count(node.shape) for node in graph.nodes), work)


def _dense(layer: list[Affine], size: int) -> Tensor:
    """The matrix of a composition, ``[out, in]``."""
    out = count(layer[-1].shape) if layer else size
    if out < size:
        rows = unit_rows(out, 0, out)
        for op in reversed(layer):
            rows = op.adjoint(rows.reshape(-1, *op.shape)).flatten(1)
        return rows
    rows = unit_rows(size, 0, size)
    for op in layer:
        rows = op.linear(rows.reshape(-1, *op.in_shapes[0])).flatten(1)
    return rows.mT
