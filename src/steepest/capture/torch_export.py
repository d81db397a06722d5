"""An ``nn.Module`` through ``torch.export`` to a graph."""

from __future__ import annotations

import copy
import logging
import math
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from steepest.capture.aten_ops import LOWERINGS, Call, Lowering
from steepest.capture.builder import Builder, Ref, Value
from steepest.capture.passes import simplify
from steepest.capture.replay import replay
from steepest.errors import ModelError, UnsupportedOperatorError
from steepest.graph import Graph


def from_module(model: nn.Module, sample: Tensor | tuple[Tensor, ...]) -> Graph:
    """Capture a module in evaluation mode, in float64; the module itself is not touched.

    Args:
        model: any module whose operators are known.
        sample: a batch of inputs; only the shape of its first entry counts, taken with a batch axis of one. Several inputs
            become one flat input, in order; so do several outputs.

    Raises:
        ModelError: a module that cannot be exported, has NaN weights, or changes buffers in evaluation mode.
        UnsupportedOperatorError: an operator that is not understood, by name.
    """
    samples = sample if isinstance(sample, tuple) else (sample,)
    for k, s in enumerate(samples):
        if not s.is_floating_point():
            raise ModelError(f"input {k} is {s.dtype}: a constant is taken in real inputs (for indices, start at their embedding)")
    double = copy.deepcopy(model).to("cpu", torch.float64).eval()
    for name, tensor in [*double.named_parameters(), *double.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"the parameter {name!r} holds NaN or infinity")
        tensor.requires_grad_(False)
    inputs = tuple(s[:1].detach().to("cpu", torch.float64) for s in samples)
    program = _export(double, inputs)
    with _double():
        graph = simplify(_Walk(program).graph(inputs))
    shapes = [tuple(s.shape) for s in inputs]

    def reference(x: Tensor) -> Tensor:
        flat, parts, at = x.reshape(-1), [], 0
        for shape in shapes:
            parts.append(flat[at : at + math.prod(shape)].reshape(shape))
            at += math.prod(shape)
        try:
            with torch.no_grad(), _double():
                found = double(*parts)
        except Exception as error:
            raise ModelError(f"the module fails in float64 ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error
        outputs = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        return outputs[0] if len(outputs) == 1 else torch.cat([t.reshape(-1) for t in outputs])

    replay(graph, reference)
    return graph


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        with warnings.catch_warnings(), torch.no_grad(), _double(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs).run_decompositions(_apart())
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"torch.export cannot take the module ({type(error).__name__}: {reason[0] if reason else ''}): "
            "its flow must not depend on values; see torch.export's documentation"
        ) from error
    if program.graph_signature.buffers_to_mutate:
        changed = ", ".join(program.graph_signature.buffers_to_mutate.values())
        raise ModelError(f"the module changes its buffers ({changed}) even in evaluation mode: such a network is no fixed map")
    return program


def _apart() -> dict[Any, Any]:
    """How torch takes apart what has no lowering of its own: recurrent layers into single steps, ``einsum`` into products."""
    table = torch.export.default_decompositions()
    return {op: table[op] for op in list(table) if _lowering(str(op)) is None}


def _lowering(name: str) -> Lowering | None:
    return LOWERINGS.get(name) or LOWERINGS.get(".".join(name.split(".")[:2]))


@contextmanager
def _double() -> Iterator[None]:
    """Constants that a module makes on its way are of float64, like its weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's tracebacks of an export that fails stay off the terminal: the error says why."""

    def hold(record: logging.LogRecord) -> bool:
        return False

    handlers = list(logging.getLogger("torch").handlers)
    for handler in handlers:
        handler.addFilter(hold)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(hold)


class _Walk:
    """One pass over an exported program."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.builder = Builder()
        self.values: dict[str, Any] = {}

    def graph(self, inputs: tuple[Tensor, ...]) -> Graph:
        """The program as a graph."""
        signature = self.program.graph_signature
        held = {**self.program.state_dict, **self.program.constants}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
        live = iter(self._inputs(inputs))
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in names:
                    self.values[node.name] = held[names[node.name]].detach()
                elif node.name in signature.user_inputs:
                    self.values[node.name] = next(live)
            elif node.op == "call_function":
                self.values[node.name] = self._call(node)
            elif node.op == "output":
                return self._output([v for v in self._resolve(node.args[0]) if v is not None])
            else:
                raise UnsupportedOperatorError(node.op, node.name, "only plain calls are understood")
        raise AssertionError("an exported program has an output")

    def _inputs(self, inputs: tuple[Tensor, ...]) -> list[Ref]:
        if len(inputs) == 1:
            return [self.builder.input(tuple(inputs[0].shape))]
        total = sum(t.numel() for t in inputs)
        whole, refs, at = self.builder.input((total,)), [], 0
        for t in inputs:
            start, stop = at, at + t.numel()
            part = self.builder.select(whole, lambda index, start=start, stop=stop: index[start:stop])
            refs.append(self.builder.reshape(part, tuple(t.shape)))
            at = stop
        return refs

    def _output(self, outputs: list[Any]) -> Graph:
        live = [v for v in outputs if isinstance(v, Ref)]
        if not live:
            raise ModelError("the output does not depend on the input")
        values: list[Value] = [v for v in outputs if isinstance(v, (Ref, Tensor))]
        if len(values) == 1:
            return self.builder.finish(live[0])
        flat = [self.builder.reshape(v, (math.prod(v.shape),)) if isinstance(v, Ref) else v.reshape(-1) for v in values]
        joined = self.builder.concat(flat, 0)
        assert isinstance(joined, Ref)
        return self.builder.finish(joined)

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.values[argument.name]
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._resolve(a) for a in argument)
        return argument

    def _call(self, node: torch.fx.Node) -> Any:
        args = [self._resolve(a) for a in node.args]
        kwargs = {key: self._resolve(a) for key, a in node.kwargs.items()}
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = str(node.target)
        self.builder.at = _where(node)
        self.builder.operator = name
        leaves = tree_leaves([args, kwargs], is_leaf=lambda v: isinstance(v, Ref))
        if not any(isinstance(v, Ref) for v in leaves):
            if "rand" in name or "bernoulli" in name:
                raise self.builder.refuse("it is random, so the network is no fixed map")
            assert callable(node.target)
            return node.target(*args, **kwargs)
        lowering = _lowering(name)
        if lowering is None:
            raise self.builder.refuse("it is not understood, or is no Lipschitz map")
        return lowering(Call(self.builder, args, kwargs, _names(node)))


def _names(node: torch.fx.Node) -> list[str]:
    schema = getattr(node.target, "_schema", None)
    return [] if schema is None else [a.name for a in schema.arguments]


def _where(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = [entry[0] for entry in stack.values() if entry and entry[0]]
    return path[-1].removeprefix("L['self'].") if path else node.name
