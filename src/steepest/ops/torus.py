"""A convolutional network as a Lur'e system on a torus, on which one multiplier per channel is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product

import torch
from torch import Tensor

from steepest.graph import Graph, Node
from steepest.graph.operator import Shape
from steepest.numerics.interval import Interval
from steepest.ops.conv import Conv
from steepest.ops.group_max import GroupMax
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Elementwise, Group, Rearrangement, count
from steepest.ops.lure import Stage
from steepest.ops.rearrange import Select
from steepest.ops.scale import Scale
from steepest.ops.signals import unit_rows
from steepest.ops.torus_maps import Diagonal, Frequencies, Matrix, Rows, Stride, Taps, TorusMap

_LARGEST_VECTOR = 4096
_PAIRED = 2**27
"""Most numbers in the covariances of a pooling's entries, for maxima to be taken apart pair by pair."""


class Unfit(Exception):
    """The network has no such form; the message says why."""


@dataclass(frozen=True, eq=False)
class TorusSignal:
    """A field or a vector: a variable (no terms), or a sum of maps of earlier signals."""

    channels: int
    stride: Stride
    terms: tuple[tuple[TorusMap, int], ...] = ()


@dataclass(frozen=True, eq=False)
class TorusPart:
    """The multipliers of one node, ``first`` to ``last`` among all, laid out in ``shape`` in a certificate."""

    node: int
    first: int
    last: int
    shape: Shape


@dataclass(frozen=True, eq=False)
class TorusSystem:
    """Differences of a network's signals at two inputs, laid on a torus.

    Every field of the network is the part of one on the torus, its support; a pair of inputs of the network gives a trajectory of
    this system, so what bounds all its trajectories bounds the network. Convolutions act as circular ones: a zero-padded one reads
    zeros outside its input's support, if that field is zero there, and no index goes round far enough to meet the support again.
    Outside the support a convolution gives anything; a nonlinearity whose slopes may be zero makes it zero again. Slope ranges
    are therefore widened to hold zero, and are common to all positions of a channel. A maximum over a window takes one of its
    entries or a mean of them, whatever is absent there.

    Args:
        frequencies: of the torus.
        signals: the input first.
        stages: in an order in which they can be taken.
        output: a vector.
        parts: the nodes' multipliers.
    """

    frequencies: Frequencies
    signals: tuple[TorusSignal, ...]
    stages: tuple[Stage, ...]
    output: int
    parts: tuple[TorusPart, ...]


@dataclass(frozen=True)
class _Value:
    """A node's value: a signal; where ``extent`` is set, a field with that support, and zero outside it if ``clean``.

    ``pending`` are affine operators not yet applied: what they give is no field, and may become a vector.
    """

    signal: int
    extent: tuple[int, ...] | None = None
    clean: bool = True
    pending: tuple[Affine, ...] = ()


def torus_system(graph: Graph, xs: list[Interval]) -> TorusSystem:
    """Lay a network out on the smallest torus that holds it.

    Args:
        graph: the network.
        xs: enclosures of every node over the region, of one sample.

    Raises:
        Unfit: where an operator is none that commutes with shifts, or a field of another resolution is read across a nonlinearity.
    """
    first, extent = _entry(graph)
    # The first layout only learns how large the torus has to be.
    probe = _Layout(graph, xs, first, extent, None)
    probe.build()
    period = probe.smallest_period()
    return _Layout(graph, xs, first, extent, period).build()


def _entry(graph: Graph) -> tuple[int, tuple[int, ...]]:
    """The first node that is taken for the input: entries moved, none copied, before anybody reads them otherwise."""
    readers: dict[int, list[int]] = {}
    for k, node in enumerate(graph.nodes[1:], start=1):
        for i in node.inputs:
            readers.setdefault(i, []).append(k)
    k = 0
    while True:
        shape = graph.nodes[k].shape
        following = [graph.nodes[j].op for j in readers.get(k, [])]
        if len(shape) > 2 and shape[0] == 1 and any(isinstance(op, Conv) for op in following):
            return k, shape[2:]
        if len(following) == 1 and isinstance(following[0], Rearrangement) and following[0].copies() <= 1:
            (k,) = readers[k]
            continue
        if len(shape) > 2 and shape[0] == 1 and all(isinstance(op, (Scale, Add, Elementwise)) for op in following):
            return k, shape[2:]
        raise Unfit("no convolution reads the input")


class _Layout:
    def __init__(self, graph: Graph, xs: list[Interval], first: int, extent: tuple[int, ...], period: tuple[int, ...] | None) -> None:
        self.graph, self.xs, self.first, self.period = graph, xs, first, period
        self.axes = len(extent)
        unit: tuple[int, ...] = (1,) * self.axes
        self.signals = [TorusSignal(graph.nodes[first].shape[1], unit)]
        self.values: dict[int, _Value] = {first: _Value(0, extent)}
        self.stages: list[Stage] = []
        self.parts: list[TorusPart] = []
        self.multipliers = 0
        self.least = list(extent)
        self.strides: set[tuple[int, ...]] = {unit}

    def smallest_period(self) -> tuple[int, ...]:
        common = [math.lcm(*(s[a] for s in self.strides)) for a in range(self.axes)]
        return tuple(-(-n // c) * c for n, c in zip(self.least, common, strict=True))

    def build(self) -> TorusSystem:
        for k in range(self.first + 1, len(self.graph.nodes)):
            node = self.graph.nodes[k]
            before = self.multipliers
            shape = self._node(k, node, [self.values[i] for i in node.inputs])
            if self.multipliers > before:
                self.parts.append(TorusPart(k, before, self.multipliers, shape))
        output = self._vector(self.values[len(self.graph.nodes) - 1])
        period = self.period or self.smallest_period()
        coarse = tuple(n // math.lcm(*(s[a] for s in self.strides)) for a, n in enumerate(period))
        return TorusSystem(Frequencies(period, coarse), tuple(self.signals), tuple(self.stages), output, tuple(self.parts))

    # Values of nodes.

    def _node(self, k: int, node: Node, xs: list[_Value]) -> Shape:
        """Give the node its value; returns the layout of its multipliers, where it has any."""
        op, x = node.op, xs[0]
        field = x.extent is not None and not x.pending
        shape: Shape = (1,)
        if isinstance(op, Affine):
            value = self._affine(op, x) if field else None
            self.values[k] = value or replace(x, pending=(*x.pending, op))
        elif isinstance(op, (Add, Concat)):
            self.values[k] = self._join(op, xs)
        elif isinstance(op, Elementwise):
            slopes = op.slopes(self.xs[node.inputs[0]])
            low, high = slopes.lo.expand(op.shape), slopes.hi.expand(op.shape)
            if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
                raise Unfit("a slope is unbounded over the domain")
            if field:
                by_channel = (low.flatten(2).amin((0, 2)).clamp(max=0.0), high.flatten(2).amax((0, 2)).clamp(min=0.0))
                z = self._restrict(k, x.signal, *by_channel)
                self.values[k] = _Value(z, x.extent, True)
            else:
                self.values[k] = _Value(self._restrict(k, self._vector(x), low.flatten(), high.flatten()))
            shape = (self.signals[self.values[k].signal].channels,)
        elif isinstance(op, GroupMax) and field and op.shape[0] == 1:
            self.values[k], shape = self._maximum(k, op, x)
        elif isinstance(op, Group):
            gain = op.gain(2.0, self.xs[node.inputs[0]])
            if not math.isfinite(gain):
                raise Unfit("a node has no Lipschitz constant over the domain")
            v = self._vector(x)
            size, ones = self.signals[v].channels, torch.full((1,), self.multipliers)
            z = self._contract(k, v, None, gain, count(op.shape), ones.expand(size), ones.expand(count(op.shape)))
            self.values[k] = _Value(z)
        else:
            raise Unfit(f"operator {op.code} of node {node.name!r} is a product of branches")
        return shape

    def _add(self, channels: int, stride: Stride, *terms: tuple[TorusMap, int]) -> int:
        if stride is not None:
            self.strides.add(stride)
        elif channels > _LARGEST_VECTOR:
            raise Unfit(f"a layer that is no field has {channels} entries")
        self.signals.append(TorusSignal(channels, stride, terms))
        return len(self.signals) - 1

    def _through(self, source: int, taps: Taps) -> int:
        stride = self.signals[source].stride
        assert stride is not None
        return self._add(taps.weight.shape[0], tuple(a * b for a, b in zip(stride, taps.step, strict=True)), (taps, source))

    def _vector(self, x: _Value) -> int:
        """The signal of a value as a vector."""
        if x.extent is None and not x.pending:
            return x.signal
        shape = x.pending[-1].shape if x.pending else (1, self.signals[x.signal].channels, *(x.extent or ()))
        if count(shape) > _LARGEST_VECTOR:
            raise Unfit(f"a layer that is no field has {count(shape)} entries")
        rows = unit_rows(count(shape), 0, count(shape)).reshape(-1, *shape)
        for op in reversed(x.pending):
            rows = op.adjoint(rows)
        channels = self.signals[x.signal].channels
        if x.extent is None:
            return self._add(len(rows), None, (Matrix(rows.reshape(len(rows), channels)), x.signal))
        return self._add(len(rows), None, (Rows(rows.reshape(len(rows), channels, *x.extent)), x.signal))

    def _affine(self, op: Affine, x: _Value) -> _Value | None:
        """What an affine operator makes of a field, if that is a field."""
        assert x.extent is not None
        channels = self.signals[x.signal].channels
        if isinstance(op, Conv):
            return self._conv(op, x) if op.in_shapes[0][0] == 1 and all(m == "zeros" for m in op.modes) else None
        if isinstance(op, Scale) and op.weight.ndim == 2 + self.axes and count(tuple(op.weight.shape[2:])) == 1:
            return replace(x, signal=self._sum((op.weight.flatten().expand(channels), x.signal)))
        if isinstance(op, Select) and len(op.shape) == 2 + self.axes:
            return self._shifted(op, x)
        return None

    def _zero(self) -> Tensor:
        return torch.zeros(1, self.axes, dtype=torch.int64)

    def _holds(self, x: _Value, least: tuple[int, ...]) -> None:
        """The torus of a field must have so many positions."""
        stride = self.signals[x.signal].stride
        assert stride is not None
        self.least = [max(a, s * n) for a, s, n in zip(self.least, stride, least, strict=True)]

    def _conv(self, op: Conv, x: _Value) -> _Value | None:
        assert x.extent is not None
        g = op.kernel.geometry
        out = g.out_size
        if count(out) == 1:
            return None
        reach = [
            (lo, max(0, (m - 1) * s + d * (k - 1) - lo - (n - 1)))
            for lo, m, s, d, k, n in zip((p[0] for p in g.padding), out, g.stride, g.dilation, g.kernel, g.size, strict=True)
        ]
        if any(a or b for a, b in reach) and not x.clean:
            raise Unfit("a padded convolution reads a field that no nonlinearity has made zero outside its support")
        self._holds(x, tuple(max(n + max(pair), m * s) for n, pair, m, s in zip(x.extent, reach, out, g.stride, strict=True)))
        taps = list(product(*(range(k) for k in g.kernel)))
        offset = torch.tensor([[d * k - lo for k, d, (lo, _) in zip(tap, g.dilation, g.padding, strict=True)] for tap in taps])
        size, inside = op.weight.shape[:2]
        weight = op.weight.new_zeros(op.groups, size // op.groups, op.groups, inside, len(taps))
        for group in range(op.groups):
            weight[group, :, group] = op.weight.reshape(op.groups, size // op.groups, inside, -1)[group]
        signal = self._through(x.signal, Taps(weight.reshape(size, -1, len(taps)), offset, g.stride))
        return _Value(signal, out, False)

    def _shifted(self, op: Select, x: _Value) -> _Value | None:
        """A pad or a slice: the same field seen from another origin."""
        assert x.extent is not None
        channels = self.signals[x.signal].channels
        found = _translation(op.index[0], channels, x.extent, 1)
        if found is None or op.index.shape[1] != channels or any(s != 1 for s in found[1]):
            return None
        offset, _ = found
        out = tuple(op.shape[2:])
        reads = [(max(0, -o), max(0, o + m - n)) for o, m, n in zip(offset, out, x.extent, strict=True)]
        if any(a or b for a, b in reads) and not x.clean:
            raise Unfit("padding is put around a field that is not zero outside its support")
        self._holds(x, tuple(max(m, n + max(r)) for m, n, r in zip(out, x.extent, reads, strict=True)))
        weight = torch.eye(channels, dtype=torch.float64)[:, :, None]
        signal = self._through(x.signal, Taps(weight, torch.tensor([offset]), (1,) * self.axes))
        whole = all(o <= 0 and o + m >= n for o, m, n in zip(offset, out, x.extent, strict=True))
        return _Value(signal, out, x.clean and whole)

    def _join(self, op: Add | Concat, xs: list[_Value]) -> _Value:
        kinds = {(self.signals[x.signal].stride, x.extent) for x in xs if x.extent is not None and not x.pending}
        fields = len(kinds) == 1 and all(x.extent is not None and not x.pending for x in xs) and (isinstance(op, Add) or op.axis == 1)
        signals = [x.signal for x in xs] if fields else [self._vector(x) for x in xs]
        extent, clean = (xs[0].extent, all(x.clean for x in xs)) if fields else (None, True)
        if isinstance(op, Add):
            return _Value(self._sum(*zip(map(float, op.signs), signals, strict=True)), extent, clean)
        sizes = [self.signals[s].channels for s in signals]
        stride = self.signals[signals[0]].stride
        if fields:
            parts = torch.eye(sum(sizes), dtype=torch.float64)[:, :, None].split(sizes, 1)
            maps: list[TorusMap] = [Taps(p, self._zero(), (1,) * self.axes) for p in parts]
        else:
            order = op.evaluate(*(t.reshape(s) for t, s in zip(torch.arange(sum(sizes)).split(sizes), op.in_shapes, strict=True)))
            maps = [Matrix(p) for p in torch.eye(sum(sizes), dtype=torch.float64)[order.flatten()].split(sizes, 1)]
        return _Value(self._add(sum(sizes), stride, *zip(maps, signals, strict=True)), extent, clean)

    def _sum(self, *terms: tuple[float | Tensor, int]) -> int:
        """``sum weight x`` of signals of one kind, channel by channel."""
        like = self.signals[terms[0][1]]
        one = torch.ones(like.channels, dtype=torch.float64)
        return self._add(like.channels, like.stride, *((Diagonal(w * one), s) for w, s in terms))

    # Nonlinearities.

    def _restrict(self, k: int, v: int, low: Tensor, high: Tensor) -> int:
        channels, stride = self.signals[v].channels, self.signals[v].stride
        z = self._add(channels, stride)
        own = torch.arange(self.multipliers, self.multipliers + channels)
        self.multipliers += channels
        radius = high / 2 - low / 2
        # A slope that hardly varies is widened a little, so that every channel is treated alike.
        radius = torch.maximum(radius, 1e-3 * torch.maximum(low.abs(), high.abs()).max().clamp(min=1e-30))
        self.stages.append(Stage(k, v, z, low / 2 + high / 2, radius, own, own))
        return z

    def _contract(self, k: int, v: int, stride: Stride, gain: float, channels: int, v_of: Tensor, z_of: Tensor) -> int:
        z = self._add(channels, stride)
        size = self.signals[v].channels
        self.multipliers = int(z_of[-1]) + 1
        zero = torch.zeros(size, dtype=torch.float64)
        self.stages.append(Stage(k, v, z, zero, zero + gain, v_of, z_of))
        return z

    def _maximum(self, k: int, op: GroupMax, x: _Value) -> tuple[_Value, Shape]:
        assert x.extent is not None
        channels, out = self.signals[x.signal].channels, tuple(op.shape[2:])
        index, extent = op.index[0], x.extent
        windows = [_translation(index[..., j], channels, extent, None) for j in range(index.shape[-1])]
        if index.shape[0] != channels or len(out) != self.axes or any(w is None for w in windows):
            raise Unfit("a maximum is taken over no window that moves")
        offsets = [w[0] for w in windows if w is not None]
        step = next(w[1] for w in windows if w is not None)
        if any(w[1] != step for w in windows if w is not None):
            raise Unfit("a maximum is taken over no window that moves")
        stride = self.signals[x.signal].stride
        assert stride is not None
        coarse = tuple(a * b for a, b in zip(stride, step, strict=True))
        self.strides.add(coarse)
        self._holds(x, tuple(max(n, m * s) for n, m, s in zip(extent, out, step, strict=True)))
        value = _Value(-1, out, x.clean and self._clears(x, offsets, step, out))
        positions = math.prod(n // s for n, s in zip(self.period or self.smallest_period(), coarse, strict=True))
        if positions * (len(offsets) * channels) ** 2 > _PAIRED:
            # Squares of the maxima of a channel add up to those of its entries times the windows that each is in.
            own = torch.arange(self.multipliers, self.multipliers + channels)
            z = self._contract(k, x.signal, coarse, op.gain(2.0, self.xs[self.graph.nodes[k].inputs[0]]), channels, own, own)
            return _Value(z, out, True), (channels,)
        eye = torch.eye(channels, dtype=torch.float64)[:, :, None]
        entries = [self._through(x.signal, Taps(eye, torch.tensor([o]), step)) for o in offsets]
        zero = torch.zeros(channels, dtype=torch.float64)
        while len(entries) > 1:
            merged = []
            for a, b in zip(entries[::2], entries[1::2], strict=False):
                part = self._restrict(k, self._sum((1.0, a), (-1.0, b)), zero, zero + 1.0)
                merged.append(self._sum((1.0, part), (1.0, b)))
            entries = merged + ([entries[-1]] if len(entries) % 2 else [])
        return replace(value, signal=entries[0]), (len(offsets) - 1, channels)

    def _clears(self, x: _Value, offsets: list[tuple[int, ...]], step: tuple[int, ...], out: tuple[int, ...]) -> bool:
        """Whether every window beyond the support of the maxima has an entry beyond that of what it reads, which is zero there."""
        stride = self.signals[x.signal].stride
        assert stride is not None and x.extent is not None
        if self.period is None:
            return True
        return all(
            any((s * i + o[a]) % (n // c) >= e for o in offsets)
            for a, (s, n, c, e) in enumerate(zip(step, self.period, stride, x.extent, strict=True))
            for i in range(out[a], n // c // s)
        )


def _translation(index: Tensor, channels: int, extent: tuple[int, ...], step: int | None) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Offset and step with ``index[c, i] = (c, step i + offset)``, or -1 where that is beyond the extent; None where there are none.

    Args:
        index: int64 ``[channels, *out]`` into flattened ``[channels, *extent]``.
        channels: of what is read.
        extent: likewise.
        step: where it is known, for every axis.
    """
    if index.shape[0] != channels or index.ndim != 1 + len(extent):
        return None
    size = math.prod(extent)
    there = index[0] >= 0
    offsets, steps = [], []
    for a, n in enumerate(extent):
        inner = math.prod(extent[a + 1 :])
        others = tuple(i for i in range(there.ndim) if i != a)
        line = torch.where(there, (index[0] // inner) % n, -1)
        line = line.amax(others) if others else line
        found = (line >= 0).nonzero()[:, 0]
        if len(found) == 0:
            return None
        gaps = {int(line[j] - line[i]) for i, j in pairwise(found.tolist())}
        if len(gaps) > 1 or any(g <= 0 for g in gaps):
            return None
        s = gaps.pop() if gaps else (step or 1)
        steps.append(s)
        offsets.append(int(line[found[0]]) - s * int(found[0]))
    places = [s * torch.arange(m) + o for s, m, o in zip(steps, index.shape[1:], offsets, strict=True)]
    grid = torch.meshgrid(*places, indexing="ij")
    inside = torch.stack([(g >= 0) & (g < n) for g, n in zip(grid, extent, strict=True)]).all(0)
    flat = sum(g * math.prod(extent[a + 1 :]) for a, g in enumerate(grid))
    assert isinstance(flat, Tensor)
    expected = torch.where(inside, flat + size * torch.arange(channels).reshape(-1, *[1] * len(extent)), -1)
    return (tuple(offsets), tuple(steps)) if torch.equal(expected, index) else None
