"""Functions of one variable: their range and the range of their slope over intervals.

Each is monotone between known points. numpy's elementary functions are taken to be within eight units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.proofs.checker.box import Array, Box, widen

Function = Callable[[Array], Array]
_RELATIVE = 2.0**-46
_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class Curve:
    """A function monotone between ``turns``, with its values at minus and plus infinity; ``absolute`` is its error near zero."""

    f: Function
    turns: tuple[float, ...]
    at_infinity: tuple[float, float]
    absolute: float = 2.0**-1000

    def over(self, x: Box) -> Box:
        """Range over each interval."""
        values = []
        for end in (x.lo, x.hi):
            v = self.f(np.where(np.isfinite(end), end, 0.0))
            v = np.where(end == np.inf, self.at_infinity[1], np.where(end == -np.inf, self.at_infinity[0], v))
            values.append(v)
        low, high = np.minimum(*values), np.maximum(*values)
        for t in self.turns:
            inside = (x.lo <= t) & (t <= x.hi)
            v = self.f(np.array(t))
            low, high = np.where(inside, np.minimum(low, v), low), np.where(inside, np.maximum(high, v), high)
        e_low = _RELATIVE * np.abs(np.where(np.isfinite(low), low, 0.0)) + self.absolute
        e_high = _RELATIVE * np.abs(np.where(np.isfinite(high), high, 0.0)) + self.absolute
        return widen(low - e_low, high + e_high)


def _logistic(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _bump(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return e / (1.0 + e) ** 2


def _soft(x: Array) -> Array:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _normal(x: Array) -> Array:
    return 0.5 * np.asarray(_erfc(-np.asarray(x, dtype=np.float64) / math.sqrt(2.0)), dtype=np.float64)


def _density(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gate(x: Array) -> tuple[Array, Array]:
    """The argument of tanh-GELU's gate (doubled) and its derivative."""
    x = np.clip(x, -60.0, 60.0)
    c = 2.0 * math.sqrt(2.0 / math.pi)
    return c * (x + 0.044715 * x**3), c * (1.0 + 3 * 0.044715 * x * x)


def _gelu_tanh_slope(x: Array) -> Array:
    u, du = _gate(x)
    return _logistic(u) + np.clip(x, -60, 60) * du * _bump(u)


def _mish_slope(x: Array) -> Array:
    s = _soft(x)
    return np.tanh(s) + x * 4.0 * _bump(2.0 * s) * _logistic(x)


_INF = math.inf
_SMOOTH: dict[str, tuple[Curve, Curve]] = {
    "sigmoid": (Curve(_logistic, (), (0.0, 1.0)), Curve(_bump, (0.0,), (0.0, 0.0))),
    "tanh": (Curve(np.tanh, (), (-1.0, 1.0)), Curve(lambda x: 4.0 * _bump(2.0 * x), (0.0,), (0.0, 0.0))),
    "erf": (
        Curve(lambda x: np.asarray(_erf(x), dtype=np.float64), (), (-1.0, 1.0), 1e-15),
        Curve(lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x), (0.0,), (0.0, 0.0)),
    ),
    "softplus": (Curve(_soft, (), (0.0, _INF)), Curve(_logistic, (), (0.0, 1.0))),
    "softsign": (Curve(lambda x: x / (1 + np.abs(x)), (), (-1.0, 1.0)), Curve(lambda x: 1 / (1 + np.abs(x)) ** 2, (0.0,), (0.0, 0.0))),
    "gelu": (
        Curve(lambda x: x * _normal(x), (-0.7517915246935645,), (0.0, _INF), 1e-13),
        Curve(lambda x: _normal(x) + x * _density(x), (-math.sqrt(2), math.sqrt(2)), (0.0, 1.0), 1e-13),
    ),
    "gelu_tanh": (
        Curve(lambda x: x * _logistic(_gate(x)[0]), (-0.7524614220710163,), (0.0, _INF), 1e-13),
        Curve(_gelu_tanh_slope, (-1.4185040087908284, 1.4185040087908284), (0.0, 1.0), 1e-13),
    ),
    "silu": (
        Curve(lambda x: x * _logistic(x), (-1.2784645427610738,), (0.0, _INF), 1e-14),
        Curve(lambda x: _logistic(x) + x * _bump(x), (-2.3993572805154677, 2.3993572805154677), (0.0, 1.0), 1e-14),
    ),
    "mish": (
        Curve(lambda x: x * np.tanh(_soft(x)), (-1.1924312145154952,), (0.0, _INF), 1e-14),
        Curve(_mish_slope, (-2.256376396360793, 1.4905711794854285), (0.0, 1.0), 1e-14),
    ),
    "tanhshrink": (Curve(lambda x: x - np.tanh(x), (), (-_INF, _INF), 1e-14), Curve(lambda x: np.tanh(x) ** 2, (0.0,), (1.0, 1.0))),
    "exp": (Curve(np.exp, (), (0.0, _INF)), Curve(np.exp, (), (0.0, _INF))),
}


def _unknown_where(bad: Array, known: Box) -> Box:
    return Box(np.where(bad, -np.inf, known.lo), np.where(bad, np.inf, known.hi))


def _positive_only(f: Function, x: Box, at_infinity: float) -> Box:
    bad = ~(x.lo > 0)
    curve = Curve(f, (), (0.0, at_infinity))
    return _unknown_where(bad, curve.over(Box(np.where(bad, 1.0, x.lo), np.where(bad, 1.0, x.hi))))


def _wave(x: Box, shift: float) -> Box:
    """``cos(x - shift)``: all of [-1, 1] unless crests and troughs are clearly outside."""
    known = np.isfinite(x.lo) & np.isfinite(x.hi) & (x.size < 1e6)
    lo, hi = np.where(known, x.lo, 0.0) - shift, np.where(known, x.hi, 0.0) - shift
    a, b = lo / (2 * math.pi) - 1e-8, hi / (2 * math.pi) + 1e-8
    crest, trough = np.floor(b) >= np.ceil(a), np.floor(b + 0.5) >= np.ceil(a + 0.5)
    e = 4e-15 * (1 + np.maximum(np.abs(lo), np.abs(hi)))
    low = np.where(trough | ~known, -1.0, np.minimum(np.cos(lo), np.cos(hi)) - e)
    high = np.where(crest | ~known, 1.0, np.maximum(np.cos(lo), np.cos(hi)) + e)
    return Box(np.maximum(low, -1.0), np.minimum(high, 1.0))


def _whole_power(x: Box, n: int, factor: float) -> Box:
    odd = n % 2 == 1
    with np.errstate(over="ignore"):
        return Curve(lambda t: factor * t**n, () if odd else (0.0,), (-_INF if odd else _INF, _INF)).over(x)


def value_over(op: str, attributes: Mapping[str, Any], weights: Mapping[str, Array], x: Box) -> Box:
    """Range of the function over each interval."""
    if op in _SMOOTH:
        return _SMOOTH[op][0].over(x)
    if op == "leaky_relu":
        slope = np.broadcast_to(weights["slope"], x.lo.shape)
        with np.errstate(invalid="ignore"):
            ends = [np.where(e > 0, e, np.where(slope == 0, 0.0, slope * e)) for e in (x.lo, x.hi)]
        low, high = np.minimum(*ends), np.maximum(*ends)
        kink = (x.lo <= 0) & (x.hi >= 0)
        low, high = np.where(kink, np.minimum(low, 0.0), low), np.where(kink, np.maximum(high, 0.0), high)
        exact = (slope == 0) | (x.lo > 0)
        wide = widen(low, high)
        return Box(np.where(exact, low, wide.lo), np.where(exact, high, wide.hi))
    if op == "clamp":
        low = -np.inf if attributes["low"] is None else attributes["low"]
        high = np.inf if attributes["high"] is None else attributes["high"]
        return x.moved(lambda t: np.minimum(np.maximum(t, low), high))
    if op == "hard_swish":

        def f(t: Array) -> Array:
            return t * np.clip(t + 3.0, 0.0, 6.0) / 6.0

        return Curve(f, (-3.0, -1.5), (0.0, np.inf), 1e-14).over(x)
    if op == "elu":
        alpha = attributes["alpha"]
        low = Curve(lambda t: np.where(t > 0, t, alpha * np.expm1(np.minimum(t, 0.0))), (), (-alpha, np.inf)).over(x)
        return low
    if op == "reciprocal":
        bad = (x.lo <= 0) & (x.hi >= 0)
        safe = Box(np.where(bad, 1.0, x.lo), np.where(bad, 1.0, x.hi))
        return _unknown_where(bad, Curve(lambda t: 1.0 / np.where(t == 0, 1.0, t), (), (0.0, 0.0)).over(safe))
    if op == "sqrt":
        bad = ~(x.lo >= 0)
        return _unknown_where(bad, Curve(np.sqrt, (), (0.0, np.inf)).over(Box(np.where(bad, 0.0, x.lo), np.where(bad, 0.0, x.hi))))
    if op == "log":
        return _positive_only(np.log, x, np.inf)
    if op == "power":
        return _whole_power(x, attributes["exponent"], 1.0)
    if op == "sin":
        return _wave(x, math.pi / 2)
    if op == "cos":
        return _wave(x, 0.0)
    raise ValueError(f"unknown operator {op!r}")


def slope_over(op: str, attributes: Mapping[str, Any], weights: Mapping[str, Array], x: Box) -> Box:
    """Range of all Clarke derivatives over each interval."""
    if op in _SMOOTH:
        return _SMOOTH[op][1].over(x)
    if op == "leaky_relu":
        slope = np.broadcast_to(weights["slope"], x.lo.shape)
        up, down = x.hi >= 0, x.lo <= 0
        low = np.where(up & down, np.minimum(slope, 1.0), np.where(up, 1.0, slope))
        return Box(low, np.where(up & down, np.maximum(slope, 1.0), np.where(up, 1.0, slope)))
    if op == "clamp":
        low = -np.inf if attributes["low"] is None else attributes["low"]
        high = np.inf if attributes["high"] is None else attributes["high"]
        surely = (x.lo > low) & (x.hi < high)
        never = (x.hi < low) | (x.lo > high)
        return Box(surely.astype(np.float64), (~never).astype(np.float64))
    if op == "hard_swish":
        a, b = np.clip(x.lo, -3, 3), np.clip(x.hi, -3, 3)
        low, high = (2 * a + 3) / 6 - 1e-15, (2 * b + 3) / 6 + 1e-15
        left, right = x.lo <= -3, x.hi >= 3
        low = np.where(right, np.minimum(low, 1.0), np.where(left, np.minimum(low, 0.0), low))
        high = np.where(right, np.maximum(high, 1.0), np.where(left, np.maximum(high, 0.0), high))
        low, high = np.where(x.hi < -3, 0.0, low), np.where(x.hi < -3, 0.0, high)
        return Box(np.where(x.lo > 3, 1.0, low), np.where(x.lo > 3, 1.0, high))
    if op == "elu":
        alpha = attributes["alpha"]
        under = Curve(lambda t: alpha * np.exp(np.minimum(t, 0.0)), (), (0.0, alpha)).over(x)
        low, high = np.where(x.lo > 0, 1.0, under.lo), np.where(x.lo > 0, 1.0, under.hi)
        reaches = x.hi >= 0
        return Box(np.where(reaches, np.minimum(low, 1.0), low), np.where(reaches, np.maximum(high, 1.0), high))
    if op == "reciprocal":
        bad = (x.lo <= 0) & (x.hi >= 0)
        safe = Box(np.where(bad, 1.0, x.lo), np.where(bad, 1.0, x.hi))
        return _unknown_where(bad, Curve(lambda t: -1.0 / np.where(t == 0, 1.0, t) ** 2, (), (0.0, 0.0)).over(safe))
    if op == "sqrt":
        return _positive_only(lambda t: 0.5 / np.sqrt(np.where(t > 0, t, 1.0)), x, 0.0)
    if op == "log":
        return _positive_only(lambda t: 1.0 / np.where(t == 0, 1.0, t), x, 0.0)
    if op == "power":
        return _whole_power(x, attributes["exponent"] - 1, float(attributes["exponent"]))
    if op == "sin":
        return _wave(x, 0.0)
    if op == "cos":
        return _wave(x, -math.pi / 2)
    raise ValueError(f"unknown operator {op!r}")


FUNCTIONS = {*_SMOOTH, "leaky_relu", "clamp", "hard_swish", "elu", "reciprocal", "sqrt", "log", "power", "sin", "cos"}
"""Codes of the elementwise operators."""
