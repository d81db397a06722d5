"""A convolutional network laid on a torus: fields, vectors, and the maps between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from steepest.proofs.checker import functions, groups
from steepest.proofs.checker.box import Array, Box
from steepest.proofs.checker.linear import Linear, NodeLike, Shape, linear_part

_LARGEST = 4096

_PAIRED = 2**28
"""Most numbers in the covariances of a pooling's entries, for maxima to be taken apart pair by pair."""

Stride = tuple[int, ...] | None
"""Positions of the input's torus per step of a field, along each axis; None for a vector."""


@dataclass(frozen=True)
class Map:
    """A linear map from one signal to another.

    Between fields ``y[i] = sum_k weight[:, :, k] x[step i + place_k]``; from a field to a vector the same at one i = 0; between vectors
    there is one k.

    Args:
        weight: ``[out, in, taps]``, each off by at most ``slack(terms) most``.
        most: of the same shape.
        terms: see above.
        places: int64 ``[taps, axes]``; empty between vectors.
        step: along each axis, None to a vector.
    """

    weight: Array
    most: Array
    terms: int
    places: Array
    step: Stride


@dataclass(frozen=True)
class Signal:
    """A field or a vector: a variable (no terms) or a sum of maps of earlier signals."""

    channels: int
    stride: Stride
    terms: tuple[tuple[Map, int], ...] = ()


@dataclass(frozen=True)
class Stage:
    """``z = middle v + w`` with ``sum t_z w^2 <= sum t_v radius^2 v^2``, over all positions; ``t`` counted by channel.

    Where ``together``, that is all that is known; otherwise it holds channel by channel.
    """

    v: int
    z: int
    middle: Array
    radius: Array
    t_v: Array
    t_z: Array
    together: bool = False


@dataclass(frozen=True)
class _Value:
    """A node's value: a signal, as a field with this support, zero beyond it where ``clean``; what ``pending`` makes of it is none."""

    signal: int
    extent: tuple[int, ...] | None = None
    clean: bool = True
    pending: tuple[tuple[Linear, Shape], ...] = ()

    @property
    def field(self) -> bool:
        return self.extent is not None and not self.pending


@dataclass
class Torus:
    """The laid out network.

    Differences of the network's signals at two inputs, extended by what the nodes' rules give outside their supports, obey all maps
    and stages: a convolution reads zeros beyond a support only where the field is zero there (``clean``), a function whose range of
    slopes holds zero may be taken to give zero there, and a maximum to give any of its entries that is there.

    Args:
        nodes: the network.
        boxes: around every node over the region.
        steps: multipliers by node.
    """

    nodes: Sequence[NodeLike]
    boxes: Sequence[Box]
    steps: Mapping[int, Array]
    signals: list[Signal] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    period: tuple[int, ...] = ()

    def lay_out(self) -> int:
        """Fill in signals and stages on the smallest torus that will do; returns the output's signal, a vector.

        Raises:
            ValueError: where the network does not fit on a torus, or the multipliers do not fit the network.
        """
        first, extent = self._entry()
        output = -1
        # The second time the period is known, and what depends on it is decided.
        for _ in range(2):
            self.signals, self.stages = [Signal(self.nodes[first].shape[1], (1,) * len(extent))], []
            self.least, self.left = list(extent), dict(self.steps)
            values = {first: _Value(0, extent)}
            for k in range(first + 1, len(self.nodes)):
                values[k] = self._value(k, self.nodes[k], [values[i] for i in self.nodes[k].inputs])
            output = self._vector(values[len(self.nodes) - 1], self.nodes[-1].shape)
            common = [math.lcm(*(s.stride[a] for s in self.signals if s.stride is not None)) for a in range(len(extent))]
            self.period = tuple(-(-n // c) * c for n, c in zip(self.least, common, strict=True))
        if self.left:
            raise ValueError(f"a step speaks of node {min(self.left)}, which needs no multipliers")
        return output

    def _entry(self) -> tuple[int, tuple[int, ...]]:
        """The node taken for the input: nothing but moving entries, each to one place at most, comes before it."""
        k = 0
        while True:
            readers = [j for j, node in enumerate(self.nodes) if k in node.inputs]
            shape = self.nodes[k].shape
            image = len(shape) > 2 and shape[0] == 1
            if image and any(self.nodes[j].op == "conv" for j in readers):
                return k, shape[2:]
            if len(readers) == 1 and self.nodes[readers[0]].op in ("reshape", "permute", "select"):
                linear = linear_part(self.nodes[readers[0]], shape)
                assert linear is not None
                if linear.norm(1, None) <= 1:
                    (k,) = readers
                    continue
            if image:
                return k, shape[2:]
            raise ValueError("no convolution reads the input")

    def _value(self, k: int, node: NodeLike, xs: list[_Value]) -> _Value:
        x = xs[0]
        linear = linear_part(node, self.nodes[node.inputs[0]].shape)
        if linear is not None:
            found = self._moved(node, x) if x.field else None
            return found or _Value(x.signal, x.extent, x.clean, (*x.pending, (linear, node.shape)))
        if node.op in ("add", "concat"):
            return self._joined(node, xs)
        if node.op in functions.FUNCTIONS:
            slope = functions.slope_over(node.op, node.attributes, node.arrays, self.boxes[node.inputs[0]])
            low, high = (np.broadcast_to(s, node.shape) for s in (slope.lo, slope.hi))
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ValueError("a slope is unbounded over the domain")
            if x.field:
                axes = (0, *range(2, low.ndim))
                z = self._restricted(x.signal, np.minimum(low.min(axes), 0.0), np.maximum(high.max(axes), 0.0), self._multipliers(k))
                return _Value(z, x.extent)
            v = self._vector(x, self.nodes[node.inputs[0]].shape)
            return _Value(self._restricted(v, low.ravel(), high.ravel(), self._multipliers(k)))
        if node.op in ("multiply", "matmul"):
            raise ValueError(f"node {k} is a product of branches")
        if node.op == "group_max" and x.field and node.shape[0] == 1:
            return self._maximum(k, node, x)
        gain = groups.constant(node, 2.0, [1.0], [self.boxes[i] for i in node.inputs])
        v = self._vector(x, self.nodes[node.inputs[0]].shape)
        t = self._multipliers(k, (1,))
        sizes = self.signals[v].channels, math.prod(node.shape)
        return _Value(self._contracted(v, None, gain, *(np.broadcast_to(t, (n,)) for n in sizes), together=True))

    def _multipliers(self, k: int, shape: Shape | None = None) -> Array:
        t = self.left.pop(k, None)
        if t is None:
            raise ValueError(f"node {k} has no multipliers")
        if (shape is not None and t.shape != shape) or not (np.isfinite(t) & (t > 0)).all():
            raise ValueError(f"the multipliers of node {k} are not finite, positive and of the shape they should have")
        return t

    # Linear nodes.

    def _signal(self, channels: int, stride: Stride, *terms: tuple[Map, int]) -> int:
        if stride is None and channels > _LARGEST:
            raise ValueError(f"a layer that is no field has {channels} entries")
        self.signals.append(Signal(channels, stride, terms))
        return len(self.signals) - 1

    def _between(self, source: int, weight: Array, places: Array, step: tuple[int, ...]) -> int:
        stride = self.signals[source].stride
        assert stride is not None
        found = Map(weight, np.abs(weight), 0, places, step)
        return self._signal(len(weight), tuple(a * b for a, b in zip(stride, step, strict=True)), (found, source))

    def _vector(self, x: _Value, shape: Shape) -> int:
        if x.extent is None and not x.pending:
            return x.signal
        size = math.prod(shape)
        if size > _LARGEST:
            raise ValueError(f"a layer that is no field has {size} entries")
        rows = np.eye(size).reshape(size, *shape)
        most, terms = rows, 0
        for linear, _ in reversed(x.pending):
            rows, most, terms = linear.transpose(rows), linear.transpose(most, absolute=True), terms + linear.terms + 2
        channels = self.signals[x.signal].channels
        rows, most = (r.reshape(size, channels, -1) for r in (rows, most))
        places = np.zeros((1, 0), dtype=np.int64)
        if x.extent is not None:
            places = np.array(list(itertools.product(*(range(n) for n in x.extent))), dtype=np.int64).reshape(-1, len(x.extent))
        return self._signal(size, None, (Map(rows, most, terms, places, None), x.signal))

    def _moved(self, node: NodeLike, x: _Value) -> _Value | None:
        """What a linear node makes of a field, where that is a field."""
        assert x.extent is not None
        axes, channels = len(x.extent), self.signals[x.signal].channels
        unit, here = (1,) * axes, np.zeros((1, axes), dtype=np.int64)
        if node.op == "scale":
            weight = node.arrays["weight"]
            if weight.ndim != 2 + axes or math.prod(weight.shape[2:]) != 1:
                return None
            diagonal = np.diag(np.broadcast_to(weight.ravel(), (channels,)))[:, :, None]
            return _Value(self._between(x.signal, diagonal, here, unit), x.extent, x.clean)
        if node.op == "select" and len(node.shape) == 2 + axes and node.shape[:2] == (1, channels):
            found = _window(node.arrays["index"][0], x.extent)
            if found is None or any(s != 1 for s in found[1]):
                return None
            offset, out = found[0], node.shape[2:]
            before = [max(0, -o) for o in offset]
            after = [max(0, o + m - n) for o, m, n in zip(offset, out, x.extent, strict=True)]
            self._reads_beyond(x, before, after)
            self._holds(x, out)
            whole = all(o <= 0 and o + m >= n for o, m, n in zip(offset, out, x.extent, strict=True))
            moved = self._between(x.signal, np.eye(channels)[:, :, None], np.array([offset]), unit)
            return _Value(moved, out, x.clean and whole)
        a = node.attributes
        if node.op != "conv" or math.prod(node.shape[2:]) == 1 or any(m != "zeros" for m in a.get("modes") or ()):
            return None
        w = node.arrays["weight"]
        out, starts = node.shape[2:], [lo for lo, _ in a["padding"]]
        last = [(m - 1) * s + d * (k - 1) - lo for m, s, d, k, lo in zip(out, a["stride"], a["dilation"], w.shape[2:], starts, strict=True)]
        self._reads_beyond(x, starts, [max(0, e - n + 1) for e, n in zip(last, x.extent, strict=True)])
        taps = list(itertools.product(*(range(k) for k in w.shape[2:])))
        places = np.array([[d * k - lo for k, d, lo in zip(tap, a["dilation"], starts, strict=True)] for tap in taps], dtype=np.int64)
        self._holds(x, [m * s for m, s in zip(out, a["stride"], strict=True)])
        g = a["groups"]
        weight = np.zeros((g, w.shape[0] // g, g, w.shape[1], len(taps)))
        for i in range(g):
            weight[i, :, i] = w.reshape(g, w.shape[0] // g, w.shape[1], len(taps))[i]
        return _Value(self._between(x.signal, weight.reshape(len(w), channels, len(taps)), places, tuple(a["stride"])), out, False)

    def _holds(self, x: _Value, least: Sequence[int]) -> None:
        stride = self.signals[x.signal].stride
        assert stride is not None
        self.least = [max(a, s * n) for a, s, n in zip(self.least, stride, least, strict=True)]

    def _reads_beyond(self, x: _Value, before: Sequence[int], after: Sequence[int]) -> None:
        """A field is read so many positions beyond its support: it must be zero there, and the torus large enough."""
        assert x.extent is not None
        if any((*before, *after)) and not x.clean:
            raise ValueError("a field is read beyond its support where it need not be zero")
        self._holds(x, [n + max(pair) for n, pair in zip(x.extent, zip(before, after, strict=True), strict=True)])

    def _joined(self, node: NodeLike, xs: list[_Value]) -> _Value:
        kinds = {(self.signals[x.signal].stride, x.extent) for x in xs}
        add = node.op == "add"
        together = all(x.field for x in xs) and len(kinds) == 1 and (add or node.attributes["axis"] == 1)
        if together:
            signals = [x.signal for x in xs]
        else:
            signals = [self._vector(x, self.nodes[i].shape) for x, i in zip(xs, node.inputs, strict=True)]
        sizes = [self.signals[s].channels for s in signals]
        if add:
            weights = [sign * np.eye(sizes[0]) for sign in node.attributes["signs"]]
        else:
            order = np.arange(sum(sizes))
            if not together:
                parts = [p.reshape(self.nodes[i].shape) for p, i in zip(np.split(order, np.cumsum(sizes)[:-1]), node.inputs, strict=True)]
                order = np.concatenate(parts, node.attributes["axis"]).ravel()
            weights = np.split(np.eye(sum(sizes))[order], np.cumsum(sizes)[:-1], 1)
        stride = self.signals[signals[0]].stride if together else None
        axes = 0 if stride is None else len(stride)
        places = np.zeros((1, axes), dtype=np.int64)
        step = None if stride is None else (1,) * axes
        terms = [(Map(w[:, :, None], np.abs(w[:, :, None]), 0, places, step), s) for w, s in zip(weights, signals, strict=True)]
        value = self._signal(len(weights[0]), stride, *terms)
        return _Value(value, xs[0].extent if together else None, all(x.clean for x in xs))

    # Nonlinear nodes.

    def _restricted(self, v: int, low: Array, high: Array, t: Array) -> int:
        if t.shape != low.shape:
            raise ValueError(f"multipliers of shape {list(low.shape)} are needed, not {list(t.shape)}")
        middle = low / 2 + high / 2
        # The difference is rounded by a little, and where it is small the range is widened by a thousandth of the largest slope.
        radius = np.maximum(np.maximum(high - middle, middle - low) * (1 + 2.0**-50), 1e-3 * max(float(np.abs([low, high]).max()), 1e-30))
        # Where one end is zero, as of a ReLU, the radius is exactly the middle.
        radius = np.where((low == 0) & (high > 0) | (high == 0) & (low < 0), np.abs(middle), radius)
        z = self._signal(self.signals[v].channels, self.signals[v].stride)
        self.stages.append(Stage(v, z, middle, radius, t, t))
        return z

    def _contracted(self, v: int, stride: Stride, gain: float, t_v: Array, t_z: Array, together: bool) -> int:
        if not math.isfinite(gain):
            raise ValueError("a node has no Lipschitz constant over the domain")
        z = self._signal(len(t_z), stride)
        size = self.signals[v].channels
        self.stages.append(Stage(v, z, np.zeros(size), np.full(size, gain), t_v, t_z, together))
        return z

    def _maximum(self, k: int, node: NodeLike, x: _Value) -> _Value:
        assert x.extent is not None
        index = node.arrays["index"][0]
        channels, stride = self.signals[x.signal].channels, self.signals[x.signal].stride
        assert stride is not None
        windows = [_window(index[..., j], x.extent) for j in range(index.shape[-1])] if len(index) == channels else [None]
        found = [w for w in windows if w is not None]
        if len(found) < len(windows) or len({w[1] for w in found}) != 1:
            raise ValueError(f"the maxima of node {k} are over no window that moves")
        places, step = [w[0] for w in found], found[0][1]
        out, coarse = node.shape[2:], tuple(a * b for a, b in zip(stride, step, strict=True))
        self._holds(x, [max(n, m * s) for n, m, s in zip(x.extent, out, step, strict=True)])
        # A window of one entry leaves nothing to bound.
        t = self._multipliers(k) if len(places) > 1 or k in self.left else np.zeros((0, channels))
        if t.shape == (channels,):
            # Squares of the maxima add up to at most those of the entries times the windows that each is in.
            gain = groups.constant(node, 2.0, [1.0], [self.boxes[i] for i in node.inputs])
            return _Value(self._contracted(x.signal, coarse, gain, t, t, together=False), out)
        if t.shape != (len(places) - 1, channels):
            raise ValueError(f"the multipliers of node {k} have a shape that fits no form of a maximum")
        positions = math.prod(n // s for n, s in zip(self.period or self.least, coarse, strict=True))
        if positions * (len(places) * channels) ** 2 > _PAIRED:
            raise ValueError(f"the maxima of node {k} are too many to be taken pair by pair")
        unit, here, eye = (1,) * len(step), np.zeros((1, len(step)), dtype=np.int64), np.eye(channels)[:, :, None]
        entries = [self._between(x.signal, eye, np.array([p]), step) for p in places]
        plus, minus = Map(eye, eye, 0, here, unit), Map(-eye, eye, 0, here, unit)
        zero, used = np.zeros(channels), 0
        while len(entries) > 1:
            merged = []
            for a, b in zip(entries[::2], entries[1::2], strict=False):
                part = self._restricted(self._signal(channels, coarse, (plus, a), (minus, b)), zero, zero + 1, t[used])
                merged.append(self._signal(channels, coarse, (plus, part), (plus, b)))
                used += 1
            entries = merged + ([entries[-1]] if len(entries) % 2 else [])
        return _Value(entries[0], out, x.clean and self._cleared(x, places, step, out))

    def _cleared(self, x: _Value, places: list[tuple[int, ...]], step: tuple[int, ...], out: Shape) -> bool:
        """Whether windows beyond the maxima's support each hold an entry beyond that of what they read, which is zero."""
        stride = self.signals[x.signal].stride
        assert stride is not None and x.extent is not None
        if not self.period:
            return True
        return all(
            any((s * i + p[a]) % (n // c) >= e for p in places)
            for a, (s, n, c, e) in enumerate(zip(step, self.period, stride, x.extent, strict=True))
            for i in range(out[a], n // c // s)
        )


def _window(index: Array, extent: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Place and step with ``index[c, i]`` that of ``(c, step i + place)``, -1 where that lies beyond the extent; or None."""
    if index.ndim != 1 + len(extent):
        return None
    seen = np.argwhere(index[0] >= 0)
    if len(seen) == 0:
        return None
    at = np.array(np.unravel_index(index[0][tuple(seen.T)] % math.prod(extent), extent)).T
    place, step = [], []
    for i, p in zip(seen.T, at.T, strict=True):
        low, high = i.argmin(), i.argmax()
        s = int((p[high] - p[low]) // (i[high] - i[low])) if i[high] > i[low] else 1
        if s < 1:
            return None
        step.append(s)
        place.append(int(p[low] - s * i[low]))
    grid = np.meshgrid(*(s * np.arange(m) + o for s, m, o in zip(step, index.shape[1:], place, strict=True)), indexing="ij")
    inside = np.logical_and.reduce([(g >= 0) & (g < n) for g, n in zip(grid, extent, strict=True)])
    flat = np.ravel_multi_index([np.clip(g, 0, n - 1) for g, n in zip(grid, extent, strict=True)], extent)
    channel = np.arange(len(index)).reshape(-1, *[1] * len(extent)) * math.prod(extent)
    return (tuple(place), tuple(step)) if np.array_equal(np.where(inside, flat + channel, -1), index) else None
