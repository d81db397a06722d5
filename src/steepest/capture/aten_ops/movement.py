"""Entries moved: reshape, permute, slice, concatenate, pad, resize."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest.capture.aten_ops.call import Call, lowers
from steepest.capture.builder import Ref, Value


@lowers("view", "reshape", "_unsafe_view", "_reshape_copy", "flatten", "unflatten", "squeeze", "unsqueeze", "expand_copy")
def _reshape(c: Call) -> Ref:
    x = c.live()
    return c.builder.reshape(x, _moved_shape(c, x))


def _moved_shape(c: Call, x: Ref) -> tuple[int, ...]:
    name = c.builder.operator.split(".")[1]
    meta = torch.empty(x.shape, device="meta")
    if name in ("view", "reshape", "_unsafe_view", "_reshape_copy"):
        return tuple(meta.reshape(c.args[1]).shape)
    return tuple(getattr(torch, name)(meta, *c.args[1:], **c.kwargs).shape)


@lowers("permute", "transpose", "t", "numpy_T")
def _permute(c: Call) -> Ref:
    x = c.live()
    name = c.builder.operator.split(".")[1]
    if name == "permute":
        return c.builder.permute(x, c.args[1])
    dims = list(range(len(x.shape)))
    if name == "transpose":
        a, b = c.args[1] % len(dims), c.args[2] % len(dims)
        dims[a], dims[b] = dims[b], dims[a]
        return c.builder.permute(x, dims)
    return c.builder.permute(x, dims[::-1])


@lowers(
    "slice", "select", "expand", "repeat", "narrow", "index_select", "gather", "flip", "roll", "pixel_shuffle", "pixel_unshuffle",
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


@lowers("index")
def _index(c: Call) -> Ref:
    x = c.live()
    if any(isinstance(i, Ref) for i in c.args[1]):
        raise c.builder.refuse("its positions depend on the input")
    return c.builder.select(x, lambda t: torch.ops.aten.index(t, c.args[1]))


@lowers("cat", "stack")
def _cat(c: Call) -> Value:
    b, axis = c.builder, c.get("dim", 0)
    values = [v if isinstance(v, Ref) else v.to(torch.float64) for v in c.args[0]]
    if "stack" in b.operator:
        axis %= len(values[0].shape) + 1
        shapes = [(*v.shape[:axis], 1, *v.shape[axis:]) for v in values]
        values = [b.reshape(v, s) if isinstance(v, Ref) else v.reshape(s) for v, s in zip(values, shapes, strict=True)]
    return b.concat(values, axis)


@lowers(
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


@lowers("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_bicubic2d")
def _upsample(c: Call) -> Ref:
    x = c.live()
    apply = getattr(torch.ops.aten, c.builder.operator.split(".")[1])
    if "nearest" in c.builder.operator:
        # Copies of entries, found on their positions, which stay exact below 2^53.
        return c.builder.select(x, lambda t: apply(t.double(), *c.args[1:], **c.kwargs).long())
    return c.builder.spatial(x, len(x.shape) - 2, lambda t: apply(t, *c.args[1:], **c.kwargs))
