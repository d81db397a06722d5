"""ONNX operators evaluated on constants alone: what leaps may be done to numbers that do not depend on the input."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steepest.capture.onnx_ops.call import Call


def _one(f: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: f(call.constant(0))


def _two(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    def rule(call: Call) -> Tensor:
        x, y = call.constant(0), call.constant(1)
        call.together(x, y)
        return f(x, y)

    return rule


def _whole(f: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: f(call.constant(0)) if call.constant(0).is_floating_point() else call.constant(0)


def constant_of_shape(call: Call) -> Tensor:
    """One number everywhere; zero in float32 where none is given."""
    shape = call.room(call.constant_ints(0) or ())
    value = call.attribute("value", Tensor, torch.zeros(1, dtype=torch.float64))
    call.require(value.numel() == 1, "its value is to be one number")
    return value.reshape(()).expand(shape).clone()


def numbers(call: Call) -> Tensor:
    """``start, start + delta, ...`` below ``limit``."""
    start, limit, delta = (call.constant(i) for i in range(3))
    if delta.item() == 0:
        raise call.refuse("its step is zero")
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    call.room((count,))
    return start.reshape(()) + delta.reshape(()) * torch.arange(count, dtype=start.dtype)


def cast(call: Call) -> Tensor:
    """To another type: float32 and narrower round, whole numbers are cut towards zero."""
    from onnx import TensorProto

    x, target = call.constant(0), call.integer("to", 0)
    call.attribute("saturate", int, 1)
    call.attribute("round_mode", str, "up")
    name = TensorProto.DataType.Name(target) if target in TensorProto.DataType.values() else str(target)
    floats = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16, "DOUBLE": torch.float64}
    widths = {"INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64, "UINT8": 8, "UINT16": 16, "UINT32": 32}
    if name in floats:
        return x.to(floats[name]).to(torch.float64)
    if name == "BOOL":
        return x != 0
    if name not in widths:
        raise call.refuse(f"it casts a constant to {name}, which is not understood")
    low, high = (0, 2 ** widths[name]) if name.startswith("U") else (-(2 ** (widths[name] - 1)), 2 ** (widths[name] - 1))
    cut = x.trunc() if x.is_floating_point() else x
    inside = (
        (cut >= float(low)) & (cut < float(high)) if x.is_floating_point() or widths[name] < 64 else torch.ones_like(x, dtype=torch.bool)
    )
    if not inside.all():
        raise call.refuse(f"it casts a constant to {name} that does not fit")
    return cut.to(torch.int64)


def non_zero(call: Call) -> Tensor:
    """Positions of entries other than zero, one column each."""
    return call.constant(0).nonzero().mT.contiguous()


def one_hot(call: Call) -> Tensor:
    """A row for each number, on at its place."""
    index, depth, values = call.constant(0), int(call.constant(1).item()), call.constant(2)
    axis = call.axis(index.ndim + 1, -1)
    call.room((*index.shape, depth))
    call.require(values.numel() == 2, "two values are expected")
    index = index.to(torch.int64)
    index = torch.where(index < 0, index + depth, index)
    on = (index.unsqueeze(-1) == torch.arange(depth)).movedim(-1, axis)
    return torch.where(on, values[1], values[0])


def modulo(call: Call) -> Tensor:
    """The remainder, with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    truncated = call.flag("fmod", False)
    return _two(torch.fmod if truncated else torch.remainder)(call)


def eye_like(call: Call) -> Tensor:
    """A (shifted) identity matrix."""
    x, k = call.constant(0), call.integer("k", 0)
    call.attribute("dtype", int, 1)
    call.require(x.ndim == 2, "a matrix is expected")
    return torch.ones(x.shape, dtype=torch.float64).triu(k).tril(k)


def extreme(call: Call) -> Tensor:
    """The position of the largest or smallest entry, the first of several."""
    x = call.constant(0)
    axis, keepdim = call.axis(x.ndim, 0), call.flag("keepdims", True)
    if call.flag("select_last_index", False):
        raise call.refuse("its select_last_index is not understood")
    x = x if call.builder.operator == "ArgMax" else -x
    return (x == x.amax(axis, keepdim=True)).to(torch.int64).argmax(axis, keepdim=keepdim)


RULES: dict[str, Callable[[Call], Tensor]] = {
    "Abs": _one(torch.abs),
    "Neg": _one(torch.neg),
    "Sign": _one(torch.sign),
    "Floor": _whole(torch.floor),
    "Ceil": _whole(torch.ceil),
    "Round": _whole(torch.round),
    "Identity": _one(lambda t: t),
    "Not": _one(torch.logical_not),
    "IsNaN": _one(torch.isnan),
    "Equal": _two(torch.eq),
    "Less": _two(torch.lt),
    "LessOrEqual": _two(torch.le),
    "Greater": _two(torch.gt),
    "GreaterOrEqual": _two(torch.ge),
    "And": _two(torch.logical_and),
    "Or": _two(torch.logical_or),
    "Xor": _two(torch.logical_xor),
    "Mod": modulo,
    "Cast": cast,
    "ConstantOfShape": constant_of_shape,
    "Range": numbers,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "EyeLike": eye_like,
    "ArgMax": extreme,
    "ArgMin": extreme,
}
