"""Lowers the operations of both readers to the operators of ``steepest.ops``; constants stay constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest import ops
from steepest.errors import UnsupportedOperatorError
from steepest.graph import Graph, Input, Node, Operator, Shape, depended_on


@dataclass(frozen=True)
class Ref:
    """The output of a node that depends on the input."""

    index: int
    shape: Shape


Value = Ref | Tensor
"""What a name in the model stands for: something computed from the input, or a constant (float64, int64 or bool)."""


@dataclass
class Builder:
    """Collects nodes. ``at`` names the model's node being read, for messages and node names."""

    nodes: list[Node] = field(default_factory=list)
    at: str = "input"
    operator: str = "input"

    def refuse(self, why: str) -> UnsupportedOperatorError:
        """The error that names the operator being read."""
        return UnsupportedOperatorError(self.operator, self.at, why)

    def append(self, op: Operator, *inputs: Ref) -> Ref:
        """Add a node."""
        self.nodes.append(Node(self.at, op, tuple(i.index for i in inputs)))
        return Ref(len(self.nodes) - 1, op.shape)

    def input(self, shape: Shape) -> Ref:
        """The one input; must come first."""
        assert not self.nodes
        return self.append(Input((shape,)))

    def finish(self, output: Ref) -> Graph:
        """The graph of what the output depends on, in the order it was built."""
        return Graph(depended_on(self.nodes[: output.index + 1]))

    # Rearrangements -----------------------------------------------------------------------------------------------

    def reshape(self, x: Ref, shape: Shape) -> Ref:
        """Row-major reshape; no node where nothing changes."""
        return x if x.shape == shape else self.append(ops.Reshape((x.shape,), shape), x)

    def permute(self, x: Ref, dims: Sequence[int]) -> Ref:
        """Reorder axes; a reshape where only axes of length one move."""
        dims = tuple(d % len(x.shape) for d in dims)
        long_axes = [d for d in dims if x.shape[d] != 1]
        if long_axes == sorted(long_axes):
            return self.reshape(x, tuple(x.shape[d] for d in dims))
        return self.append(ops.Permute((x.shape,), dims), x)

    def move_last(self, x: Ref, axis: int) -> Ref:
        """Exchange an axis with the last one (its own inverse)."""
        dims = list(range(len(x.shape)))
        dims[axis], dims[-1] = dims[-1], dims[axis]
        return self.permute(x, dims)

    def along(self, x: Ref, axis: int, matrix: Tensor) -> Ref:
        """A matrix applied along one axis."""
        return self.move_last(self.dense(self.move_last(x, axis), matrix), axis)

    def select(self, x: Ref, pick: Callable[[Tensor], Tensor], fill: float = 0.0) -> Ref:
        """Any rearrangement, given as what it does to a tensor of positions (-1 becomes ``fill``)."""
        size = math.prod(x.shape)
        index = pick(torch.arange(size).reshape(x.shape))
        if index.numel() == size and torch.equal(index.flatten(), torch.arange(size)):
            return self.reshape(x, tuple(index.shape))
        return self.append(ops.Select((x.shape,), index.contiguous(), fill), x)

    def pad(self, x: Ref, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Ref:
        """Constant padding (before, after) per axis; negative crops."""
        flat = [p for pair in reversed(pads) for p in pair]
        return x if not any(flat) else self.select(x, lambda t: F.pad(t, flat, value=-1), value)

    def pad_mode(self, x: Ref, flat: Sequence[int], mode: str) -> Ref:
        """Reflect, replicate or circular padding in the order of ``torch.nn.functional.pad``."""
        # Those modes are only defined on floating tensors; positions below 2^53 stay exact.
        return self.select(x, lambda t: F.pad(t.double(), list(flat), mode=mode).long())

    def expand(self, x: Ref, shape: Shape) -> Ref:
        """Broadcast to a shape."""
        return x if x.shape == shape else self.select(x, lambda t: t.expand(shape))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Side by side; constants among them enter as the fill of an empty selection."""
        if all(isinstance(v, Tensor) for v in values):
            return torch.cat([v for v in values if isinstance(v, Tensor)], axis)
        reference = next(v for v in values if isinstance(v, Ref))
        values = [v for v in values if math.prod(v.shape) > 0]
        refs = [v if isinstance(v, Ref) else self.constant(reference, v) for v in values]
        if len(refs) == 1:
            return refs[0]
        return self.append(ops.Concat(tuple(r.shape for r in refs), axis % len(refs[0].shape)), *refs)

    def constant(self, like: Ref, value: Tensor) -> Ref:
        """A constant as a branch of the graph: nothing of the input, plus the constant."""
        value = self.finite(value)
        nothing = self.append(ops.Select((like.shape,), torch.full(tuple(value.shape), -1)), like)
        return self.append(ops.Scale((nothing.shape,), torch.zeros([1] * value.ndim, dtype=torch.float64), value), nothing)

    # Affine -------------------------------------------------------------------------------------------------------

    def finite(self, value: Tensor) -> Tensor:
        """Parameters as float64; refuses values that are not numbers."""
        value = value.detach().to(torch.float64)
        if not torch.isfinite(value).all():
            raise self.refuse("a parameter is NaN or infinite")
        return value

    def dense(self, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
        """``x W' + b`` on the last axis."""
        weight = self.finite(weight)
        bias = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else self.finite(bias).reshape(-1)
        return self.append(ops.Dense((x.shape,), weight, bias.expand(weight.shape[0])), x)

    def conv(
        self,
        x: Ref,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
    ) -> Ref:
        """A zero-padded convolution; accepts an input without its batch axis."""
        weight = self.finite(weight)
        bias = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else self.finite(bias)
        if len(x.shape) == weight.ndim - 1:
            y = self.conv(self.reshape(x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups)
            return self.reshape(y, y.shape[1:])
        op = ops.Conv((x.shape,), weight, bias, tuple(stride), tuple((a, b) for a, b in padding), tuple(dilation), groups)
        return self.append(op, x)

    def conv_transpose(
        self,
        x: Ref,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
        output_padding: Sequence[int],
    ) -> Ref:
        """A transposed convolution; ``output_padding`` lengthens the output at its end."""
        weight = self.finite(weight)
        if len(x.shape) == weight.ndim - 1:
            y = self.conv_transpose(self.reshape(x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups, output_padding)
            return self.reshape(y, y.shape[1:])
        bias = torch.zeros(weight.shape[1] * groups, dtype=torch.float64) if bias is None else self.finite(bias)
        size = tuple(
            (n - 1) * s - lo - hi + d * (k - 1) + o + 1
            for n, s, (lo, hi), d, k, o in zip(x.shape[2:], stride, padding, dilation, weight.shape[2:], output_padding, strict=True)
        )
        # The adjoint's convolution reads its padding after the end only as far as output_padding leaves it.
        pads = tuple((lo, hi) for lo, hi in padding)
        op = ops.ConvTranspose((x.shape,), weight, bias, tuple(stride), pads, tuple(dilation), groups, size)
        return self.append(op, x)

    def scale(self, x: Ref, weight: Tensor | float, bias: Tensor | float = 0.0) -> Ref:
        """``weight * x + bias`` with broadcasting both ways."""
        weight, bias = (self.finite(torch.as_tensor(t, dtype=torch.float64)) for t in (weight, bias))
        shape = tuple(torch.broadcast_shapes(x.shape, weight.shape, bias.shape))
        x = self.expand(x, shape)
        weight, bias = (t.reshape([1] * (len(shape) - t.ndim) + list(t.shape)) for t in (weight, bias))
        if (weight == 1).all() and (bias == 0).all():
            return x
        return self.append(ops.Scale((shape,), weight, bias), x)

    def reduce_sum(self, x: Ref, axes: Sequence[int], keepdim: bool, mean: bool = False) -> Ref:
        """Sum or mean over axes, as a dense row of ones on the joined axes."""
        rank = len(x.shape)
        axes = sorted({a % rank for a in axes}) if rank else []
        kept = [a for a in range(rank) if a not in axes]
        size = math.prod(x.shape[a] for a in axes)
        joined = self.reshape(self.permute(x, [*kept, *axes]), (*(x.shape[a] for a in kept), size))
        row = torch.full((1, size), 1.0 / size if mean else 1.0, dtype=torch.float64)
        y = self.dense(joined, row)
        return self.reshape(y, tuple(1 if a in axes else x.shape[a] for a in range(rank) if keepdim or a not in axes))

    def spatial(self, x: Ref, dims: int, f: Callable[[Tensor], Tensor]) -> Ref:
        """Any linear map of the last ``dims`` axes that treats leading axes alike, as a dense matrix found by probing."""
        size = math.prod(x.shape[-dims:])
        basis = torch.eye(size, dtype=torch.float64).reshape(1, size, *x.shape[-dims:])
        image = f(basis)
        y = self.dense(self.reshape(x, (*x.shape[:-dims], size)), image.reshape(size, -1).mT.contiguous())
        return self.reshape(y, (*x.shape[:-dims], *image.shape[2:]))

    def average_pool(
        self,
        x: Ref,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        ceil_mode: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
        dilation: Sequence[int] | None = None,
    ) -> Ref:
        """A convolution of each channel with equal weights, rescaled where a window is cut short."""
        dims = len(kernel)
        dilation = tuple(dilation or [1] * dims)
        lead, size = x.shape[:-dims], x.shape[-dims:]
        outs, pads, counts = [], [], []
        for n, k, s, (lo, hi), d in zip(size, kernel, stride, padding, dilation, strict=True):
            out = _pooled(n + lo + hi, d * (k - 1) + 1, s, ceil_mode, n + lo)
            reach = (out - 1) * s + d * (k - 1) + 1
            inside = [
                sum((0 <= i * s + j * d - lo < n) if not count_padding else (i * s + j * d < n + lo + hi) for j in range(k))
                for i in range(out)
            ]
            outs.append(out)
            pads.append((lo, max(hi, reach - n - lo)))
            counts.append(torch.tensor(inside, dtype=torch.float64))
        channels = self.reshape(x, (math.prod(lead), 1, *size))
        counted = counts[0]
        for c in counts[1:]:
            counted = counted[..., None] * c
        full = float(divisor or math.prod(kernel))
        weight = torch.full((1, 1, *kernel), 1.0 / full, dtype=torch.float64)
        y = self.conv(channels, weight, None, stride, pads, dilation, 1)
        y = self.select(y, lambda t: t[(..., *(slice(0, o) for o in outs))])
        if divisor is None and not (counted == full).all():
            y = self.scale(y, full / counted)
        return self.reshape(y, (*lead, *outs))

    def linear_both(self, x: Value, y: Value) -> Value:
        """``x @ y`` where either may be a constant."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x @ y
        if isinstance(x, Ref) and isinstance(y, Tensor):
            if y.ndim == 1:
                z = self.dense(x, y[None])
                return self.reshape(z, z.shape[:-1])
            if y.ndim == 2:
                return self.dense(x, y.mT.contiguous())
            return self.matmul(x, self.constant(x, y))
        if isinstance(y, Ref) and isinstance(x, Tensor):
            if x.ndim <= 2:
                column = len(y.shape) == 1
                rows = x[None] if x.ndim == 1 else x
                z = self.dense(y if column else self.move_second_last(y), rows)
                z = z if column else self.move_second_last(z)
                return self.reshape(
                    z, tuple(n for a, n in enumerate(z.shape) if not (x.ndim == 1 and a == len(z.shape) - (1 if column else 2)))
                )
            return self.matmul(self.constant(y, x), y)
        assert isinstance(x, Ref) and isinstance(y, Ref)
        return self.matmul(x, y)

    def move_second_last(self, x: Ref) -> Ref:
        """Exchange the last two axes."""
        return self.permute(x, [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2])

    # Products and sums of branches ----------------------------------------------------------------------------------

    def matmul(self, x: Ref, y: Ref) -> Ref:
        """Batched matrix product of two branches with broadcasting."""
        first = self.reshape(x, (1, *x.shape)) if len(x.shape) == 1 else x
        second = self.reshape(y, (*y.shape, 1)) if len(y.shape) == 1 else y
        batch = tuple(torch.broadcast_shapes(first.shape[:-2], second.shape[:-2]))
        first, second = self.expand(first, (*batch, *first.shape[-2:])), self.expand(second, (*batch, *second.shape[-2:]))
        z = self.append(ops.MatMul((first.shape, second.shape)), first, second)
        shape = z.shape[:-2] + (() if len(x.shape) == 1 else z.shape[-2:-1]) + (() if len(y.shape) == 1 else z.shape[-1:])
        return self.reshape(z, shape)

    def add(self, x: Value, y: Value, sign: int = 1) -> Value:
        """``x + sign y``."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x + y if sign > 0 else x - y
        if isinstance(y, Tensor):
            assert isinstance(x, Ref)
            return self.scale(x, 1.0, sign * self.finite(y))
        if isinstance(x, Tensor):
            return self.scale(y, float(sign), x)
        shape = tuple(torch.broadcast_shapes(x.shape, y.shape))
        return self.append(ops.Add((shape, shape), (1, sign)), self.expand(x, shape), self.expand(y, shape))

    def multiply(self, x: Value, y: Value) -> Value:
        """``x * y``; the square of one branch is a power."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x * y
        if isinstance(x, Tensor):
            x, y = y, x
        assert isinstance(x, Ref)
        if isinstance(y, Tensor):
            return self.scale(x, y)
        if x == y:
            return self.unary(ops.Power, x, 2)
        shape = tuple(torch.broadcast_shapes(x.shape, y.shape))
        return self.append(ops.Multiply((shape, shape)), self.expand(x, shape), self.expand(y, shape))

    def divide(self, x: Value, y: Value) -> Value:
        """``x / y``."""
        if isinstance(y, Tensor):
            if (y == 0).any():
                raise self.refuse("it divides by a constant zero")
            return x / y if isinstance(x, Tensor) else self.scale(x, 1.0 / y.to(torch.float64))
        return self.multiply(x, self.unary(ops.Reciprocal, y))

    def power(self, x: Ref, exponent: float) -> Value:
        """``x ** exponent`` for integers, and halves through the square root."""
        if exponent == 0:
            return torch.ones(x.shape, dtype=torch.float64)
        if exponent < 0:
            y = self.power(x, -exponent)
            assert isinstance(y, Ref)
            return self.unary(ops.Reciprocal, y)
        if exponent == 1:
            return x
        if float(exponent).is_integer():
            return self.unary(ops.Power, x, int(exponent))
        if float(2 * exponent).is_integer():
            root = self.unary(ops.Sqrt, x)
            return self.power(root, 2 * exponent)
        # x^p = exp(p log x), for the positive x it is defined on.
        return self.unary(ops.Exp, self.scale(self.unary(ops.Log, x), float(exponent)))

    def larger(self, x: Value, y: Value) -> Value:
        """Elementwise maximum."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.maximum(x, y)
        if isinstance(x, Tensor):
            x, y = y, x
        assert isinstance(x, Ref)
        if isinstance(y, Tensor):
            if y.numel() == 1:
                return self.clamp(self.expand(x, tuple(torch.broadcast_shapes(x.shape, y.shape))), y.item(), None)
            shifted = self.relu(self.scale(x, 1.0, -self.finite(y)))
            return self.scale(shifted, 1.0, y)
        shape = tuple(torch.broadcast_shapes(x.shape, y.shape))
        x, y = self.expand(x, shape), self.expand(y, shape)
        both = self.append(ops.Concat(((1, *shape), (1, *shape)), 0), self.reshape(x, (1, *shape)), self.reshape(y, (1, *shape)))
        index = torch.arange(math.prod(both.shape)).reshape(both.shape).movedim(0, -1).contiguous()
        return self.append(ops.GroupMax((both.shape,), index), both)

    def negate(self, x: Value) -> Value:
        """``-x``."""
        return -x if isinstance(x, Tensor) else self.scale(x, -1.0)

    def where(self, condition: Tensor, x: Value, y: Value) -> Value:
        """Choice by a constant condition, as masks."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.where(condition, x, y)
        shape = tuple(torch.broadcast_shapes(condition.shape, x.shape, y.shape))
        mask = condition.to(torch.float64).expand(shape)
        if isinstance(y, Tensor):
            return self.scale(_ref(x), mask, (1.0 - mask) * self.finite(y))
        if isinstance(x, Tensor):
            return self.scale(_ref(y), 1.0 - mask, mask * self.finite(x))
        return self.add(self.scale(x, mask), self.scale(y, 1.0 - mask))

    # Nonlinear ------------------------------------------------------------------------------------------------------

    def unary(self, kind: type[ops.Elementwise], x: Ref, *parameters: float) -> Ref:
        """An elementwise operator with scalar parameters."""
        return self.append(kind((x.shape,), *parameters), x)

    def relu(self, x: Ref, slope: Tensor | float = 0.0) -> Ref:
        """ReLU, leaky ReLU, PReLU (slope broadcastable from the right), absolute value (slope -1)."""
        slope = self.finite(torch.as_tensor(slope, dtype=torch.float64))
        slope = slope.reshape([1] * (len(x.shape) - slope.ndim) + list(slope.shape))
        return self.append(ops.LeakyRelu((x.shape,), slope), x)

    def clamp(self, x: Ref, low: float | None, high: float | None) -> Ref:
        """Clamp; infinite ends are none."""
        low = None if low is None or low == -math.inf else float(low)
        high = None if high is None or high == math.inf else float(high)
        return x if low is None and high is None else self.append(ops.Clamp((x.shape,), low, high), x)

    def max_pool(
        self,
        x: Ref,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        ceil_mode: bool = False,
    ) -> Ref:
        """Maximum over windows of the last axes; padding never wins."""
        dims = len(kernel)
        index = torch.arange(math.prod(x.shape)).reshape(x.shape)
        for axis, (n, k, s, (lo, hi), d) in enumerate(zip(x.shape[-dims:], kernel, stride, padding, dilation, strict=True)):
            out = _pooled(n + lo + hi, d * (k - 1) + 1, s, ceil_mode, n + lo)
            at = torch.arange(out)[:, None] * s + torch.arange(k)[None] * d - lo
            inside = (at >= 0) & (at < n)
            where = len(x.shape) - dims + axis
            picked = index.index_select(where, at.clamp(0, n - 1).flatten())
            picked = picked.unflatten(where, at.shape)
            shape = [1] * picked.ndim
            shape[where], shape[where + 1] = at.shape
            picked = torch.where(inside.reshape(shape), picked, -1).movedim(where + 1, -1)
            index = picked if axis == 0 else torch.where(picked < 0, -1, picked)
            # Earlier windows stay behind as trailing axes.
        return self.group_max(x, index.flatten(len(x.shape)))

    def group_max(self, x: Ref, index: Tensor) -> Ref:
        """Maximum over listed entries."""
        return self.append(ops.GroupMax((x.shape,), index.contiguous()), x)

    def reduce_max(self, x: Ref, axes: Sequence[int], keepdim: bool) -> Ref:
        """Maximum over axes."""
        rank = len(x.shape)
        axes = sorted({a % rank for a in axes})
        kept = [a for a in range(rank) if a not in axes]
        index = torch.arange(math.prod(x.shape)).reshape(x.shape).permute(*kept, *axes)
        y = self.group_max(x, index.reshape(*(x.shape[a] for a in kept), -1))
        return self.reshape(y, tuple(1 if a in axes else x.shape[a] for a in range(rank) if keepdim or a not in axes))

    def softmax(self, x: Ref, axis: int, log: bool = False, allowed: Tensor | None = None) -> Ref:
        """Softmax or log-softmax over an axis; ``allowed`` masks entries of the (moved) last axis."""
        last = self.move_last(x, axis)
        if log:
            y = self.append(ops.LogSoftmax((last.shape,)), last)
        else:
            mask = torch.ones([1] * len(last.shape), dtype=torch.int64) if allowed is None else allowed.to(torch.int64)
            y = self.append(ops.Softmax((last.shape,), mask.reshape([1] * (len(last.shape) - mask.ndim) + list(mask.shape))), last)
        return self.move_last(y, axis)

    def log_sum_exp(self, x: Ref, axes: Sequence[int], keepdim: bool) -> Ref:
        """``log sum e^x = x_0 - logsoftmax(x)_0`` over some axes, whose constant is finite."""
        kept = [a for a in range(len(x.shape)) if a not in axes]
        size = math.prod(x.shape[a] for a in axes)
        joined = self.reshape(self.permute(x, [*kept, *axes]), (*(x.shape[a] for a in kept), size))
        logs = self.softmax(joined, len(kept), log=True)
        y = _ref(self.add(self.select(joined, lambda t: t[..., 0]), self.select(logs, lambda t: t[..., 0]), -1))
        return self.reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape) if keepdim or a not in axes))

    def normalize(self, x: Ref, axes: int, eps: float, weight: Tensor | None, bias: Tensor | None, centred: bool = True) -> Ref:
        """Layer or RMS norm over the last ``axes`` axes, then an affine map broadcast from the right."""
        lead = x.shape[: len(x.shape) - axes]
        flat = self.reshape(x, (*lead, math.prod(x.shape[len(lead) :])))
        y = self.reshape(self.append(ops.Normalize((flat.shape,), centred, float(eps)), flat), x.shape)
        return self.scale(y, 1.0 if weight is None else weight, 0.0 if bias is None else bias)

    def group_norm(self, x: Ref, groups: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> Ref:
        """Group norm of ``[batch, channels, ...]`` (instance norm: as many groups as channels)."""
        batch, channels = x.shape[:2]
        flat = self.reshape(x, (batch, groups, math.prod(x.shape[1:]) // groups))
        y = self.reshape(self.append(ops.Normalize((flat.shape,), True, float(eps)), flat), x.shape)
        per_channel = (channels, *[1] * (len(x.shape) - 2))
        w = 1.0 if weight is None else weight.reshape(per_channel)
        return self.scale(y, w, 0.0 if bias is None else bias.reshape(per_channel))


def _pooled(length: int, window: int, stride: int, ceil_mode: bool, start_before: int) -> int:
    """Number of windows; with ``ceil_mode`` a last one may run over the end if it starts before ``start_before``."""
    if not ceil_mode:
        return (length - window) // stride + 1
    out = -(-(length - window) // stride) + 1
    return out - 1 if (out - 1) * stride >= start_before else out


def _ref(value: Value) -> Ref:
    assert isinstance(value, Ref)
    return value
