"""ONNX activations and functions of one variable."""

from __future__ import annotations

from collections.abc import Callable

import torch

from steepest import ops
from steepest.capture.onnx_ops.call import Call, Outputs
from steepest.ops import Elementwise


def _plain(kind: type[Elementwise]) -> Callable[[Call], Outputs]:
    """A function without parameters."""
    return lambda call: call.builder.unary(kind, call.live(0))


def relu(call: Call) -> Outputs:
    """``max(x, 0)``."""
    return call.builder.relu(call.live(0))


def absolute(call: Call) -> Outputs:
    """``|x|``."""
    return call.builder.relu(call.live(0), -1.0)


def negative(call: Call) -> Outputs:
    """``-x``."""
    return call.builder.negate(call.live(0))


def leaky_relu(call: Call) -> Outputs:
    """ReLU with a slope below zero."""
    return call.builder.relu(call.live(0), call.real("alpha", 0.01))


def prelu(call: Call) -> Outputs:
    """ReLU with constant slopes below zero, broadcast to x."""
    x, slope = call.live(0), call.constant(1)
    call.require(call.together(x, slope) == x.shape, "the slopes are to broadcast to the first")
    return call.builder.relu(x, slope)


def thresholded_relu(call: Call) -> Outputs:
    """``x where x > alpha``, continuous for alpha zero alone."""
    if call.real("alpha", 1.0) != 0.0:
        raise call.refuse("it leaps from 0 to alpha, so that it is not a Lipschitz map")
    return call.builder.relu(call.live(0))


def elu(call: Call) -> Outputs:
    """``x`` above zero, ``alpha (e^x - 1)`` below."""
    return call.builder.unary(ops.Elu, call.live(0), _not_negative(call, call.real("alpha", 1.0)))


def selu(call: Call) -> Outputs:
    """``gamma elu(x)``."""
    alpha = _not_negative(call, call.real("alpha", 1.67326319217681884765625))
    return call.builder.scale(call.builder.unary(ops.Elu, call.live(0), alpha), call.real("gamma", 1.05070102214813232421875))


def celu(call: Call) -> Outputs:
    """``alpha elu_1(x / alpha)``."""
    b, alpha = call.builder, call.real("alpha", 1.0)
    if alpha <= 0.0:
        raise call.refuse(f"its alpha is {alpha}; only positive ones are understood")
    return b.scale(b.unary(ops.Elu, b.scale(call.live(0), 1.0 / alpha), 1.0), alpha)


def _not_negative(call: Call, alpha: float) -> float:
    if alpha < 0.0:
        raise call.refuse(f"its alpha is {alpha}; only those of at least zero are understood")
    return alpha


def hard_sigmoid(call: Call) -> Outputs:
    """``min(max(alpha x + beta, 0), 1)``."""
    return call.builder.clamp(call.builder.scale(call.live(0), call.real("alpha", 0.2), call.real("beta", 0.5)), 0.0, 1.0)


def gelu(call: Call) -> Outputs:
    """Either GELU."""
    kinds: dict[str, type[Elementwise]] = {"none": ops.Gelu, "tanh": ops.GeluTanh}
    approximate = call.text("approximate", "none")
    if approximate not in kinds:
        raise call.refuse(f"its approximation {approximate!r} is not understood")
    return call.builder.unary(kinds[approximate], call.live(0))


def swish(call: Call) -> Outputs:
    """``x sigmoid(alpha x) = silu(alpha x) / alpha``."""
    b, alpha = call.builder, call.real("alpha", 1.0)
    if alpha == 0.0:
        return b.scale(call.live(0), 0.5)
    return b.scale(b.unary(ops.Silu, b.scale(call.live(0), alpha)), 1.0 / alpha)


def shrink(call: Call) -> Outputs:
    """Soft shrinkage ``x - min(max(x, -l), l)``; with another bias it leaps."""
    x, bias, threshold = call.live(0), call.real("bias", 0.0), call.real("lambd", 0.5)
    if bias != threshold or threshold < 0.0:
        raise call.refuse("its bias is not its threshold, so that it leaps and is not a Lipschitz map")
    return call.builder.add(x, call.builder.clamp(x, -threshold, threshold), -1)


def cast(call: Call) -> Outputs:
    """Between floating types: in real arithmetic the identity."""
    from onnx import TensorProto

    call.attribute("saturate", int, 1)
    call.attribute("round_mode", str, "up")
    target = call.integer("to", 0)
    floating = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    if target not in floating:
        name = TensorProto.DataType.Name(target) if target in TensorProto.DataType.values() else str(target)
        raise call.refuse(f"it rounds what depends on the network's input to {name}, so that it leaps and is not a Lipschitz map")
    return call.live(0)


def cast_like(call: Call) -> Outputs:
    """To the type of another tensor, which is to be a floating one."""
    call.attribute("saturate", int, 1)
    call.attribute("round_mode", str, "up")
    like = call.value(1)
    if isinstance(like, torch.Tensor) and not like.is_floating_point():
        raise call.refuse("it rounds what depends on the network's input to whole numbers, so that it leaps and is not a Lipschitz map")
    return call.live(0)


def is_not_a_number(call: Call) -> Outputs:
    """In real arithmetic nothing is NaN or infinite."""
    for name in ("detect_positive", "detect_negative"):
        call.attribute(name, int, 1)
    return torch.zeros(call.live(0).shape, dtype=torch.bool)


def dropout(call: Call) -> Outputs:
    """Inference: the identity, and a mask of ones."""
    x = call.live(0)
    call.attribute("seed", int, 0)
    if call.version >= 12:
        ratio, training = call.optional_constant(1), call.optional_constant(2)
        if training is not None and bool(training.any()) and (ratio is None or bool((ratio != 0).any())):
            raise call.refuse("it is in training mode, where its result is random: export the model in evaluation mode")
    else:
        call.attribute("ratio", float, 0.5)
    return x, torch.ones(x.shape, dtype=torch.bool)


def identity(call: Call) -> Outputs:
    """The input itself."""
    x = call.masked(0)
    call.require(x is not None, "one is expected")
    assert x is not None
    return x


def tangent(call: Call) -> Outputs:
    """``sin x / cos x``."""
    b, x = call.builder, call.live(0)
    return b.divide(b.unary(ops.Sin, x), b.unary(ops.Cos, x))


def hyperbolic(sign: int) -> Callable[[Call], Outputs]:
    """``(e^x + sign e^-x) / 2``."""

    def rule(call: Call) -> Outputs:
        b, x = call.builder, call.live(0)
        both = b.add(b.unary(ops.Exp, x), b.unary(ops.Exp, b.scale(x, -1.0)), sign)
        return b.multiply(both, torch.tensor(0.5, dtype=torch.float64))

    return rule


RULES: dict[str, Callable[[Call], Outputs]] = {
    "Relu": relu,
    "Abs": absolute,
    "Neg": negative,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "ThresholdedRelu": thresholded_relu,
    "Elu": elu,
    "Selu": selu,
    "Celu": celu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _plain(ops.HardSwish),
    "Gelu": gelu,
    "Swish": swish,
    "Shrink": shrink,
    "Mish": _plain(ops.Mish),
    "Softplus": _plain(ops.Softplus),
    "Softsign": _plain(ops.Softsign),
    "Sigmoid": _plain(ops.Sigmoid),
    "Tanh": _plain(ops.Tanh),
    "Erf": _plain(ops.Erf),
    "Exp": _plain(ops.Exp),
    "Log": _plain(ops.Log),
    "Sqrt": _plain(ops.Sqrt),
    "Reciprocal": _plain(ops.Reciprocal),
    "Sin": _plain(ops.Sin),
    "Cos": _plain(ops.Cos),
    "Tan": tangent,
    "Sinh": hyperbolic(-1),
    "Cosh": hyperbolic(1),
    "Cast": cast,
    "CastLike": cast_like,
    "Dropout": dropout,
    "Identity": identity,
    "IsNaN": is_not_a_number,
    "IsInf": is_not_a_number,
}
