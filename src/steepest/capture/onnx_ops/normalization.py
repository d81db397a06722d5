"""ONNX normalisations and softmaxes."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from steepest import ops
from steepest.capture.builder import Ref, Value
from steepest.capture.onnx_ops.call import Call, Outputs


def _column(call: Call, value: Value, x: Ref) -> Value:
    """One number for each channel, shaped to broadcast over ``[batch, channels, ...]``."""
    call.require(tuple(value.shape) == (x.shape[1],), "one number for each channel is expected")
    return call.reshape(value, (x.shape[1], *[1] * (len(x.shape) - 2)))


def batch_normalization(call: Call) -> Outputs:
    """Inference: ``(x - mean) / sqrt(var + eps) * scale + bias`` with constants."""
    x = call.live(0)
    eps = call.real("epsilon", 1e-5)
    call.attribute("momentum", float, 0.9)
    if call.flag("training_mode", False) or call.outputs > 1:
        raise call.refuse("it is in training mode, where its result depends on the batch: export the model in evaluation mode")
    scale, bias, mean, variance = (call.builder.finite(call.constant(i)) for i in range(1, 5))
    # Before version 9, spatial = 0 meant statistics for every entry rather than every channel.
    if call.version >= 9 or call.flag("spatial", True):
        scale, bias, mean, variance = (t for t in (_column(call, c, x) for c in (scale, bias, mean, variance)) if isinstance(t, Tensor))
    elif not all(t.shape == x.shape[1:] for t in (scale, bias, mean, variance)):
        call.require(False, "one number for each entry is expected")
    if not (variance + eps > 0).all():
        raise call.refuse("a variance plus epsilon is not positive")
    weight = scale / (variance + eps).sqrt()
    return call.builder.scale(x, weight, bias - mean * weight)


def _affine(call: Call, y: Value, weight: Value | None, bias: Value | None) -> Value:
    if isinstance(y, Ref) and isinstance(weight, Tensor) and isinstance(bias, Tensor):
        return call.builder.scale(y, weight, bias)
    y = y if weight is None else call.builder.multiply(y, weight)
    return y if bias is None else call.builder.add(y, bias)


def _floor(call: Call, default: float = 1e-5) -> float:
    eps = call.real("epsilon", default)
    if eps < 0:
        raise call.refuse(f"its epsilon is {eps}")
    return eps


def layer_normalization(call: Call) -> Outputs:
    """Over all axes from ``axis`` on."""
    return _last_axes(call, centred=True, bias=call.optional(2))


def rms_normalization(call: Call) -> Outputs:
    """Over all axes from ``axis`` on, without centring."""
    return _last_axes(call, centred=False, bias=None)


def _last_axes(call: Call, centred: bool, bias: Value | None) -> Outputs:
    x, weight = call.live(0), call.value(1)
    axis = call.axis(len(x.shape), -1)
    call.attribute("stash_type", int, 1)
    for parameter in (weight, bias):
        call.require(parameter is None or call.together(x, parameter) == x.shape, "scale and bias are to broadcast to the first")
    return _affine(call, call.builder.normalize(x, len(x.shape) - axis, _floor(call), None, None, centred), weight, bias)


def instance_normalization(call: Call) -> Outputs:
    """Over the spatial axes of every channel."""
    x = call.live(0)
    y = call.builder.group_norm(x, x.shape[1], _floor(call), None, None)
    return _affine(call, y, _column(call, call.value(1), x), _column(call, call.value(2), x))


def group_normalization(call: Call) -> Outputs:
    """Over groups of channels; scale and bias are one a group before version 21, one a channel since."""
    x, groups = call.live(0), call.integer("num_groups", 0)
    call.attribute("stash_type", int, 1)
    call.require(groups > 0 and x.shape[1] % groups == 0, f"the channels are to split into {groups} groups")
    y = call.builder.group_norm(x, groups, _floor(call), None, None)
    if call.version >= 21:
        return _affine(call, y, _column(call, call.value(1), x), _column(call, call.value(2), x))
    repeated = []
    for value in (call.constant(1), call.constant(2)):
        call.require(tuple(value.shape) == (groups,), "scale and bias are to be one number for each group")
        repeated.append(_column(call, value.repeat_interleave(x.shape[1] // groups), x))
    return _affine(call, y, *repeated)


def lp_normalization(call: Call) -> Outputs:
    """``x / |x|`` in l1 or l2 along an axis; no constant near zero."""
    x, p, b = call.live(0), call.integer("p", 2), call.builder
    axis = call.axis(len(x.shape), -1)
    if p == 2:
        # x / sqrt(mean x^2) is sqrt(n) times too long.
        last = b.move_last(x, axis)
        unit = b.scale(b.append(ops.Normalize((last.shape,), False, 0.0), last), 1.0 / math.sqrt(last.shape[-1]))
        return b.move_last(unit, axis)
    if p == 1:
        return b.divide(x, b.reduce_sum(b.relu(x, -1.0), [axis], keepdim=True))
    raise call.refuse(f"its p is {p}; 1 and 2 are understood")


def _softmax(log: bool) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        x = call.masked(0)
        if not isinstance(x, Ref):
            raise call.refuse("it has no input that depends on the network's")
        rank = len(x.shape)
        barred = call.barred.get(x.index)
        axis = call.axis(rank, -1) if call.version >= 13 else call.axis(rank, 1, ends=True)
        call.require(math.prod(x.shape) > 0, "they are to have entries")
        # Before version 13 all axes from the given one on were taken together.
        flat = (
            x
            if call.version >= 13 or (rank and axis == rank - 1)
            else call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        )
        if flat is not x:
            axis = 1
        allowed = None
        if barred is not None:
            allowed = ~barred.reshape(flat.shape)
            if log or axis != len(flat.shape) - 1:
                raise call.refuse("it is masked by minus infinity, which is only understood in a softmax over the last axis")
            if not allowed.any(-1).all():
                raise call.refuse("a whole row of it is masked by minus infinity, so that its result is no number")
        return call.builder.reshape(call.builder.softmax(flat, axis, log, allowed), x.shape)

    return rule


RULES: dict[str, Callable[[Call], Outputs]] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "LpNormalization": lp_normalization,
    "Softmax": _softmax(False),
    "LogSoftmax": _softmax(True),
}
