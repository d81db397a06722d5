"""A piecewise linear network under partial knowledge of its pieces: affine maps closed over slopes that are still open."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.errors import UnsupportedOperatorError
from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Elementwise

SURE = 1e-12
"""Relative distance from a kink at which an enclosure excludes a piece, so that another enclosure of the same does so too."""


@dataclass(frozen=True, eq=False)
class Forms:
    """For each of a batch of states: what neurons read and what comes out, of x and of ``v_i = t_i z_i`` with t_i in [-1, 1] where open.

    ``z = a x + b v + offset`` (the offset where nothing open precedes) and differences of the output are ``c x + d v``.

    Args:
        a: ``[batch, neurons, inputs]``.
        b: ``[batch, neurons, neurons]``, strictly lower triangular.
        c: ``[batch, outputs, inputs]``.
        d: ``[batch, outputs, neurons]``.
        offset: ``[batch, neurons]``.
        open: ``[batch, neurons]``, of more than one slope.
        some: ``[batch, neurons, 1 + inputs + neurons]``, where offset, a and b are not surely zero, whatever cancels.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    offset: Tensor
    open: Tensor
    some: Tensor

    @property
    def known(self) -> Tensor:
        """Neurons that read an affine function of x, ``[batch, neurons]``."""
        return ~(self.some[:, :, 1 + self.a.shape[2] :] & self.open[:, None]).any(2)


class Network:
    """A graph of affine maps, sums, concatenations and activations with kinks, over the coordinates of a domain that are free.

    The neurons are the entries of the activations, one node after the other. A neuron with q kinks has q + 1 pieces, on each of
    which it is linear; a state is the range of pieces, ``low`` to ``high``, that each neuron may be on.

    Args:
        graph: the network.
        lo, hi: flat ends of a box, perhaps infinite; where they are equal the input is a constant.

    Raises:
        UnsupportedOperatorError: naming an operator that is none of these.
    """

    def __init__(self, graph: Graph, lo: Tensor, hi: Tensor) -> None:
        strange = unfit(graph)
        if strange is not None:
            node = graph.nodes[strange]
            raise UnsupportedOperatorError(node.op.code, node.name, "it is not piecewise linear entry by entry")
        self.graph = graph
        self.free = lo < hi
        self.centre = torch.where(self.free, 0.0, lo)
        self.nodes = [k for k, node in enumerate(graph.nodes) if isinstance(node.op, Elementwise)]
        tables = [_pieces(op) for k in self.nodes if isinstance(op := graph.nodes[k].op, Elementwise)]
        most = max([len(kinks) for kinks, _, _ in tables], default=0)
        self.sizes = [math.prod(graph.nodes[k].shape) for k in self.nodes]
        self.starts = list(itertools.accumulate(self.sizes, initial=0))
        self.count = self.starts[-1]
        depth: list[int] = []
        for node in graph.nodes:
            depth.append(max((depth[i] for i in node.inputs), default=0) + isinstance(node.op, Elementwise))
        self.levels = [depth[k] for k, size in zip(self.nodes, self.sizes, strict=True) for _ in range(size)]
        self.kinks = torch.full((self.count, most), math.inf, dtype=torch.float64)
        self.slopes = torch.zeros(self.count, most + 1, dtype=torch.float64)
        self.offsets = torch.zeros(self.count, most + 1, dtype=torch.float64)
        self.last = torch.zeros(self.count, dtype=torch.int8)
        for (kinks, slopes, offsets), first, size in zip(tables, self.starts, self.sizes, strict=False):
            rows = slice(first, first + size)
            self.kinks[rows, : len(kinks)] = torch.tensor(kinks, dtype=torch.float64)
            self.slopes[rows, : len(kinks) + 1], self.offsets[rows, : len(kinks) + 1] = slopes, offsets
            self.last[rows] = len(kinks)

    @property
    def inputs(self) -> int:
        """Free coordinates."""
        return int(self.free.sum())

    def whole(self, values: list[Interval]) -> tuple[Tensor, Tensor]:
        """The least state that holds every input whose nodes have these values, ``[neurons]`` each."""
        read = [values[self.graph.nodes[k].inputs[0]] for k in self.nodes]
        none = torch.zeros(0, dtype=torch.float64)
        lo, hi = (torch.cat([none, *(t.flatten() for t in ends)]) for ends in ([x.lo for x in read], [x.hi for x in read]))
        away = SURE * (1.0 + self.kinks.abs())
        low = (lo[:, None] >= self.kinks + away + SURE * lo.abs()[:, None].nan_to_num(posinf=0.0)).sum(1)
        high = (hi[:, None] > self.kinks - away - SURE * hi.abs()[:, None].nan_to_num(posinf=0.0)).sum(1)
        return low.to(torch.int8), torch.minimum(high, self.last).to(torch.int8)

    def slope_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest slope over states ``[*batch, neurons]``."""
        least, most = torch.full(low.shape, math.inf, dtype=torch.float64), torch.full(low.shape, -math.inf, dtype=torch.float64)
        for s in range(self.slopes.shape[1]):
            among = (low <= s) & (s <= high)
            least = torch.where(among, torch.minimum(least, self.slopes[:, s]), least)
            most = torch.where(among, torch.maximum(most, self.slopes[:, s]), most)
        return least, most

    def forms(self, low: Tensor, high: Tensor, base: int = 0) -> Forms:
        """What the states ``[batch, neurons]`` leave open.

        With a ``base``, what neurons of this level read, those that are not open, are variables of their own: unit vectors in ``b``.
        """
        least, most = self.slope_range(low, high)
        middle, radius = 0.5 * (least + most), 0.5 * (most - least)
        shift = torch.where(radius == 0, self.offsets.expand(*low.shape[:1], -1, -1).gather(2, low[..., None].long())[..., 0], 0.0)
        batch, inputs = len(low), self.inputs
        columns = 1 + inputs + self.count
        start = torch.zeros(1, columns, len(self.free), dtype=torch.float64)
        start[0, 0] = self.centre
        start[0, 1 : 1 + inputs] = torch.eye(len(self.free), dtype=torch.float64)[self.free]
        values: list[Tensor] = [start.reshape(1, columns, *self.graph.input_shape)]
        touched: list[Tensor] = [(values[0] != 0).to(torch.float64)]
        read, reached = [], []
        for k, node in enumerate(self.graph.nodes[1:], start=1):
            xs = [values[i] for i in node.inputs]
            op = node.op
            parts = [touched[i] for i in node.inputs]
            if isinstance(op, Affine):
                y, part = op.linear(xs[0]), op.linear(parts[0], absolute=True)
                if op.offset is not None:
                    y = torch.cat([y[:, :1] + op.offset, y[:, 1:]], 1)
                    part = torch.cat([part[:, :1] + (op.offset != 0), part[:, 1:]], 1)
            elif isinstance(op, Elementwise):
                flat = xs[0].reshape(len(xs[0]), columns, -1)
                first, last = (self.starts[self.nodes.index(k) + i] for i in (0, 1))
                read.append(flat.expand(batch, -1, -1))
                reached.append(parts[0].reshape(len(parts[0]), columns, -1).expand(batch, -1, -1))
                own = torch.arange(last - first)
                if base and self.levels[first] == base:
                    closed = radius[:, None, first:last] == 0
                    flat = torch.where(closed, 0.0, flat).expand(batch, -1, -1).clone()
                    flat[:, 1 + inputs + first + own, own] += closed[:, 0].to(torch.float64)
                    read[-1] = flat
                    reached[-1] = torch.where(closed, (flat != 0).to(torch.float64), reached[-1])
                y = flat * middle[:, None, first:last]
                y[:, 0] += shift[:, first:last]
                y[:, 1 + inputs + first + own, own] += radius[:, first:last]
                part = reached[-1] * (middle[:, None, first:last] != 0)
                part[:, 0] += shift[:, first:last] != 0
                part[:, 1 + inputs + first + own, own] += radius[:, first:last] > 0
                y, part = (t.reshape(batch, columns, *node.shape) for t in (y, part))
            else:
                wide = max(len(x) for x in xs)
                y, part = (op.evaluate(*(t.expand(wide, *t.shape[1:]) for t in ts)) for ts in (xs, parts))
                if isinstance(op, Add):
                    part = sum((t.expand(wide, *t.shape[1:]) for t in parts), torch.zeros(()))
            values.append(y)
            touched.append((part > 0).to(torch.float64))
        out = values[-1].reshape(len(values[-1]), columns, -1).expand(batch, -1, -1).mT
        z = torch.cat(read, 2).mT if read else torch.zeros(batch, 0, columns, dtype=torch.float64)
        return Forms(
            z[:, :, 1 : 1 + inputs],
            z[:, :, 1 + inputs :],
            out[:, :, 1 : 1 + inputs],
            out[:, :, 1 + inputs :],
            z[:, :, 0],
            radius > 0,
            torch.cat(reached, 2).mT > 0 if reached else torch.zeros(batch, 0, columns, dtype=torch.bool),
        )

    def magnitude(self) -> float:
        """The largest change of an output by magnitudes of all weights and slopes alone, for a change of one in every input."""
        values = [self.free.to(torch.float64).reshape(1, *self.graph.input_shape)]
        for k, node in enumerate(self.graph.nodes[1:], start=1):
            xs, op = [values[i] for i in node.inputs], node.op
            if isinstance(op, Affine):
                values.append(op.linear(xs[0], absolute=True))
            elif isinstance(op, Elementwise):
                first = self.starts[self.nodes.index(k)]
                steepest = self.slopes[first : first + xs[0].numel()].abs().amax(1)
                values.append(xs[0] * steepest.reshape(xs[0].shape))
            else:
                values.append(sum(xs, torch.zeros(())) if isinstance(op, Add) else op.evaluate(*xs))
        return values[-1].max().item() if values[-1].numel() else 0.0

    def state_at(self, x: Tensor) -> Tensor:
        """The pieces that points ``[count, free inputs]`` are on, the lower one at a kink; ``[count, neurons]``."""
        full = self.centre.repeat(len(x), 1)
        full[:, self.free] = x
        values = [full.reshape(-1, *self.graph.input_shape)]
        for node in self.graph.nodes[1:]:
            values.append(node.op.evaluate(*(values[i] for i in node.inputs)))
        read = [values[self.graph.nodes[k].inputs[0]].flatten(1) for k in self.nodes]
        z = torch.cat(read, 1) if read else torch.zeros(len(x), 0)
        return (z[..., None] > self.kinks).sum(2).to(torch.int8)


def unfit(graph: Graph) -> int | None:
    """The first node that is neither affine, nor a sum or concatenation, nor linear between kinks; None where there is none."""
    for k, node in enumerate(graph.nodes[1:], start=1):
        linear = isinstance(node.op, (Affine, Add, Concat))
        if not linear and not (isinstance(node.op, Elementwise) and node.op.kinks is not None):
            return k
    return None


def _pieces(op: Elementwise) -> tuple[tuple[float, ...], Tensor, Tensor]:
    """Kinks, and for every piece and entry slope and offset, ``[size, pieces]``: ``slope x + offset``, read off at a point of each."""
    kinks = op.kinks
    assert kinks is not None
    ends = [-math.inf, *kinks, math.inf]
    points = [0.0 if math.isinf(a) and math.isinf(b) else b - 1 if math.isinf(a) else a + 1 if math.isinf(b) else a / 2 + b / 2
              for a, b in itertools.pairwise(ends)]  # fmt: skip
    slopes, offsets = [], []
    for x in points:
        at = torch.full(op.shape, x, dtype=torch.float64)
        slope = torch.broadcast_to(op.derivative(at), op.shape)
        slopes.append(slope.flatten())
        offsets.append((op.evaluate(at) - slope * at).flatten())
    return kinks, torch.stack(slopes, 1), torch.stack(offsets, 1)
