"""Reads an ONNX file to a graph: inputs, constants, and the walk over its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steepest.capture.builder import Builder, Ref, Value
from steepest.capture.onnx_file import Tensors, nested, open_model, opset
from steepest.capture.onnx_ops import lower
from steepest.capture.onnx_ops.call import Attribute, Call
from steepest.capture.onnx_ops.refused import WHY
from steepest.capture.passes import simplify
from steepest.errors import ModelError
from steepest.graph import Graph, Shape

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

Values = dict[str, Value]


def read_onnx(path: Path) -> Graph:
    """The network of an ONNX file (operators of ``ai.onnx``, versions 7 to 24) as a graph in exact real arithmetic.

    Weights become float64, exactly; whatever depends on constants alone is evaluated; a symbolic batch axis becomes one.
    Several inputs are read as parts of one flat vector, in the file's order, and several outputs are joined to one.
    Nothing is skipped: an operator, attribute or input that is not understood is refused by name. Nothing is executed,
    and external data is read from the model's folder alone.

    Args:
        path: the ``.onnx`` file.

    Raises:
        ModelError: the file is missing, damaged, unsafe or too large, or has axes of unknown length.
        UnsupportedOperatorError: an operator is not understood, or is not a Lipschitz map.
    """
    path = Path(path)
    model = open_model(path)
    return simplify(_Reader(opset(model), Tensors(path.parent)).read(model.graph))


@dataclass
class _Reader:
    """The walk over one model.

    Args:
        version: of the operators of ``ai.onnx``.
        tensors: converts the file's tensors.
    """

    version: int
    tensors: Tensors
    builder: Builder = field(default_factory=Builder)
    barred: dict[int, Tensor] = field(default_factory=dict)

    def read(self, graph: GraphProto) -> Graph:
        """The whole model."""
        values = self.inputs(graph)
        self.run(graph, values)
        self.builder.at = self.builder.operator = "output"
        results = [_named(values, o.name, "the model's output") for o in graph.output]
        for r in results:
            if isinstance(r, Ref) and r.index in self.barred:
                raise ModelError("an output of the model is minus infinity at some entries (a mask): it is not a map between numbers")
        source = Ref(0, self.builder.nodes[0].shape)
        refs = [r if isinstance(r, Ref) else self.builder.constant(source, r) for r in results]
        if len(refs) == 1:
            return self.builder.finish(refs[0])
        flat = self.builder.concat([self.builder.reshape(r, (math.prod(r.shape),)) for r in refs], 0)
        assert isinstance(flat, Ref)
        return self.builder.finish(flat)

    def inputs(self, graph: GraphProto) -> Values:
        """The one input, cut into those the model declares (initialisers listed among them are constants)."""
        constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        shapes = {i.name: _shape(i) for i in graph.input if i.name not in constants}
        if not shapes:
            raise ModelError("the model has no input: its output is a constant")
        b = self.builder
        if len(shapes) == 1:
            return {name: b.input(shape) for name, shape in shapes.items()}
        sizes = [math.prod(s) for s in shapes.values()]
        whole = b.input((sum(sizes),))
        values: Values = {}
        for (name, shape), size, start in zip(shapes.items(), sizes, (sum(sizes[:i]) for i in range(len(sizes))), strict=True):
            b.at = name
            values[name] = b.select(whole, lambda t, start=start, size=size, shape=shape: t[start : start + size].reshape(shape))
        return values

    def run(self, graph: GraphProto, values: Values) -> None:
        """Read a graph's constants and those of its nodes the outputs need; adds what they compute to ``values``."""
        needed = _needed(graph)
        for sparse in graph.sparse_initializer:
            if sparse.values.name in needed:
                raise ModelError(
                    f"the constant {sparse.values.name!r} is stored sparsely, which is not understood: export the model with dense weights"
                )
        for tensor in graph.initializer:
            if tensor.name in needed:
                values[tensor.name] = self.tensors.read(tensor, tensor.name)
        produced = [o for node in graph.node for o in node.output if o]
        if len(set(produced)) < len(produced) or not values.keys().isdisjoint(produced):
            twice = next(o for i, o in enumerate(produced) if o in values or o in produced[:i])
            raise ModelError(f"the value {twice!r} is computed twice: the file is damaged, export the model again")
        for node in graph.node:
            if needed.intersection(node.output):
                self.node(node, values, needed)

    def node(self, node: NodeProto, values: Values, needed: set[str]) -> None:
        """Lower one node."""
        self.builder.at, self.builder.operator = node.name or next(o for o in node.output if o), node.op_type
        if node.domain not in ("", "ai.onnx"):
            self.builder.operator = f"{node.domain}.{node.op_type}"
            raise self.builder.refuse("it is not an operator of ai.onnx: export the model with standard operators alone")
        inputs = [_named(values, name, f"{node.op_type} at {self.builder.at!r}") if name else None for name in node.input]
        if node.op_type == "If":
            results = self.branch(node, inputs, values)
        elif node.op_type == "Constant":
            results = (self.constant(node),)
        elif nested(node):
            raise self.builder.refuse(WHY.get(node.op_type, "it holds a graph of its own, which is not understood"))
        else:
            used = max(i for i, name in enumerate(node.output) if name in needed) + 1
            attributes = {a.name: self.attribute(a) for a in node.attribute}
            call = Call(self.builder, self.version, inputs, attributes, used if node.op_type != "Split" else len(node.output), self.barred)
            results = self.lowered(call)
            if len(results) < used:
                raise self.builder.refuse(f"its output number {used} is not understood")
        for name, value in zip(node.output, results, strict=False):
            if isinstance(value, Tensor) and node.op_type != "Constant":
                self.tensors.take(value.numel(), name)
            if name and value is not None:
                values[name] = value

    def lowered(self, call: Call) -> tuple[Value | None, ...]:
        """The rule's result; what torch cannot compute with is a damaged model."""
        try:
            return lower(call)
        except (RuntimeError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(
                f"{self.builder.operator} at {self.builder.at!r} does not fit its inputs ({reason}): export the model again"
            ) from error

    def branch(self, node: NodeProto, inputs: list[Value | None], values: Values) -> tuple[Value | None, ...]:
        """The branch of an If that a constant condition takes."""
        condition = inputs[0]
        if not isinstance(condition, Tensor):
            raise self.builder.refuse(WHY["If"])
        name = "then_branch" if bool(condition.any()) else "else_branch"
        taken = next((a.g for a in node.attribute if a.name == name), None)
        if taken is None:
            raise ModelError(f"If at {self.builder.at!r} has no {name}: the file is damaged, export the model again")
        inner = dict(values)
        self.run(taken, inner)
        return tuple(_named(inner, o.name, f"the {name} of {node.name!r}") for o in taken.output)

    def constant(self, node: NodeProto) -> Tensor:
        """A Constant node's value."""
        if len(node.attribute) == 1:
            attribute = node.attribute[0]
            value = self.attribute(attribute)
            if attribute.name == "value" and isinstance(value, Tensor):
                return value
            if attribute.name in ("value_float", "value_floats") and isinstance(value, float | tuple):
                return torch.tensor(value, dtype=torch.float64)
            if attribute.name in ("value_int", "value_ints") and isinstance(value, int | tuple):
                return torch.tensor(value, dtype=torch.int64)
        raise self.builder.refuse("it holds neither numbers nor a dense tensor of them")

    def attribute(self, proto: AttributeProto) -> Attribute:
        """An attribute's value."""
        from onnx import AttributeProto

        if proto.ref_attr_name:
            raise self.builder.refuse(f"its attribute {proto.name!r} refers to a function's")
        if proto.type == AttributeProto.FLOAT:
            return float(proto.f)
        if proto.type == AttributeProto.INT:
            return int(proto.i)
        if proto.type == AttributeProto.STRING:
            return proto.s.decode("utf-8", "replace")
        if proto.type == AttributeProto.TENSOR:
            return self.tensors.read(proto.t, self.builder.at)
        if proto.type == AttributeProto.FLOATS:
            return tuple(float(v) for v in proto.floats)
        if proto.type == AttributeProto.INTS:
            return tuple(int(v) for v in proto.ints)
        if proto.type == AttributeProto.STRINGS:
            return tuple(v.decode("utf-8", "replace") for v in proto.strings)
        raise self.builder.refuse(f"its attribute {proto.name!r} is of a kind that is not understood")


def _shape(info: ValueInfoProto) -> Shape:
    """The shape of one sample: a leading axis of unknown length is the batch and becomes one."""
    from onnx import TensorProto

    kind = info.type.tensor_type
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if not info.type.HasField("tensor_type") or kind.elem_type not in floats:
        known = info.type.HasField("tensor_type") and kind.elem_type in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(kind.elem_type) if known else "no tensor"
        raise ModelError(
            f"the input {info.name!r} is of type {name}; a network between real numbers has float inputs: export it behind its embedding"
        )
    if not kind.HasField("shape"):
        raise ModelError(f"the input {info.name!r} states no shape: export the model with a fixed input size")
    shape = []
    for axis, dim in enumerate(kind.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(int(dim.dim_value))
        elif axis == 0:
            shape.append(1)
        else:
            name = dim.dim_param or "no name"
            raise ModelError(
                f"axis {axis} of the input {info.name!r} has no fixed length ({name}): export the model with a fixed input size"
            )
    if math.prod(shape) > 2**27:
        raise ModelError(f"the input {info.name!r} has the shape {shape}, which is too large to be taken")
    return tuple(shape)


def _named(values: Values, name: str, reader: str) -> Value:
    if name not in values:
        raise ModelError(f"{reader} reads {name!r}, which nothing before it computes: the file is damaged, export the model again")
    return values[name]


def _needed(graph: GraphProto) -> set[str]:
    """Names the outputs depend on; everything else is never read."""
    needed = {o.name for o in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(o for o in node.output if o):
            needed.update(_read(node))
    return needed


def _read(node: NodeProto) -> Iterable[str]:
    """Names a node reads, those its nested graphs take from outside included."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield from (name for name in current.input if name)
        for graph in nested(current):
            yield from (o.name for o in graph.output)
            stack.extend(graph.node)
