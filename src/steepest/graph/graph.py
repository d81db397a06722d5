"""A network as operators in topological order, and the walks over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from steepest.graph.operator import Input, Operator, Shape
from steepest.numerics.interval import Interval
from steepest.results.record import NetworkRecord, NodeRecord


@dataclass(frozen=True)
class Node:
    """An operator and where its inputs come from (indices of earlier nodes)."""

    name: str
    op: Operator
    inputs: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """Shape of the node's output."""
        return self.op.shape


@dataclass(frozen=True)
class Graph:
    """A map from one tensor to one tensor. ``nodes[0]`` is the input, ``nodes[-1]`` the output.

    Shapes are those of a single sample, with the model's own batch axis of one where it has one.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        assert isinstance(self.nodes[0].op, Input)
        for index, node in enumerate(self.nodes[1:], start=1):
            assert all(0 <= i < index for i in node.inputs), node.name
            assert tuple(self.nodes[i].shape for i in node.inputs) == node.op.in_shapes, (node.name, node.op.in_shapes)

    @property
    def entries(self) -> int:
        """Numbers in the outputs of all nodes, for one sample."""
        return sum(math.prod(node.shape) for node in self.nodes)

    @property
    def input_shape(self) -> Shape:
        """Shape of one input."""
        return self.nodes[0].shape

    @property
    def shape(self) -> Shape:
        """Shape of one output."""
        return self.nodes[-1].shape

    def evaluate(self, x: Tensor) -> Tensor:
        """The network at ``x`` of shape ``[*lead, *input_shape]``, in the dtype of ``x``."""
        values: list[Tensor | None] = [x]
        for index, node in enumerate(self.nodes[1:], start=1):
            values.append(node.op.evaluate(*(_present(values[i]) for i in node.inputs)))
            for i in self._last_uses[index]:
                values[i] = None
        return _present(values[-1])

    def enclose(self, region: Interval) -> list[Interval]:
        """Enclosures of every node's output over a region ``[*lead, *input_shape]``."""
        values = [region]
        for node in self.nodes[1:]:
            values.append(node.op.enclose(*(values[i] for i in node.inputs)))
        return values

    def record(self) -> NetworkRecord:
        """The graph written down without torch: operators, wiring, exact weights."""
        return NetworkRecord(tuple(NodeRecord(n.name, n.op.code, n.inputs, n.shape, n.op.attributes(), n.op.arrays()) for n in self.nodes))

    @cached_property
    def _last_uses(self) -> dict[int, list[int]]:
        """For each node, the inputs nobody reads after it."""
        last = {i: index for index, node in enumerate(self.nodes[1:], start=1) for i in node.inputs}
        uses: dict[int, list[int]] = {index: [] for index in range(len(self.nodes))}
        for i, index in last.items():
            uses[index].append(i)
        return uses


def depended_on(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The input and the nodes the last one depends on, in their order, renumbered."""
    used, stack = {0, len(nodes) - 1}, [len(nodes) - 1]
    while stack:
        for i in nodes[stack.pop()].inputs:
            if i not in used:
                used.add(i)
                stack.append(i)
    kept = sorted(used)
    place = {old: new for new, old in enumerate(kept)}
    return tuple(replace(nodes[i], inputs=tuple(place[j] for j in nodes[i].inputs)) for i in kept)


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
