"""A network as linear maps closed over slope-restricted nonlinearities: a Lur'e system."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph, Node
from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.ops.group_max import GroupMax
from steepest.ops.group_sort import GroupSort
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Elementwise, Group, count
from steepest.ops.signals import Flow, LinearMap, Picked, Placed, Repeated, Scaled, Signal, Through, unit_rows


@dataclass(frozen=True, eq=False)
class Stage:
    """Differences v of one signal and z of a new variable under ``sum_{i in j} (z - middle v)_i^2 <= sum_{i in j} (radius v)_i^2``.

    Args:
        node: of the graph.
        v: the signal that the nonlinearity reads.
        z: the variable it gives.
        middle, radius: of the slopes, of v's size; where only a Lipschitz constant is known, zero and the constant.
        v_of, z_of: int64, the multiplier j that each entry of v and of z belongs to, among all.
    """

    node: int
    v: int
    z: int
    middle: Tensor
    radius: Tensor
    v_of: Tensor
    z_of: Tensor

    @property
    def tied(self) -> bool:
        """Whether one multiplier stands for all entries, and nothing is known entry by entry."""
        return self.first + 1 == self.last and max(len(self.v_of), len(self.z_of)) > 1

    @property
    def first(self) -> int:
        """Its first multiplier."""
        return int(self.z_of[0])

    @property
    def last(self) -> int:
        """One past its last multiplier."""
        return int(self.z_of[-1]) + 1


@dataclass(frozen=True, eq=False)
class Part:
    """The multipliers of one node.

    Args:
        node: its index.
        first, last: range of its multipliers among all.
        shape: how they are laid out in a certificate.
        free: bool, flattened: the entries that have one; the others have a fixed slope and are linear.
    """

    node: int
    first: int
    last: int
    shape: Shape
    free: Tensor

    def laid_out(self, t: Tensor) -> Tensor:
        """All multipliers of the node among those of the network, zero where the slope is fixed."""
        full = torch.zeros(self.free.shape, dtype=torch.float64)
        full[self.free] = t[self.first : self.last]
        return full.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class LureSystem:
    """Differences of a network's signals at two inputs, linear but for the stages' quadratic constraints.

    Args:
        signals: the input first, each after what it reads.
        stages: in the network's order.
        output: a signal.
        parts: the nodes' multipliers.
    """

    signals: tuple[Signal, ...]
    stages: tuple[Stage, ...]
    output: int
    parts: tuple[Part, ...]

    @property
    def multipliers(self) -> int:
        """How many there are."""
        return self.parts[-1].last if self.parts else 0

    @property
    def variables(self) -> tuple[int, ...]:
        """The input and the outputs of all stages."""
        return (0, *(s.z for s in self.stages))

    @property
    def size(self) -> int:
        """Entries of all variables."""
        return sum(self.signals[i].size for i in self.variables)

    @property
    def slope_products(self) -> tuple[Tensor, ...]:
        """For each stage ``middle^2 - radius^2``, exactly zero where one end of the slopes is."""
        return tuple(torch.where(s.middle.abs() == s.radius, 0.0, s.middle.square() - s.radius.square()) for s in self.stages)

    def matrices(self, target: int, chunk: int = 512) -> dict[int, Tensor]:
        """A signal as a linear map of the variables: for each that it depends on, ``[size of the variable, size of the signal]``."""
        flow = Flow(self.signals)
        basis = frozenset(self.variables)
        found = {}
        rows = self.signals[target].size
        for i in flow.sources(target, basis):
            size = self.signals[i].size
            if rows < size:
                back = [flow.pullback(target, basis, unit_rows(rows, k, chunk), i)[i] for k in range(0, rows, chunk)]
                found[i] = torch.cat(back).mT.contiguous()
                continue
            found[i] = torch.cat([flow.image(target, i, basis, unit_rows(size, k, chunk)) for k in range(0, size, chunk)])
        return found


class _Writer:
    def __init__(self, shape: Shape) -> None:
        self.signals = [Signal(shape)]
        self.stages: list[Stage] = []
        self.parts: list[Part] = []
        self.free: list[Tensor] = []
        self.multipliers = 0

    def add(self, shape: Shape, *terms: tuple[LinearMap, int]) -> int:
        self.signals.append(Signal(shape, terms))
        return len(self.signals) - 1

    def scaled(self, v: int, by: float) -> int:
        if by == 1.0:
            return v
        return self.add(self.signals[v].shape, (Scaled(torch.tensor(by, dtype=torch.float64)), v))

    def sum(self, *terms: tuple[float, int]) -> int:
        shape = self.signals[terms[0][1]].shape
        return self.add(shape, *((Scaled(torch.tensor(by, dtype=torch.float64)), v) for by, v in terms))

    def restrict(self, node: int, v: int, middle: Tensor, radius: Tensor) -> int:
        """``z_i = phi_i(v_i)`` with slopes in ``[middle - radius, middle + radius]``."""
        shape, middle, radius = self.signals[v].shape, middle.flatten(), radius.flatten()
        free = radius > 0
        self.free.append(free)
        if not free.any():
            return self.add(shape, (Scaled(middle), v))
        own = torch.arange(self.multipliers, self.multipliers + int(free.sum()))
        self.multipliers += len(own)
        if free.all():
            z = self.add(shape)
            self.stages.append(Stage(node, v, z, middle, radius, own, own))
            return z
        picked = Picked(free.nonzero()[:, 0], len(free))
        few = self.add((len(own),), (picked, v))
        z = self.add((len(own),))
        self.stages.append(Stage(node, few, z, middle[free], radius[free], own, own))
        fixed = torch.where(free, 0.0, middle)
        terms: list[tuple[LinearMap, int]] = [(Placed(picked), z)]
        return self.add(shape, *terms, *([(Scaled(fixed), v)] if fixed.any() else []))

    def contract(self, node: int, v: int, gain: float, shape: Shape) -> int:
        """``z = phi(v)`` of which only ``|dz| <= gain |dv|`` is known."""
        z = self.add(shape)
        self.free.append(torch.ones(1, dtype=torch.bool))
        size = self.signals[v].size
        of = [torch.full((n,), self.multipliers) for n in (size, count(shape))]
        self.multipliers += 1
        zero = torch.zeros(size, dtype=torch.float64)
        self.stages.append(Stage(node, v, z, zero, zero + gain, *of))
        return z

    def close(self, node: int, first: int, shape: Shape) -> None:
        """Note which multipliers a node added."""
        if self.free:
            self.parts.append(Part(node, first, self.multipliers, shape, torch.cat(self.free)))
            self.free = []


def lure_system(graph: Graph, xs: list[Interval]) -> LureSystem | None:
    """Write a graph out over a region, or None where a node has no finite constant or is no map of one input.

    Args:
        graph: the network.
        xs: enclosures of every node over the region, of one sample.
    """
    writer = _Writer(graph.input_shape)
    values: list[int] = [0]
    for k, node in enumerate(graph.nodes[1:], start=1):
        first = writer.multipliers
        value = _value(writer, k, node, [values[i] for i in node.inputs], [xs[i] for i in node.inputs])
        if value is None:
            return None
        values.append(value)
        if isinstance(node.op, GroupMax):
            shape: Shape = (node.op.index.shape[-1] - 1, *node.shape)
        elif isinstance(node.op, GroupSort) and node.shape[-1] == 2:
            shape = (*node.shape[:-1], 1)
        else:
            shape = node.shape if isinstance(node.op, Elementwise) else (1,)
        writer.close(k, first, shape)
    return LureSystem(tuple(writer.signals), tuple(writer.stages), values[-1], tuple(writer.parts))


def _value(writer: _Writer, k: int, node: Node, inputs: list[int], xs: list[Interval]) -> int | None:
    op = node.op
    if isinstance(op, Affine):
        return writer.add(node.shape, (Through(op), inputs[0]))
    if isinstance(op, Add):
        return writer.sum(*((float(sign), i) for sign, i in zip(op.signs, inputs, strict=True)))
    if isinstance(op, Concat):
        sizes = [count(s) for s in op.in_shapes]
        index = torch.full((sum(sizes),), -1)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        places = op.evaluate(*(torch.arange(e - n, e).reshape(s) for e, n, s in zip(ends, sizes, op.in_shapes, strict=True))).flatten()
        index[places] = torch.arange(len(index))
        parts = [Placed(Picked(index[e - n : e], len(index))) for e, n in zip(ends, sizes, strict=True)]
        return writer.add(node.shape, *zip(parts, inputs, strict=True))
    if isinstance(op, Elementwise):
        slopes = op.slopes(xs[0])
        middle, radius = slopes.lo / 2 + slopes.hi / 2, slopes.hi / 2 - slopes.lo / 2
        if not (torch.isfinite(middle).all() and torch.isfinite(radius).all()):
            return None
        return writer.restrict(k, inputs[0], middle.expand(op.shape), radius.expand(op.shape))
    if isinstance(op, GroupMax):
        return _maximum(writer, k, op, inputs[0], xs[0])
    if isinstance(op, GroupSort) and op.shape[-1] == 2:
        places = torch.arange(count(op.shape)).reshape(-1, 2)
        first, second = (Picked(places[:, i], count(op.shape)) for i in (0, 1))
        shape = (*op.shape[:-1], 1)
        a, b = (writer.add(shape, (p, inputs[0])) for p in (first, second))
        pairs = [xs[0].map(lambda t, i=i: t.expand(op.shape).reshape(-1, 2)[:, i]) for i in (0, 1)]
        top = _larger(writer, k, a, b, *pairs)
        least = writer.sum((1.0, a), (1.0, b), (-1.0, top))
        return writer.add(op.shape, (Placed(first), least), (Placed(second), top))
    if isinstance(op, Group):
        gain = op.gain(2.0, xs[0])
        return writer.contract(k, inputs[0], gain, op.shape) if math.isfinite(gain) else None
    return None


def _larger(writer: _Writer, k: int, a: int, b: int, x: Interval, y: Interval) -> int:
    """``max(a, b) = b + phi(a - b)`` where phi is the positive part, for a in x and b in y; linear where one is always the larger."""
    difference = writer.sum((1.0, a), (-1.0, b))
    low = (x.lo >= y.hi).double()
    high = torch.maximum(low, (x.hi > y.lo).double())
    return writer.sum((1.0, writer.restrict(k, difference, 0.5 * (low + high), 0.5 * (high - low))), (1.0, b))


def _maximum(writer: _Writer, k: int, op: GroupMax, v: int, x: Interval) -> int:
    """Maxima pair by pair; an absent entry leaves the other as it is."""
    index = op.index.reshape(-1, op.index.shape[-1])
    size = writer.signals[v].size
    lo, hi = (t.expand(op.in_shapes[0]).flatten() for t in (x.lo, x.hi))
    entries = []
    for column in index.mT:
        there = column >= 0
        entry = Interval(*(torch.where(there, t[column.clamp(min=0)], 0.0) for t in (lo, hi)))
        entries.append((writer.add(op.shape, (_gather(column, size), v)), there, entry))

    def masked(v: int, keep: Tensor) -> tuple[LinearMap, int]:
        return Scaled(keep.to(torch.float64)), v

    while len(entries) > 1:
        merged = []
        for (a, has_a, of_a), (b, has_b, of_b) in zip(entries[::2], entries[1::2], strict=False):
            both = has_a & has_b
            larger = Interval(torch.maximum(of_a.lo, of_b.lo), torch.maximum(of_a.hi, of_b.hi))
            if both.all():
                merged.append((_larger(writer, k, a, b, of_a, of_b), both, larger))
                continue
            parts = [x.map(lambda t, both=both: torch.where(both, t, 0.0)) for x in (of_a, of_b)]
            first, second = (writer.add(op.shape, masked(v, both)) for v in (a, b))
            top = _larger(writer, k, first, second, parts[0], parts[1])
            rest = (masked(a, has_a & ~has_b), masked(b, has_b & ~has_a))
            alone = Interval(*(torch.where(has_a, p, q) for p, q in ((of_a.lo, of_b.lo), (of_a.hi, of_b.hi))))
            known = Interval(*(torch.where(both, p, q) for p, q in ((larger.lo, alone.lo), (larger.hi, alone.hi))))
            merged.append((writer.add(op.shape, masked(top, torch.ones_like(both)), *rest), has_a | has_b, known))
        if len(entries) % 2:
            merged.append(entries[-1])
        entries = merged
    return entries[0][0]


def _gather(index: Tensor, size: int) -> LinearMap:
    return Picked(index, size) if len(torch.unique(index[index >= 0])) == int((index >= 0).sum()) else Repeated(index, size)
