"""Sums, products, quotients, powers, matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.capture.aten_ops.call import LOWERINGS, Call, lowers
from steepest.capture.builder import Ref, Value


@lowers("add", "sub", "rsub")
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


@lowers("div")
def _divide(c: Call) -> Value:
    if c.get("rounding_mode", None) is not None:
        raise c.builder.refuse("rounding is no Lipschitz map")
    return c.builder.divide(c.value(0), c.value(1))


@lowers("pow")
def _power(c: Call) -> Value:
    exponent = c.args[1]
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if not isinstance(c.args[0], Ref) or not isinstance(exponent, (int, float)):
        raise c.builder.refuse("its exponent must be one number")
    return c.builder.power(c.args[0], float(exponent))


@lowers("mm", "matmul", "bmm", "mv", "dot")
def _matmul(c: Call) -> Value:
    return c.builder.linear_both(c.value(0), c.value(1))


@lowers("addmm", "baddbmm")
def _addmm(c: Call) -> Value:
    b = c.builder
    beta, alpha = c.get("beta", 1), c.get("alpha", 1)
    product = b.linear_both(c.value(1), c.value(2))
    if alpha != 1:
        product = b.multiply(product, torch.tensor(float(alpha), dtype=torch.float64))
    first = c.value(0)
    return b.add(first if beta == 1 else b.multiply(first, torch.tensor(float(beta), dtype=torch.float64)), product)
