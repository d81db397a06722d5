"""A network as linear maps closed over slope-restricted nonlinearities: a Lur'e system, written out as matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph, Node
from steepest.numerics.interval import Interval
from steepest.ops.group_max import GroupMax
from steepest.ops.group_sort import GroupSort
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Elementwise, Group, count


@dataclass(frozen=True, eq=False)
class Part:
    """The constraints of one node.

    Args:
        node: its index.
        first, last: range of its multipliers among all.
        shape: how they are laid out in a certificate.
        free: bool, flattened: the entries that have one; the others have a fixed slope and are linear.
    """

    node: int
    first: int
    last: int
    shape: tuple[int, ...]
    free: Tensor

    def laid_out(self, t: Tensor) -> Tensor:
        """All multipliers of the node among those of the network, zero where the slope is fixed."""
        full = torch.zeros(self.free.shape, dtype=torch.float64)
        full[self.free] = t[self.first : self.last]
        return full.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class LureForm:
    """Differences of a network's variables under quadratic constraints.

    The variables are ``xi = (x, z)``: the input and the outputs of all nonlinearities, ``N`` numbers. For two inputs of the
    region, the difference d of their variables obeys, for every multiplier j,
    ``sum_{i in j} (G_i d)^2 <= sum_{i in j} (H_i d)^2``, and the output's difference is ``C d``. For an activation with slopes in
    ``[c - r, c + r]`` and input ``V d``: ``G = e - c V``, ``H = r V``; a map that is only known to be ``gain``-Lipschitz has
    ``G = e`` and ``H = gain V`` with one multiplier for all its entries.

    Args:
        inputs: entries of x.
        G, H: ``[rows, N]``, float64; G is unit lower triangular in its last ``N - inputs`` columns.
        G_of, H_of: int64 ``[rows]``, the multiplier each row belongs to.
        C: ``[outputs, N]``.
        parts: the nodes' multipliers.
        stages: ranges of multipliers whose rows of H read only variables of earlier stages (a maximum has several).
    """

    inputs: int
    G: Tensor
    H: Tensor
    G_of: Tensor
    H_of: Tensor
    C: Tensor
    parts: tuple[Part, ...]
    stages: tuple[tuple[int, int], ...]

    @property
    def multipliers(self) -> int:
        """How many there are."""
        return self.parts[-1].last if self.parts else 0

    def decoupled(self) -> tuple[Tensor, Tensor]:
        """H and C in the variables ``(x, w = G xi)``, in which every constraint reads ``|w_j| <= |H_j (x, w)|``."""
        n, size = self.inputs, self.C.shape[1]
        change = torch.cat([torch.eye(n, size, dtype=torch.float64), self.G])
        both = torch.linalg.solve_triangular(change, torch.cat([self.H, self.C]), upper=False, left=False)
        return both[: len(self.H)], both[len(self.H) :]


class _Writer:
    """Rows of the variables seen so far; a node's value is a matrix ``[N so far, *shape]``."""

    def __init__(self, inputs: int) -> None:
        self.size = self.inputs = inputs
        self.G: list[Tensor] = []
        self.H: list[Tensor] = []
        self.G_of: list[Tensor] = []
        self.H_of: list[Tensor] = []
        self.parts: list[Part] = []
        self.stages: list[tuple[int, int]] = []
        self.free: list[Tensor] = []
        self.multipliers = 0

    def grown(self, value: Tensor) -> Tensor:
        """The value as a function of all variables so far."""
        missing = self.size - len(value)
        return value if missing == 0 else torch.cat([value, value.new_zeros(missing, *value.shape[1:])])

    def fresh(self, count_: int) -> Tensor:
        """New variables, as rows of the identity: ``[N, count]``."""
        self.size += count_
        rows = torch.zeros(self.size, count_, dtype=torch.float64)
        rows[self.size - count_ :] = torch.eye(count_, dtype=torch.float64)
        return rows

    def constrain(self, value: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
        """New variables ``z_i = phi_i(v_i)`` with slopes in ``[middle - radius, middle + radius]``; ``[N, *shape]``."""
        flat, middle, radius = value.flatten(1), middle.flatten(), radius.flatten()
        free = radius > 0
        self.free.append(free)
        z = self.fresh(int(free.sum()))
        flat = self.grown(flat)
        out = flat * middle
        if free.any():
            own = torch.arange(self.multipliers, self.multipliers + z.shape[1])
            self._add(z - out[:, free], flat[:, free] * radius[free], own, own)
            out[:, free] = z
        return out.reshape(-1, *value.shape[1:])

    def contract(self, value: Tensor, gain: float, shape: tuple[int, ...]) -> Tensor:
        """New variables ``z = phi(v)`` of which only ``|dz| <= gain |dv|`` is known."""
        z = self.fresh(count(shape))
        self.free.append(torch.ones(1, dtype=torch.bool))
        flat = self.grown(value.flatten(1))
        own = self.multipliers
        self._add(z, gain * flat, torch.full((z.shape[1],), own), torch.full((flat.shape[1],), own))
        return z.reshape(-1, *shape)

    def _add(self, g: Tensor, h: Tensor, g_of: Tensor, h_of: Tensor) -> None:
        self.G.append(g.T)
        self.H.append(h.T)
        self.G_of.append(g_of)
        self.H_of.append(h_of)
        self.stages.append((self.multipliers, int(g_of.max()) + 1))
        self.multipliers = self.stages[-1][1]

    def close(self, node: int, first: int, shape: tuple[int, ...]) -> None:
        """Note which multipliers a node added."""
        if self.free:
            self.parts.append(Part(node, first, self.multipliers, shape, torch.cat(self.free)))
            self.free = []


def variables(graph: Graph) -> int:
    """How many variables the Lur'e form of a graph has."""
    total = count(graph.input_shape)
    for node in graph.nodes[1:]:
        if isinstance(node.op, GroupMax):
            total += count(node.shape) * (node.op.index.shape[-1] - 1)
        elif isinstance(node.op, GroupSort) and node.shape[-1] == 2:
            total += count(node.shape) // 2
        elif isinstance(node.op, (Elementwise, Group)):
            total += count(node.shape)
    return total


def lure_form(graph: Graph, xs: list[Interval]) -> LureForm | None:
    """Write a graph out over a region, or None where a node has no finite constant or is no map of one input.

    Args:
        graph: the network.
        xs: enclosures of every node over the region, of one sample.
    """
    writer = _Writer(count(graph.input_shape))
    values: list[Tensor | None] = [torch.eye(writer.inputs, dtype=torch.float64).reshape(-1, *graph.input_shape)]
    last = {i: k for k, node in enumerate(graph.nodes) for i in node.inputs}
    for k, node in enumerate(graph.nodes[1:], start=1):
        first = writer.multipliers
        value = _value(writer, node, [_present(values[i]) for i in node.inputs], [xs[i] for i in node.inputs])
        if value is None:
            return None
        values.append(value)
        if isinstance(node.op, GroupMax):
            shape: tuple[int, ...] = (node.op.index.shape[-1] - 1, *node.shape)
        elif isinstance(node.op, GroupSort) and node.shape[-1] == 2:
            shape = (*node.shape[:-1], 1)
        else:
            shape = node.shape if isinstance(node.op, Elementwise) else (1,)
        writer.close(k, first, shape)
        for i in node.inputs:
            if last[i] == k:
                values[i] = None
    size = writer.size
    wide = [torch.cat([m, m.new_zeros(len(m), size - m.shape[1])], 1) for m in (*writer.G, *writer.H)]
    none = torch.zeros(0, size, dtype=torch.float64)
    half = len(writer.G)
    return LureForm(
        writer.inputs,
        torch.cat([*wide[:half], none]),
        torch.cat([*wide[half:], none]),
        torch.cat([*writer.G_of, torch.zeros(0, dtype=torch.int64)]),
        torch.cat([*writer.H_of, torch.zeros(0, dtype=torch.int64)]),
        writer.grown(_present(values[-1]).flatten(1)).T.contiguous(),
        tuple(writer.parts),
        tuple(writer.stages),
    )


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _value(writer: _Writer, node: Node, inputs: list[Tensor], xs: list[Interval]) -> Tensor | None:
    op = node.op
    if isinstance(op, Affine):
        return op.linear(inputs[0])
    if isinstance(op, (Add, Concat)):
        return op.evaluate(*(writer.grown(v) for v in inputs))
    if isinstance(op, Elementwise):
        slopes = op.slopes(xs[0])
        middle, radius = slopes.lo / 2 + slopes.hi / 2, slopes.hi / 2 - slopes.lo / 2
        if not (torch.isfinite(middle).all() and torch.isfinite(radius).all()):
            return None
        return writer.constrain(inputs[0], middle.expand(op.shape), radius.expand(op.shape))
    if isinstance(op, GroupMax):
        return _maximum(writer, op, inputs[0])
    if isinstance(op, GroupSort) and op.shape[-1] == 2:
        first, second = inputs[0][..., :1], inputs[0][..., 1:]
        top = _larger(writer, first, second)
        return torch.cat([writer.grown(first) + writer.grown(second) - top, top], -1)
    if isinstance(op, Group):
        gain = op.gain(2.0, xs[0])
        return writer.contract(inputs[0], gain, op.shape) if math.isfinite(gain) else None
    return None


def _larger(writer: _Writer, a: Tensor, b: Tensor) -> Tensor:
    """``max(a, b)`` as new variables: ``(a + b) / 2 + |a - b| / 2``, a map of ``a - b`` with slopes in [0, 1] beside b."""
    difference, b = a - b, b
    half = torch.full(difference.shape[1:], 0.5, dtype=torch.float64)
    return writer.constrain(difference, half, half) + writer.grown(b)


def _maximum(writer: _Writer, op: GroupMax, x: Tensor) -> Tensor:
    """Maxima pair by pair; an absent entry leaves the other as it is."""
    flat = x.flatten(1)
    index = op.index.reshape(-1, op.index.shape[-1])
    entries = [(flat[:, index[:, k].clamp(min=0)] * (index[:, k] >= 0), index[:, k] >= 0) for k in range(index.shape[1])]
    while len(entries) > 1:
        merged = []
        for (a, has_a), (b, has_b) in zip(entries[::2], entries[1::2], strict=False):
            both = has_a & has_b
            a, b = writer.grown(a), writer.grown(b)
            top = _larger(writer, a * both, b * both)
            merged.append((top + writer.grown(a * (has_a & ~has_b) + b * (has_b & ~has_a)), has_a | has_b))
        if len(entries) % 2:
            merged.append(entries[-1])
        entries = merged
    return writer.grown(entries[0][0]).reshape(-1, *op.shape)
