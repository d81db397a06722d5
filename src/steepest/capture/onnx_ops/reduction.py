"""ONNX operators that reduce, accumulate or order along axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Ref, Value
from steepest.capture.onnx_ops.call import Call, Outputs

Live = Callable[[Call, Ref, list[int], bool], Value]


def _sum(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.reduce_sum(x, axes, keepdim)


def _mean(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.reduce_sum(x, axes, keepdim, mean=True)


def _max(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.reduce_max(x, axes, keepdim)


def _min(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    b = call.builder
    return b.scale(b.reduce_max(b.scale(x, -1.0), axes, keepdim), -1.0)


def _l1(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.reduce_sum(call.builder.relu(x, -1.0), axes, keepdim)


def _squares(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Ref:
    return call.builder.reduce_sum(call.builder.unary(ops.Power, x, 2), axes, keepdim)


def _l2(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.unary(ops.Sqrt, _squares(call, x, axes, keepdim))


def _log_sum(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.unary(ops.Log, call.builder.reduce_sum(x, axes, keepdim))


def _log_sum_exp(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    return call.builder.log_sum_exp(x, axes, keepdim)


def _product(call: Call, x: Ref, axes: list[int], keepdim: bool) -> Value:
    b, count = call.builder, math.prod(x.shape[a] for a in axes)
    if count > 64:
        raise call.refuse(f"it multiplies {count} entries; at most 64 are understood")
    kept = [a for a in range(len(x.shape)) if a not in axes]
    joined = b.reshape(b.permute(x, [*kept, *axes]), (*(x.shape[a] for a in kept), count))
    y: Value = b.select(joined, lambda t: t[..., 0])
    for i in range(1, count):
        y = b.multiply(y, b.select(joined, lambda t, i=i: t[..., i]))
    return call.reshape(y, [1 if a in axes else n for a, n in enumerate(x.shape) if keepdim or a not in axes])


def _constant(name: str, x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """The same on constants, whole numbers staying whole."""
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "ReduceSum": lambda t: t.sum(-1),
        "ReduceMean": lambda t: t.mean(-1) if t.is_floating_point() else torch.div(t.sum(-1), t.shape[-1], rounding_mode="trunc"),
        "ReduceMax": lambda t: t.amax(-1),
        "ReduceMin": lambda t: t.amin(-1),
        "ReduceProd": lambda t: t.prod(-1),
        "ReduceL1": lambda t: t.abs().sum(-1),
        "ReduceL2": lambda t: t.square().sum(-1).sqrt(),
        "ReduceSumSquare": lambda t: t.square().sum(-1),
        "ReduceLogSum": lambda t: t.sum(-1).log(),
        "ReduceLogSumExp": lambda t: t.logsumexp(-1),
    }
    kept = [a for a in range(x.ndim) if a not in axes]
    joined = x.permute(*kept, *axes).reshape(*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in axes))
    return plain[name](joined).reshape([1 if a in axes else n for a, n in enumerate(x.shape) if keepdim or a not in axes])


def _reduced(name: str, live: Live) -> Callable[[Call], Outputs]:
    """A reduction: its axes are an attribute until it takes them as an input, and none are all."""

    def rule(call: Call) -> Outputs:
        x = call.value(0)
        given = call.ints_of("axes", 1, since=13 if name == "ReduceSum" else 18)
        untouched = call.flag("noop_with_empty_axes", False) and not given
        axes = call.axes(given, len(x.shape)) if given else list(range(len(x.shape)))
        keepdim = call.flag("keepdims", True)
        if untouched:
            axes, keepdim = [], True
            if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
                return x
            raise call.refuse("it reduces no axis (noop_with_empty_axes)")
        call.require(math.prod(x.shape[a] for a in axes) > 0, "an empty axis cannot be reduced")
        return _constant(name, x, axes, keepdim) if isinstance(x, Tensor) else live(call, x, axes, keepdim)

    return rule


def cumulative_sum(call: Call) -> Outputs:
    """Sums of all entries up to each, a triangle of ones along the axis."""
    x, at = call.value(0), call.constant(1)
    call.require(at.numel() == 1, "one axis is expected")
    axis = call.axes([int(at.item())], len(x.shape))[0]
    n = x.shape[axis]
    call.room((n, n))
    ones = torch.ones(n, n, dtype=torch.float64).tril(-1 if call.flag("exclusive", False) else 0)
    matrix = ones.mT.contiguous() if call.flag("reverse", False) else ones
    if isinstance(x, Ref):
        return call.builder.along(x, axis, matrix)
    return (x.movedim(axis, -1) @ matrix.mT.to(x.dtype)).movedim(-1, axis)


def top_k(call: Call) -> Outputs:
    """The k largest or smallest values in order: a sort, cut. Their positions leap and are refused where used."""
    if call.outputs > 1:
        raise call.refuse("the positions of the largest entries leap, so that they are not a Lipschitz map; only its values are understood")
    x = call.live(0)
    if call.version >= 10:
        wanted = call.constant(1)
        call.require(wanted.numel() == 1, "how many are wanted is to be one number")
        k = int(wanted.item())
    else:
        k = call.integer("k", 0)
    axis = call.axis(len(x.shape), -1)
    largest, ordered = call.flag("largest", True), call.flag("sorted", True)
    call.require(0 < k <= x.shape[axis], f"{k} entries are wanted")
    if not ordered and k > 1:
        raise call.refuse("its values come in no stated order (sorted = 0)")
    b = call.builder
    last = b.move_last(x, axis)
    ascending: Ref = b.append(ops.GroupSort((last.shape,)), last)
    picked = b.select(ascending, lambda t: t.flip(-1)[..., :k] if largest else t[..., :k])
    return b.move_last(picked, axis)


RULES: dict[str, Callable[[Call], Outputs]] = {
    **{
        name: _reduced(name, live)
        for name, live in (
            ("ReduceSum", _sum),
            ("ReduceMean", _mean),
            ("ReduceMax", _max),
            ("ReduceMin", _min),
            ("ReduceProd", _product),
            ("ReduceL1", _l1),
            ("ReduceL2", _l2),
            ("ReduceSumSquare", _squares),
            ("ReduceLogSum", _log_sum),
            ("ReduceLogSumExp", _log_sum_exp),
        )
    },
    "CumSum": cumulative_sum,
    "TopK": top_k,
}
