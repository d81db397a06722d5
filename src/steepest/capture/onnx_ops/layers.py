"""ONNX layers with windows: convolutions and poolings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from steepest.capture.builder import Ref
from steepest.capture.onnx_ops.call import Call, Outputs

Pads = list[tuple[int, int]]


def _window(call: Call, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations."""
    stride, dilation = (call.ints(n) or (1,) * dims for n in ("strides", "dilations"))
    fits = len(stride) == len(dilation) == dims and min(*stride, *dilation) > 0 and max(*stride, *dilation) < 2**31
    call.require(fits, f"strides and dilations are to be {dims} positive numbers below 2^31")
    return stride, dilation


def _pads(call: Call, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
    """Padding before and after each axis; ``auto_pad`` makes the output ``ceil(n / stride)`` long."""
    mode, given = call.text("auto_pad", "NOTSET"), call.ints("pads") or (0,) * (2 * len(size))
    call.require(len(given) == 2 * len(size), f"its pads are to be {2 * len(size)} numbers")
    if min(given) < 0:
        raise call.refuse("a padding is negative")
    if mode == "NOTSET":
        return list(zip(given[: len(size)], given[len(size) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(size)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"its auto_pad {mode!r} is not understood")
    pads = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        whole = (-(-n // s) - 1) * s + d * (k - 1) + 1 - n
        if whole < -1:
            # onnxruntime crops both ends there, TensorFlow only the last; ONNX does not say.
            raise call.refuse(f"its auto_pad {mode!r} leaves open which entries a stride of {s} skips: export the model with explicit pads")
        whole = max(whole, 0)
        pads.append((whole // 2, whole - whole // 2) if mode == "SAME_UPPER" else (whole - whole // 2, whole // 2))
    return pads


def _require_windows(call: Call, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], pads: Pads) -> None:
    """At least one window fits every axis."""
    for n, k, d, (low, high) in zip(size, kernel, dilation, pads, strict=True):
        call.require(n > 0 and n + low + high >= d * (k - 1) + 1, f"the kernel {list(kernel)} does not fit into them")
        call.room((n + low + high,))


def _convolution(call: Call) -> tuple[Ref, int]:
    """What both convolutions check: the input and its number of spatial axes."""
    x = call.live(0)
    if isinstance(call.inputs[1], Ref):
        raise call.refuse("its weight depends on the network's input; only a constant is understood")
    weight, dims = call.constant(1), len(x.shape) - 2
    if not 1 <= dims <= 3:
        raise call.refuse(f"it has {dims} spatial axes; 1 to 3 are understood")
    call.require(weight.ndim == dims + 2 and weight.numel() > 0, "the weight is to have as many axes as the first")
    kernel = call.ints("kernel_shape")
    call.require(kernel is None or kernel == tuple(weight.shape[2:]), f"its kernel_shape is {kernel}")
    return x, dims


def conv(call: Call) -> Outputs:
    """A convolution with a constant weight."""
    x, dims = _convolution(call)
    weight, bias, groups = call.constant(1), call.optional_constant(2), call.integer("group", 1)
    call.require(
        groups > 0 and x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0, f"channels are to fit {groups} groups"
    )
    call.require(bias is None or tuple(bias.shape) == (weight.shape[0],), "the third is to be one number for each channel")
    kernel = tuple(weight.shape[2:])
    stride, dilation = _window(call, dims)
    pads = _pads(call, x.shape[2:], kernel, stride, dilation)
    _require_windows(call, x.shape[2:], kernel, dilation, pads)
    return call.builder.conv(x, weight, bias, stride, pads, dilation, groups)


def conv_transpose(call: Call) -> Outputs:
    """A transposed convolution; ``output_shape`` and ``auto_pad`` stand for the padding that makes that length."""
    x, dims = _convolution(call)
    weight, bias, groups = call.constant(1), call.optional_constant(2), call.integer("group", 1)
    call.require(groups > 0 and x.shape[1] == weight.shape[0] and weight.shape[0] % groups == 0, f"channels are to fit {groups} groups")
    call.require(bias is None or tuple(bias.shape) == (weight.shape[1] * groups,), "the third is to be one number for each channel")
    stride, dilation = _window(call, dims)
    extra = list(call.ints("output_padding") or (0,) * dims)
    call.require(len(extra) == dims and min(extra) >= 0, f"its output_padding is to be {dims} numbers of at least zero")
    mode, target = call.text("auto_pad", "NOTSET"), call.ints("output_shape")
    given = call.ints("pads") or (0,) * (2 * dims)
    call.require(len(given) == 2 * dims, f"its pads are to be {2 * dims} numbers")
    if min(given) < 0:
        raise call.refuse("a padding is negative")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"its auto_pad {mode!r} is not understood")
    pads = list(zip(given[:dims], given[dims:], strict=True)) if mode == "NOTSET" else [(0, 0)] * dims
    if target is None and mode.startswith("SAME"):
        target = tuple(n * s for n, s in zip(x.shape[2:], stride, strict=True))
    if target is not None:
        target = target[-dims:]
        call.require(len(target) == dims and min(target) > 0, f"its output_shape is to be {dims} positive numbers")
        for a, (n, s, d, k, out) in enumerate(zip(x.shape[2:], stride, dilation, weight.shape[2:], target, strict=True)):
            whole = s * (n - 1) + extra[a] + d * (k - 1) + 1 - out
            if whole < 0:
                raise call.refuse(f"its output_shape {list(target)} is longer than what the kernel reaches")
            pads[a] = (whole // 2, whole - whole // 2) if mode == "SAME_UPPER" else (whole - whole // 2, whole // 2)
    # Beyond the stride an output padding lengthens the output by entries that no kernel reaches.
    reached = [min(e, s - 1) for e, s in zip(extra, stride, strict=True)]
    size = [
        (n - 1) * s - low - high + d * (k - 1) + o + 1
        for n, s, (low, high), d, k, o in zip(x.shape[2:], stride, pads, dilation, weight.shape[2:], extra, strict=True)
    ]
    call.require(min(size) > 0, f"its output would have the size {size}")
    call.room((x.shape[0], weight.shape[1] * groups, *size))
    b = call.builder
    if reached == extra:
        return b.conv_transpose(x, weight, bias, stride, pads, dilation, groups, extra)
    # Cropping comes last: the padding may eat into the entries that are added.
    y = b.conv_transpose(x, weight, None, stride, [(0, 0)] * dims, dilation, groups, reached)
    y = b.pad(y, [(0, 0), (0, 0), *((-low, e - o - high) for (low, high), e, o in zip(pads, extra, reached, strict=True))])
    return y if bias is None else b.scale(y, 1.0, b.finite(bias).reshape(-1, *[1] * dims))


def _pool(call: Call) -> tuple[Ref, tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads, bool]:
    x, dims = call.live(0), len(call.live(0).shape) - 2
    kernel = call.ints("kernel_shape") or ()
    call.require(dims >= 1 and len(kernel) == dims and min(kernel) > 0, "its kernel_shape is to be a positive number for each spatial axis")
    stride, dilation = _window(call, dims)
    pads = _pads(call, x.shape[2:], kernel, stride, dilation)
    _require_windows(call, x.shape[2:], kernel, dilation, pads)
    return x, kernel, stride, dilation, pads, call.flag("ceil_mode", False)


def average_pool(call: Call) -> Outputs:
    """The mean over windows."""
    x, kernel, stride, dilation, pads, ceil_mode = _pool(call)
    counted = call.flag("count_include_pad", False)
    if len(kernel) > 3:
        raise call.refuse(f"it has {len(kernel)} spatial axes; 1 to 3 are understood")
    _require_entries(call, x.shape[2:], kernel, stride, dilation, pads, ceil_mode)
    return call.builder.average_pool(x, kernel, stride, pads, ceil_mode, counted, None, dilation)


def max_pool(call: Call) -> Outputs:
    """The maximum over windows."""
    call.integer("storage_order", 0)
    x, kernel, stride, dilation, pads, ceil_mode = _pool(call)
    _require_entries(call, x.shape[2:], kernel, stride, dilation, pads, ceil_mode)
    call.room((math.prod(kernel), *x.shape))
    return call.builder.max_pool(x, kernel, stride, pads, dilation, ceil_mode)


def _require_entries(
    call: Call, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads, ceil_mode: bool
) -> None:
    """Refuse windows that hold padding alone: their result is no number."""
    for n, k, s, d, (low, high) in zip(size, kernel, stride, dilation, pads, strict=True):
        steps = n + low + high - d * (k - 1) - 1
        out = (-(-steps // s) if ceil_mode else steps // s) + 1
        out = out - 1 if ceil_mode and (out - 1) * s >= n + low else out
        at = torch.arange(out)[:, None] * s + torch.arange(k)[None] * d - low
        if not ((at >= 0) & (at < n)).any(-1).all():
            raise call.refuse("one of its windows holds padding alone")


def global_average_pool(call: Call) -> Outputs:
    """The mean over all spatial axes."""
    x = call.live(0)
    return call.builder.reduce_sum(x, range(2, len(x.shape)), keepdim=True, mean=True)


def global_max_pool(call: Call) -> Outputs:
    """The maximum over all spatial axes."""
    x = call.live(0)
    return call.builder.reduce_max(x, range(2, len(x.shape)), keepdim=True)


RULES: dict[str, Callable[[Call], Outputs]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
}
