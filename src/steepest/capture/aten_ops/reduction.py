"""Sums, means, extremes, norms along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.aten_ops.call import LOWERINGS, Call, as_ref, lowers
from steepest.capture.builder import Ref, Value


@lowers("sum", "mean")
def _sums(c: Call) -> Ref:
    x = c.live()
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    return c.builder.reduce_sum(x, axes, bool(c.get("keepdim", False)), mean="mean" in c.builder.operator)


@lowers("logsumexp")
def _log_sum_exp(c: Call) -> Ref:
    x, axes = c.live(), c.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes) or range(len(x.shape))
    return c.builder.log_sum_exp(x, [a % len(x.shape) for a in axes], bool(c.get("keepdim", False)))


@lowers("logaddexp")
def _log_add_exp(c: Call) -> Ref:
    b, shape = c.builder, torch.broadcast_shapes(*(tuple(c.value(k).shape) for k in (0, 1)))
    parts = []
    for k in (0, 1):
        v = c.value(k)
        parts.append(b.reshape(b.expand(v, shape), (1, *shape)) if isinstance(v, Ref) else v.expand(shape)[None])
    return b.log_sum_exp(as_ref(b.concat(parts, 0)), [0], False)


@lowers("cumsum")
def _cumulative_sum(c: Call) -> Ref:
    x = c.live()
    axis = c.get("dim") % len(x.shape)
    return c.builder.along(x, axis, torch.ones(x.shape[axis], x.shape[axis], dtype=torch.float64).tril())


@lowers("var", "std")
def _variance(c: Call) -> Value:
    b, x = c.builder, c.live()
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    size = math.prod(x.shape[a] for a in axes)
    correction = c.get("correction", None)
    correction = 1 if correction is None else correction
    d = b.add(x, b.reduce_sum(x, axes, True, mean=True), -1)
    assert isinstance(d, Ref)
    total = b.reduce_sum(as_ref(b.power(d, 2)), axes, bool(c.get("keepdim", False)))
    variance = b.scale(total, 1.0 / (size - correction))
    return variance if "var" in b.operator else b.unary(ops.Sqrt, variance)


@lowers("amax", "amin", "max", "min")
def _extreme(c: Call) -> Any:
    b, x = c.builder, c.live()
    name = b.operator.split(".")[1]
    if len(c.args) > 1 and isinstance(c.args[1], (Ref, Tensor)):
        return LOWERINGS["aten.maximum" if name == "max" else "aten.minimum"](c)
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    keep = bool(c.get("keepdim", False))
    y = b.reduce_max(x, axes, keep) if "max" in name else b.negate(b.reduce_max(as_ref(b.negate(x)), axes, keep))
    return (y, None) if b.operator.endswith(".dim") else y


@lowers("linalg_vector_norm")
def _vector_norm(c: Call) -> Value:
    b, x = c.builder, c.live()
    if c.get("ord", 2) != 2:
        raise b.refuse("only the 2-norm is understood")
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None else axes if isinstance(axes, Sequence) else [axes]
    squares = as_ref(b.power(x, 2))
    return b.unary(ops.Sqrt, b.reduce_sum(squares, axes, bool(c.get("keepdim", False))))
