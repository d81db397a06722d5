"""ONNX recurrent layers, unrolled into single steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Builder, Ref, Value
from steepest.capture.onnx_ops.call import Call, Outputs

State = tuple[Value, ...]
Step = Callable[[Ref, State], State]

MOST_STEPS = 512
"""Longer sequences would make graphs of very many nodes."""


def _layer(gates: int, states: int, activations: Sequence[str], cell: Callable[[Call, Tensor, Tensor, Tensor], Step]) -> Callable:
    """A rule for layers that differ in their cell: its gates, how many states it keeps, and its default activations."""

    def rule(call: Call) -> Outputs:
        b, x = call.builder, call.live(0)
        w, r = call.constant(1), call.constant(2)
        hidden, first = call.integer("hidden_size", r.shape[-1]), call.flag("layout", False)
        direction = call.text("direction", "forward")
        backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
        call.require(backwards is not None, f"its direction {direction!r} is none of forward, reverse and bidirectional")
        assert backwards is not None
        ways, inputs = len(backwards), x.shape[-1]
        shapes = (ways, gates * hidden, inputs), (ways, gates * hidden, hidden)
        call.require(len(x.shape) == 3 and tuple(w.shape) == shapes[0] and tuple(r.shape) == shapes[1], f"weights {shapes} are expected")
        bias = call.optional_constant(3)
        bias = torch.zeros(ways, 2 * gates * hidden, dtype=torch.float64) if bias is None else bias.double()
        call.require(tuple(bias.shape) == (ways, 2 * gates * hidden), f"biases {[ways, 2 * gates * hidden]} are expected")
        named = call.attribute("activations", tuple, None)
        if named is not None and tuple(named) != (*activations,) * ways:
            raise call.refuse(f"its activations {', '.join(map(str, named))} are not the usual {', '.join(activations)}")
        lengths = call.optional_constant(4)
        x = b.permute(x, (1, 0, 2)) if first else x
        steps, batch = x.shape[:2]
        if lengths is not None and not bool((lengths == steps).all()):
            raise call.refuse("its sequences end before the input does (sequence_lens)")
        if not 0 < steps <= MOST_STEPS:
            raise call.refuse(f"it takes {steps} steps; 1 to {MOST_STEPS} are understood")
        begin = [_state(call, 5 + k, (ways, batch, hidden), first) for k in range(states)]
        every, last = [], []
        for way, back in enumerate(backwards):
            step = cell(call, w[way].double(), r[way].double(), bias[way])
            state: State = tuple(call.pick(v, lambda t, way=way: t[way]) for v in begin)
            outputs: list[Value] = [torch.zeros(0)] * steps
            for t in reversed(range(steps)) if back else range(steps):
                state = step(b.select(x, lambda u, t=t: u[t]), state)
                outputs[t] = call.reshape(state[0], (1, 1, batch, hidden))
            every.append(b.concat(outputs, 0))
            last.append([call.reshape(v, (1, batch, hidden)) for v in state])
        y = b.concat(every, 1)
        ends = [b.concat([end[k] for end in last], 0) for k in range(states)]
        if first:
            y, ends = call.permute(y, (2, 0, 1, 3)), [call.permute(v, (1, 0, 2)) for v in ends]
        return (y, *ends)

    return rule


def _state(call: Call, index: int, shape: tuple[int, int, int], first: bool) -> Value:
    """A state to begin with, zero where it is left out."""
    given = call.optional(index)
    if given is None:
        return torch.zeros(shape, dtype=torch.float64)
    given = call.permute(given, (1, 0, 2)) if first else given
    call.require(tuple(given.shape) == shape, f"states {list(shape)} are expected")
    return given.double() if isinstance(given, Tensor) else given


def _affine(b: Builder, x: Value, weight: Tensor, bias: Tensor) -> Value:
    return b.dense(x, weight, bias) if isinstance(x, Ref) else x @ weight.mT + bias


def _gate(b: Builder, kind: type[ops.Elementwise], value: Value, part: int, size: int) -> Value:
    """An activation of one gate's entries."""
    assert isinstance(value, Ref)
    return b.unary(kind, b.select(value, lambda t: t[..., part * size : (part + 1) * size]))


def _plain(call: Call, w: Tensor, r: Tensor, bias: Tensor) -> Step:
    b, size = call.builder, r.shape[-1]

    def step(x: Ref, state: State) -> State:
        inner = b.add(b.dense(x, w, bias[:size]), _affine(b, state[0], r, bias[size:]))
        return (_gate(b, ops.Tanh, inner, 0, size),)

    return step


def _gru(call: Call, w: Tensor, r: Tensor, bias: Tensor) -> Step:
    b, size, after = call.builder, r.shape[-1], call.flag("linear_before_reset", False)
    of_x, of_h = bias[: 3 * size], bias[3 * size :]

    def step(x: Ref, state: State) -> State:
        (h,) = state
        read = b.dense(x, w, of_x)
        both = b.add(call.pick(read, lambda t: t[..., : 2 * size]), _affine(b, h, r[: 2 * size], of_h[: 2 * size]))
        update, reset = _gate(b, ops.Sigmoid, both, 0, size), _gate(b, ops.Sigmoid, both, 1, size)
        if after:
            kept = b.multiply(reset, _affine(b, h, r[2 * size :], of_h[2 * size :]))
        else:
            kept = _affine(b, b.multiply(reset, h), r[2 * size :], of_h[2 * size :])
        new = _gate(b, ops.Tanh, b.add(call.pick(read, lambda t: t[..., 2 * size :]), kept), 0, size)
        return (b.add(new, b.multiply(update, b.add(h, new, -1))),)

    return step


def _lstm(call: Call, w: Tensor, r: Tensor, bias: Tensor) -> Step:
    b, size = call.builder, r.shape[-1]
    if call.flag("input_forget", False):
        raise call.refuse("its input and forget gates are coupled (input_forget)")
    if call.optional(7) is not None:
        raise call.refuse("it has peepholes")

    def step(x: Ref, state: State) -> State:
        h, c = state
        inner = b.add(b.dense(x, w, bias[: 4 * size]), _affine(b, h, r, bias[4 * size :]))
        enter, leave, forget = (_gate(b, ops.Sigmoid, inner, k, size) for k in range(3))
        c = b.add(b.multiply(enter, _gate(b, ops.Tanh, inner, 3, size)), b.multiply(forget, c))
        assert isinstance(c, Ref)
        return (b.multiply(leave, b.unary(ops.Tanh, c)), c)

    return step


RULES: dict[str, Callable[[Call], Outputs]] = {
    "RNN": _layer(1, 1, ("Tanh",), _plain),
    "GRU": _layer(3, 1, ("Sigmoid", "Tanh"), _gru),
    "LSTM": _layer(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm),
}
