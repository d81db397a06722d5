"""Dense layers, convolutions, pooling, normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from steepest.capture.aten_ops.call import LOWERINGS, Call, Lowering, lowers, pairs
from steepest.capture.builder import Ref


@lowers("linear")
def _linear(c: Call) -> Ref:
    weight = c.fixed("weight")
    assert weight is not None
    return c.builder.dense(c.live(), weight, c.fixed("bias"))


@lowers("convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(c: Call) -> Ref:
    b = c.builder
    weight, bias = c.fixed("weight"), c.fixed("bias")
    assert weight is not None
    dims = weight.ndim - 2
    stride, dilation = pairs(c.get("stride", 1), dims), pairs(c.get("dilation", 1), dims)
    padding, groups = c.get("padding", 0), c.get("groups", 1)
    if isinstance(padding, str):
        if padding == "valid":
            pads = [(0, 0)] * dims
        else:
            reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            pads = [(r // 2, r - r // 2) for r in reach]
    else:
        pads = [(p, p) for p in pairs(padding, dims)]
    if c.get("transposed", False) or "transpose" in b.operator:
        return b.conv_transpose(c.live(), weight, bias, stride, pads, dilation, groups, pairs(c.get("output_padding", 0), dims))
    return b.conv(c.live(), weight, bias, stride, pads, dilation, groups)


@lowers("batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm", "cudnn_batch_norm")
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


@lowers("layer_norm", "native_layer_norm")
def _layer_norm(c: Call) -> Any:
    y = c.builder.normalize(c.live(), len(c.get("normalized_shape")), c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))
    return (y, None, None) if "native" in c.builder.operator else y


@lowers("rms_norm", "_fused_rms_norm")
def _rms_norm(c: Call) -> Any:
    eps = c.get("eps", None)
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    y = c.builder.normalize(c.live(), len(c.get("normalized_shape")), eps, c.fixed("weight"), None, centred=False)
    return (y, None) if "fused" in c.builder.operator else y


@lowers("group_norm", "native_group_norm")
def _group_norm(c: Call) -> Any:
    groups = c.get("num_groups", None) or c.get("group")
    y = c.builder.group_norm(c.live(), groups, c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))
    return (y, None, None) if "native" in c.builder.operator else y


@lowers("instance_norm")
def _instance_norm(c: Call) -> Ref:
    if not c.get("use_input_stats", True):
        return _batch_norm(Call(c.builder, c.args[:5], {"training": False, "eps": c.get("eps", 1e-5)}, c.names))
    x = c.live()
    return c.builder.group_norm(x, x.shape[1], c.get("eps", 1e-5), c.fixed("weight"), c.fixed("bias"))


def _pool_arguments(c: Call, dims: int) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    kernel = pairs(c.get("kernel_size"), dims)
    stride = c.get("stride", None)
    return kernel, pairs(stride, dims) if stride else kernel, [(p, p) for p in pairs(c.get("padding", 0), dims)]


def _max_pool(dims: int, indices: bool) -> Lowering:
    def lower(c: Call) -> Any:
        kernel, stride, pads = _pool_arguments(c, dims)
        y = c.builder.max_pool(c.live(), kernel, stride, pads, pairs(c.get("dilation", 1), dims), bool(c.get("ceil_mode", False)))
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
        sizes = [n if o is None else o for n, o in zip(x.shape[-dims:], pairs(c.get("output_size"), dims), strict=True)]
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
