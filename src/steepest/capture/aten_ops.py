"""ATen operators, by name, to the operators of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Builder, Ref, Value

_REQUIRED = object()


@dataclass(frozen=True)
class Call:
    """One call: its builder, and its arguments by position or by the schema's names."""

    builder: Builder
    args: list[Any]
    kwargs: dict[str, Any]
    names: list[str]

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """An argument by its schema name."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name in self.names and self.names.index(name) < len(self.args):
            return self.args[self.names.index(name)]
        if default is _REQUIRED:
            raise self.builder.refuse(f"its argument {name} is missing")
        return default

    def live(self, position: int = 0) -> Ref:
        """An argument that must come from the input."""
        value = self.args[position]
        if not isinstance(value, Ref):
            raise self.builder.refuse("only its first argument may depend on the input" if position == 0 else "an argument must be live")
        return value

    def fixed(self, name: str) -> Tensor | None:
        """An argument that must be a constant or absent."""
        value = self.get(name, None)
        if isinstance(value, Ref):
            raise self.builder.refuse(f"its argument {name} depends on the input")
        return value

    def value(self, position: int) -> Value:
        """An operand: live, a constant tensor, or a number."""
        value = self.args[position]
        return value if isinstance(value, Ref) else torch.as_tensor(value, dtype=torch.float64)


Lowering = Callable[[Call], Any]
LOWERINGS: dict[str, Lowering] = {}


def _lowers(*names: str) -> Callable[[Lowering], Lowering]:
    def enter(f: Lowering) -> Lowering:
        LOWERINGS.update({f"aten.{name}": f for name in names})
        return f

    return enter


def _pairs(values: Any, dims: int) -> tuple[int, ...]:
    values = [values] if isinstance(values, int) else list(values)
    return tuple(values * dims if len(values) == 1 else values)


def _unary(kind: type[ops.Elementwise], *parameters: float) -> Lowering:
    return lambda c: c.builder.unary(kind, c.live(), *parameters)


for _name, _kind in {
    "sigmoid": ops.Sigmoid,
    "tanh": ops.Tanh,
    "erf": ops.Erf,
    "silu": ops.Silu,
    "mish": ops.Mish,
    "hardswish": ops.HardSwish,
    "exp": ops.Exp,
    "log": ops.Log,
    "sqrt": ops.Sqrt,
    "reciprocal": ops.Reciprocal,
    "sin": ops.Sin,
    "cos": ops.Cos,
    "softsign": ops.Softsign,
}.items():
    LOWERINGS[f"aten.{_name}"] = _unary(_kind)
for _name in ("clone", "contiguous", "detach", "alias", "dropout", "lift_fresh_copy", "_to_copy", "to", "positive", "feature_dropout"):
    LOWERINGS[f"aten.{_name}"] = lambda c: _kept(c)


def _kept(c: Call) -> Ref:
    dtype = c.kwargs.get("dtype")
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise c.builder.refuse(f"it turns live values into {dtype}, which is no Lipschitz map")
    return c.live()


LOWERINGS["aten.relu"] = lambda c: c.builder.relu(c.live())
LOWERINGS["aten.abs"] = lambda c: c.builder.relu(c.live(), -1.0)
LOWERINGS["aten.neg"] = lambda c: c.builder.negate(c.live())
LOWERINGS["aten.relu6"] = lambda c: c.builder.clamp(c.live(), 0.0, 6.0)
LOWERINGS["aten.leaky_relu"] = lambda c: c.builder.relu(c.live(), c.get("negative_slope", 0.01))
LOWERINGS["aten.hardtanh"] = lambda c: c.builder.clamp(c.live(), c.get("min_val", -1.0), c.get("max_val", 1.0))
LOWERINGS["aten.hardsigmoid"] = lambda c: c.builder.clamp(c.builder.scale(c.live(), 1 / 6, 0.5), 0.0, 1.0)
LOWERINGS["aten.rsqrt"] = lambda c: c.builder.unary(ops.Reciprocal, c.builder.unary(ops.Sqrt, c.live()))
LOWERINGS["aten.square"] = lambda c: c.builder.power(c.live(), 2)
LOWERINGS["aten.log_sigmoid"] = lambda c: c.builder.negate(c.builder.unary(ops.Softplus, c.builder.scale(c.live(), -1.0)))
LOWERINGS["aten.log_sigmoid_forward"] = lambda c: (LOWERINGS["aten.log_sigmoid"](c), None)
LOWERINGS["aten.gelu"] = lambda c: c.builder.unary(ops.GeluTanh if c.get("approximate", "none") == "tanh" else ops.Gelu, c.live())


@_lowers("elu", "selu", "celu")
def _elu(c: Call) -> Ref:
    b, x = c.builder, c.live()
    alpha, scale, rate = c.get("alpha", 1.0), c.get("scale", 1.0), c.get("input_scale", 1.0)
    if c.builder.operator.startswith("aten.selu"):
        alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    if c.builder.operator.startswith("aten.celu"):
        rate = 1.0 / alpha
    if rate != 1.0:
        # alpha (e^(x r) - 1) below zero: with alpha r = 1 it is elu_1(r x) / r.
        if abs(alpha * rate - 1.0) > 1e-12:
            raise b.refuse(f"alpha {alpha} with input_scale {rate} is not supported")
        return b.scale(b.unary(ops.Elu, b.scale(x, rate), 1.0), scale / rate)
    if alpha < 0:
        raise b.refuse(f"alpha {alpha} is negative")
    return b.scale(b.unary(ops.Elu, x, float(alpha)), scale)


@_lowers("softplus")
def _softplus(c: Call) -> Ref:
    beta = float(c.get("beta", 1.0))
    return c.builder.scale(c.builder.unary(ops.Softplus, c.builder.scale(c.live(), beta)), 1.0 / beta)


@_lowers("softshrink")
def _softshrink(c: Call) -> Value:
    b, x, lam = c.builder, c.live(), float(c.get("lambd", 0.5))
    return b.add(b.relu(b.scale(x, 1.0, -lam)), b.relu(b.scale(x, -1.0, -lam)), -1)


@_lowers("prelu", "_prelu_kernel")
def _prelu(c: Call) -> Ref:
    slope = c.fixed("weight")
    assert slope is not None
    x = c.live()
    if slope.ndim == 1 and len(x.shape) >= 2:
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    return c.builder.relu(x, slope)


@_lowers("clamp", "clamp_min", "clamp_max")
def _clamp(c: Call) -> Value:
    b, value = c.builder, c.live()
    low, high = c.get("min", None), c.get("max", None)
    if all(e is None or isinstance(e, (int, float)) for e in (low, high)):
        return b.clamp(value, low, high)
    result: Value = value
    if low is not None:
        result = b.larger(result, low if isinstance(low, Ref) else torch.as_tensor(low, dtype=torch.float64))
    if high is not None:
        top = high if isinstance(high, Ref) else torch.as_tensor(high, dtype=torch.float64)
        result = b.negate(b.larger(b.negate(result), b.negate(top)))
    return result


@_lowers("add", "sub", "rsub")
def _sum(c: Call) -> Value:
    x, y, alpha = c.value(0), c.value(1), c.get("alpha", 1)
    if alpha != 1:
        y = c.builder.multiply(y, torch.tensor(float(alpha), dtype=torch.float64))
    if "rsub" in c.builder.operator:
        if alpha != 1:
            raise c.builder.refuse("alpha other than 1")
        x, y = y, x
    return c.builder.add(x, y, 1 if "add" in c.builder.operator else -1)


LOWERINGS["aten.mul"] = lambda c: c.builder.multiply(c.value(0), c.value(1))
LOWERINGS["aten.maximum"] = lambda c: c.builder.larger(c.value(0), c.value(1))
LOWERINGS["aten.minimum"] = lambda c: c.builder.negate(c.builder.larger(c.builder.negate(c.value(0)), c.builder.negate(c.value(1))))


@_lowers("div")
def _divide(c: Call) -> Value:
    if c.get("rounding_mode", None) is not None:
        raise c.builder.refuse("rounding is no Lipschitz map")
    return c.builder.divide(c.value(0), c.value(1))


@_lowers("pow")
def _power(c: Call) -> Value:
    exponent = c.args[1]
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if not isinstance(c.args[0], Ref) or not isinstance(exponent, (int, float)):
        raise c.builder.refuse("its exponent must be one number")
    return c.builder.power(c.args[0], float(exponent))


@_lowers("linear")
def _linear(c: Call) -> Ref:
    weight = c.fixed("weight")
    assert weight is not None
    return c.builder.dense(c.live(), weight, c.fixed("bias"))


@_lowers("mm", "matmul", "bmm", "mv", "dot")
def _matmul(c: Call) -> Value:
    return c.builder.linear_both(c.value(0), c.value(1))


@_lowers("addmm", "baddbmm")
def _addmm(c: Call) -> Value:
    b = c.builder
    beta, alpha = c.get("beta", 1), c.get("alpha", 1)
    product = b.linear_both(c.value(1), c.value(2))
    if alpha != 1:
        product = b.multiply(product, torch.tensor(float(alpha), dtype=torch.float64))
    first = c.value(0)
    return b.add(first if beta == 1 else b.multiply(first, torch.tensor(float(beta), dtype=torch.float64)), product)


@_lowers("convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(c: Call) -> Ref:
    b = c.builder
    weight, bias = c.fixed("weight"), c.fixed("bias")
    assert weight is not None
    dims = weight.ndim - 2
    stride, dilation = _pairs(c.get("stride", 1), dims), _pairs(c.get("dilation", 1), dims)
    padding, groups = c.get("padding", 0), c.get("groups", 1)
    if isinstance(padding, str):
        if padding == "valid":
            pads = [(0, 0)] * dims
        else:
            reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            pads = [(r // 2, r - r // 2) for r in reach]
    else:
        pads = [(p, p) for p in _pairs(padding, dims)]
    if c.get("transposed", False) or "transpose" in b.operator:
        return b.conv_transpose(c.live(), weight, bias, stride, pads, dilation, groups, _pairs(c.get("output_padding", 0), dims))
    return b.conv(c.live(), weight, bias, stride, pads, dilation, groups)


@_lowers("batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm", "cudnn_batch_norm")
def _batch_norm(c: Call) -> Any:
    b, x = c.builder, c.live()
    mean, variance = c.fixed("running_mean"), c.fixed("running_var")
    if c.get("training", False) or mean is None or variance is None:
        raise b.refuse("batch statistics make the output depend on the other samples: use running statistics in evaluation mode")
    weight, bias = c.fixed("weight"), c.fixed("bias")
    gain = (1.0 if weight is None else weight) / torch.sqrt(variance + c.get("eps", 1e-5))
    shift = (0.0 if bias is None else bias) - gain * mean
    shape = (-1, *[1] * (len(x.shape) - 2))
    y = b.scale(x, gain.reshape(shape), shift.reshape(shape))
    return y if b.operator.startswith("aten.batch_norm") else (y, None, None)


@_lowers("layer_norm", "native_layer_norm")
def _layer_norm(c: Call) -> Any:
    y = c.builder.normalize(c.live(), len(c.get("normalized_shape")), c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))
    return (y, None, None) if "native" in c.builder.operator else y


@_lowers("rms_norm", "_fused_rms_norm")
def _rms_norm(c: Call) -> Any:
    eps = c.get("eps", None)
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    y = c.builder.normalize(c.live(), len(c.get("normalized_shape")), eps, c.fixed("weight"), None, centred=False)
    return (y, None) if "fused" in c.builder.operator else y


@_lowers("group_norm", "native_group_norm")
def _group_norm(c: Call) -> Any:
    groups = c.get("num_groups", None) or c.get("group")
    y = c.builder.group_norm(c.live(), groups, c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))
    return (y, None, None) if "native" in c.builder.operator else y


@_lowers("instance_norm")
def _instance_norm(c: Call) -> Ref:
    if not c.get("use_input_stats", True):
        return _batch_norm(Call(c.builder, c.args[:5], {"training": False, "eps": c.get("eps", 1e-5)}, c.names))
    x = c.live()
    return c.builder.group_norm(x, x.shape[1], c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))


def _pool_arguments(c: Call, dims: int) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    kernel = _pairs(c.get("kernel_size"), dims)
    stride = c.get("stride", None)
    return kernel, _pairs(stride, dims) if stride else kernel, [(p, p) for p in _pairs(c.get("padding", 0), dims)]


def _max_pool(dims: int, indices: bool) -> Lowering:
    def lower(c: Call) -> Any:
        kernel, stride, pads = _pool_arguments(c, dims)
        y = c.builder.max_pool(c.live(), kernel, stride, pads, _pairs(c.get("dilation", 1), dims), bool(c.get("ceil_mode", False)))
        return (y, None) if indices else y

    return lower


def _average_pool(dims: int) -> Lowering:
    def lower(c: Call) -> Ref:
        kernel, stride, pads = _pool_arguments(c, dims)
        count, divisor = c.get("count_include_pad", True), c.get("divisor_override", None)
        return c.builder.average_pool(c.live(), kernel, stride, pads, bool(c.get("ceil_mode", False)), bool(count), divisor)

    return lower


def _adaptive(dims: int, largest: bool, indices: bool = False) -> Lowering:
    def lower(c: Call) -> Any:
        x = c.live()
        sizes = [n if o is None else o for n, o in zip(x.shape[-dims:], _pairs(c.get("output_size"), dims), strict=True)]
        if any(n % o for n, o in zip(x.shape[-dims:], sizes, strict=True)):
            if largest:
                raise c.builder.refuse("adaptive maximum pooling needs sizes that divide")
            pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[dims]
            return c.builder.spatial(x, dims, lambda t: pool(t, sizes))
        kernel = [n // o for n, o in zip(x.shape[-dims:], sizes, strict=True)]
        none = [(0, 0)] * dims
        if not largest:
            return c.builder.average_pool(x, kernel, kernel, none)
        y = c.builder.max_pool(x, kernel, kernel, none, [1] * dims)
        return (y, None) if indices else y

    return lower


for _dims in (1, 2, 3):
    LOWERINGS[f"aten.max_pool{_dims}d"] = _max_pool(_dims, False)
    LOWERINGS[f"aten.max_pool{_dims}d_with_indices"] = _max_pool(_dims, True)
    LOWERINGS[f"aten.avg_pool{_dims}d"] = _average_pool(_dims)
    LOWERINGS[f"aten.adaptive_avg_pool{_dims}d"] = LOWERINGS[f"aten._adaptive_avg_pool{_dims}d"] = _adaptive(_dims, False)
    LOWERINGS[f"aten.adaptive_max_pool{_dims}d"] = _adaptive(_dims, True, True)


@_lowers("view", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze", "expand_copy")
def _reshape(c: Call) -> Ref:
    x = c.live()
    return c.builder.reshape(x, _moved_shape(c, x))


def _moved_shape(c: Call, x: Ref) -> tuple[int, ...]:
    name = c.builder.operator.split(".")[1]
    meta = torch.empty(x.shape, device="meta")
    if name in ("view", "reshape", "_unsafe_view", "_reshape_copy"):
        return tuple(meta.reshape(c.args[1]).shape)
    return tuple(getattr(torch, name)(meta, *c.args[1:], **c.kwargs).shape)


@_lowers("permute", "transpose", "t", "numpy_T", "movedim")
def _permute(c: Call) -> Ref:
    x = c.live()
    name = c.builder.operator.split(".")[1]
    index = torch.arange(len(x.shape)).reshape(-1)
    if name == "permute":
        return c.builder.permute(x, c.args[1])
    dims = index.tolist()
    if name == "transpose":
        a, b = c.args[1] % len(dims), c.args[2] % len(dims)
        dims[a], dims[b] = dims[b], dims[a]
        return c.builder.permute(x, dims)
    if name in ("t", "numpy_T"):
        return c.builder.permute(x, dims[::-1])
    raise c.builder.refuse("it is not understood")


@_lowers(
    "slice", "select", "expand", "repeat", "narrow", "index_select", "flip", "roll", "pixel_shuffle", "pixel_unshuffle",
    "split", "split_with_sizes", "chunk", "unbind", "diagonal", "unfold", "tile", "swapaxes",
)  # fmt: skip
def _rearrange(c: Call) -> Any:
    """Any rearrangement, by doing it to the positions."""
    x = c.live()
    name = c.builder.operator.split(".")[1]
    if any(isinstance(a, Ref) for a in c.args[1:]):
        raise c.builder.refuse("its positions depend on the input")
    apply = getattr(torch.ops.aten, name)
    whole = torch.arange(math.prod(x.shape)).reshape(x.shape)
    found = apply(whole, *c.args[1:], **c.kwargs)
    if isinstance(found, Tensor):
        return c.builder.select(x, lambda t: found)
    return [c.builder.select(x, lambda t, part=part: part) for part in found]


@_lowers("index")
def _index(c: Call) -> Ref:
    x = c.live()
    if any(isinstance(i, Ref) for i in c.args[1]):
        raise c.builder.refuse("its positions depend on the input")
    return c.builder.select(x, lambda t: torch.ops.aten.index(t, c.args[1]))


@_lowers("cat", "stack")
def _cat(c: Call) -> Value:
    b, axis = c.builder, c.get("dim", 0)
    values = [v if isinstance(v, Ref) else v.to(torch.float64) for v in c.args[0]]
    if "stack" in b.operator:
        axis %= len(values[0].shape) + 1
        shapes = [(*v.shape[:axis], 1, *v.shape[axis:]) for v in values]
        values = [b.reshape(v, s) if isinstance(v, Ref) else v.reshape(s) for v, s in zip(values, shapes, strict=True)]
    return b.concat(values, axis)


@_lowers(
    "constant_pad_nd",
    "pad",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def _pad(c: Call) -> Ref:
    b, x, name = c.builder, c.live(), c.builder.operator.split(".")[1]
    flat = list(c.args[1])
    if name in ("constant_pad_nd", "pad") and c.get("mode", "constant") == "constant":
        missing = [(0, 0)] * (len(x.shape) - len(flat) // 2)
        pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
        return b.pad(x, [*missing, *pairs], float(c.get("value", 0.0) or 0.0))
    mode = "reflect" if "reflect" in name else "replicate" if "replicat" in name else c.get("mode", "constant")
    return b.pad_mode(x, flat, mode)


@_lowers("sum", "mean")
def _sums(c: Call) -> Ref:
    x = c.live()
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    return c.builder.reduce_sum(x, axes, bool(c.get("keepdim", False)), mean="mean" in c.builder.operator)


@_lowers("var", "std")
def _variance(c: Call) -> Value:
    b, x = c.builder, c.live()
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None else [axes] if isinstance(axes, int) else list(axes)
    size = math.prod(x.shape[a] for a in axes)
    correction = c.get("correction", None)
    correction = 1 if correction is None else correction
    d = b.add(x, b.reduce_sum(x, axes, True, mean=True), -1)
    assert isinstance(d, Ref)
    total = b.reduce_sum(b.power(d, 2), axes, bool(c.get("keepdim", False)))  # type: ignore[arg-type]
    variance = b.scale(total, 1.0 / (size - correction))
    return variance if "var" in b.operator else b.unary(ops.Sqrt, variance)


@_lowers("amax", "amin", "max", "min")
def _extreme(c: Call) -> Any:
    b, x = c.builder, c.live()
    name = b.operator.split(".")[1]
    if len(c.args) > 1 and isinstance(c.args[1], (Ref, Tensor)):
        return LOWERINGS["aten.maximum" if name == "max" else "aten.minimum"](c)
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    keep = bool(c.get("keepdim", False))
    y = b.reduce_max(x, axes, keep) if "max" in name else b.negate(b.reduce_max(_ref(b.negate(x)), axes, keep))
    return (y, None) if b.operator.endswith(".dim") else y


def _ref(value: Value) -> Ref:
    assert isinstance(value, Ref)
    return value


@_lowers("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
def _softmax(c: Call) -> Ref:
    return c.builder.softmax(c.live(), c.get("dim") % len(c.live().shape), log="log" in c.builder.operator)


@_lowers("sort")
def _sort(c: Call) -> Any:
    b, x = c.builder, c.live()
    axis = c.get("dim", -1) % len(x.shape)
    last = b.move_last(x, axis)
    y = b.append(ops.GroupSort((last.shape,)), last)
    if c.get("descending", False):
        y = b.select(y, lambda t: t.flip(-1))
    return (b.move_last(y, axis), None)


@_lowers("where")
def _where(c: Call) -> Value:
    condition = c.args[0]
    if not isinstance(condition, Tensor):
        raise c.builder.refuse("a choice by live values may leap, so it is no Lipschitz map")
    return c.builder.where(condition, c.value(1), c.value(2))


@_lowers("masked_fill")
def _masked_fill(c: Call) -> Value:
    mask = c.args[1]
    if not isinstance(mask, Tensor):
        raise c.builder.refuse("a mask of live values may leap, so it is no Lipschitz map")
    return c.builder.where(mask, c.value(2), c.live())


@_lowers("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def _attention(c: Call) -> Any:
    b = c.builder
    q, k, v = (c.args[i] for i in range(3))
    if not all(isinstance(t, Ref) for t in (q, k, v)):
        q, k, v = (t if isinstance(t, Ref) else b.constant(next(r for r in (q, k, v) if isinstance(r, Ref)), t) for t in (q, k, v))
    scale = c.get("scale", None)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if c.get("dropout_p", 0.0):
        raise b.refuse("dropout is random, so the network is no fixed map")
    if c.get("enable_gqa", False):
        raise b.refuse("grouped queries are not understood")
    scores = b.scale(b.matmul(q, b.move_second_last(k)), scale)
    allowed, mask = None, c.get("attn_mask", None)
    if isinstance(mask, Ref):
        raise b.refuse("its mask depends on the input")
    if c.get("is_causal", False):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        if mask.dtype == torch.bool:
            allowed = mask
        else:
            finite = torch.where(torch.isfinite(mask), mask, 0.0)
            allowed = ~torch.isneginf(mask)
            scores = b.scale(scores, 1.0, finite)
    if allowed is not None and not allowed.any(-1).all():
        raise b.refuse("a row of its mask allows nothing")
    y = b.matmul(b.softmax(scores, len(scores.shape) - 1, allowed=allowed), v)
    return (y, None) if "flash" in b.operator else y


@_lowers("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_bicubic2d")
def _upsample(c: Call) -> Ref:
    x = c.live()
    apply = getattr(torch.ops.aten, c.builder.operator.split(".")[1])
    rest = {name: value for name, value in c.kwargs.items()}
    dims = int(c.builder.operator.split("d.")[0][-1]) if "d." in c.builder.operator else len(x.shape) - 2
    return c.builder.spatial(x, dims, lambda t: apply(t, *c.args[1:], **rest))


@_lowers("linalg_vector_norm")
def _vector_norm(c: Call) -> Value:
    b, x = c.builder, c.live()
    if c.get("ord", 2) != 2:
        raise b.refuse("only the 2-norm is understood")
    axes = c.get("dim", None)
    axes = list(range(len(x.shape))) if axes is None else axes if isinstance(axes, Sequence) else [axes]
    squares = _ref(b.power(x, 2))
    return b.unary(ops.Sqrt, b.reduce_sum(squares, axes, bool(c.get("keepdim", False))))


_LEAPS = (
    "sign",
    "round",
    "floor",
    "ceil",
    "trunc",
    "argmax",
    "argmin",
    "gt",
    "lt",
    "ge",
    "le",
    "eq",
    "ne",
    "heaviside",
    "hardshrink",
    "threshold",
)


def _refuse_leap(c: Call) -> Any:
    raise c.builder.refuse("it leaps, so it is no Lipschitz map")


for _name in _LEAPS:
    LOWERINGS[f"aten.{_name}"] = _refuse_leap
