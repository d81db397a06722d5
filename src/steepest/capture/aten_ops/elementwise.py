"""Functions of one variable, and what leaps and is refused."""

from __future__ import annotations

from typing import Any

import torch

from steepest import ops
from steepest.capture.aten_ops.call import LOWERINGS, Call, Lowering, lowers
from steepest.capture.builder import Ref, Value


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
LOWERINGS["aten.expm1"] = lambda c: c.builder.scale(c.builder.unary(ops.Exp, c.live()), 1.0, -1.0)
LOWERINGS["aten.log1p"] = lambda c: c.builder.unary(ops.Log, c.builder.scale(c.live(), 1.0, 1.0))
LOWERINGS["aten.log_sigmoid"] = lambda c: c.builder.negate(c.builder.unary(ops.Softplus, c.builder.scale(c.live(), -1.0)))
LOWERINGS["aten.log_sigmoid_forward"] = lambda c: (LOWERINGS["aten.log_sigmoid"](c), None)
LOWERINGS["aten.gelu"] = lambda c: c.builder.unary(ops.GeluTanh if c.get("approximate", "none") == "tanh" else ops.Gelu, c.live())


@lowers("rrelu", "rrelu_with_noise")
def _rrelu(c: Call) -> Ref:
    if c.get("training", False):
        raise c.builder.refuse("its slope is random, so the network is no fixed map")
    return c.builder.relu(c.live(), 0.5 * (c.get("lower", 1 / 8) + c.get("upper", 1 / 3)))


@lowers("glu")
def _glu(c: Call) -> Value:
    b, x = c.builder, c.live()
    axis = c.get("dim", -1) % len(x.shape)
    half = x.shape[axis] // 2
    value, gate = (b.select(x, lambda t, k=k: t.narrow(axis, k * half, half)) for k in (0, 1))
    return b.multiply(value, b.unary(ops.Sigmoid, gate))


@lowers("elu", "selu", "celu")
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


@lowers("softplus")
def _softplus(c: Call) -> Ref:
    beta = float(c.get("beta", 1.0))
    return c.builder.scale(c.builder.unary(ops.Softplus, c.builder.scale(c.live(), beta)), 1.0 / beta)


@lowers("prelu", "_prelu_kernel")
def _prelu(c: Call) -> Ref:
    slope = c.fixed("weight")
    assert slope is not None
    x = c.live()
    if slope.ndim == 1 and len(x.shape) >= 2:
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    return c.builder.relu(x, slope)


@lowers("clamp", "clamp_min", "clamp_max")
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
