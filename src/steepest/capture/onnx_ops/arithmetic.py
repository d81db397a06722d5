"""ONNX operators that add, multiply and compare tensors: any input may be a constant."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Ref, Value
from steepest.capture.onnx_ops.call import Call, Outputs


def _added(call: Call, x: Value | None, y: Value | None, sign: int) -> Value:
    assert x is not None and y is not None
    call.together(x, y)
    for live, mask in ((x, y), (y, x)):
        if isinstance(live, Ref) and isinstance(mask, Tensor) and mask.dtype == torch.float64:
            barred = sign * mask == -math.inf
            if barred.any() and (live is x or sign > 0):
                shape = call.together(x, y)
                rest = call.builder.add(live, torch.where(barred, 0.0, mask), sign)
                assert isinstance(rest, Ref)
                return call.bar(rest, barred.expand(shape))
    return call.builder.add(x, y, sign)


def add(call: Call) -> Outputs:
    """``x + y``; a constant of minus infinities is an attention mask."""
    return _added(call, call.value(0), call.value(1), 1)


def subtract(call: Call) -> Outputs:
    """``x - y``."""
    return _added(call, call.value(0), call.value(1), -1)


def multiply(call: Call) -> Outputs:
    """``x * y``."""
    x, y = call.value(0), call.value(1)
    call.together(x, y)
    return call.builder.multiply(x, y)


def divide(call: Call) -> Outputs:
    """``x / y``; whole numbers are cut towards zero."""
    x, y = call.value(0), call.value(1)
    call.together(x, y)
    if isinstance(x, Tensor) and isinstance(y, Tensor) and not x.is_floating_point():
        if (y == 0).any():
            raise call.refuse("it divides by a constant zero")
        return torch.div(x, y, rounding_mode="trunc")
    return call.builder.divide(x, y)


def power(call: Call) -> Outputs:
    """``x ^ y`` with one constant exponent, or with one positive constant base."""
    x, y = call.value(0), call.value(1)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        call.together(x, y)
        if not x.is_floating_point() and not y.is_floating_point() and (y < 0).any():
            raise call.refuse("a whole number is raised to a negative power")
        # The result has the type of the base.
        return torch.pow(x.to(torch.float64) if y.is_floating_point() else x, y).to(x.dtype)
    shape = call.together(x, y)
    if isinstance(y, Tensor):
        exponents = y.unique()
        if len(exponents) != 1 or not math.isfinite(exponents.item()):
            raise call.refuse("its exponents are not one finite number")
        assert isinstance(x, Ref)
        return call.builder.power(call.builder.expand(x, shape), exponents.item())
    if isinstance(x, Tensor):
        if not (x > 0).all():
            raise call.refuse("its constant base is not positive")
        return call.builder.unary(ops.Exp, call.builder.scale(y, x.to(torch.float64).log()))
    raise call.refuse("base and exponent both depend on the network's input")


def _values(call: Call) -> list[Value]:
    call.require(len(call.inputs) > 0, "one or more inputs are expected")
    values = [call.value(i) for i in range(len(call.inputs))]
    call.together(*values)
    return values


def total(call: Call) -> Outputs:
    """The sum of any number of tensors."""
    first, *rest = _values(call)
    for y in rest:
        first = call.builder.add(first, y)
    return first


def mean(call: Call) -> Outputs:
    """The mean of any number of tensors."""
    first, *rest = _values(call)
    for y in rest:
        first = call.builder.add(first, y)
    return call.builder.divide(first, torch.tensor(float(len(rest) + 1), dtype=torch.float64))


def larger(call: Call, x: Value, y: Value) -> Value:
    """Elementwise maximum; constants that are no numbers are refused, a constant of minus infinity leaves x alone."""
    call.together(x, y)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.maximum(x, y)
    for bound, other in ((x, y), (y, x)):
        if isinstance(bound, Tensor):
            if (bound == -math.inf).all():
                return _expanded(call, other, bound)
            call.builder.finite(bound)
    return call.builder.larger(x, y)


def smaller(call: Call, x: Value, y: Value) -> Value:
    """Elementwise minimum, as minus the maximum of the negatives."""
    call.together(x, y)
    for bound, other in ((x, y), (y, x)):
        if isinstance(bound, Tensor) and isinstance(other, Ref):
            if (bound == math.inf).all():
                return _expanded(call, other, bound)
            call.builder.finite(bound)
            if bound.numel() == 1:
                wide = _expanded(call, other, bound)
                assert isinstance(wide, Ref)
                return call.builder.clamp(wide, None, bound.item())
    b = call.builder
    return b.negate(larger(call, b.negate(x), b.negate(y)))


def _expanded(call: Call, x: Value, like: Tensor) -> Value:
    assert isinstance(x, Ref)
    return call.builder.expand(x, call.together(x, like))


def _fold(combine: Callable[[Call, Value, Value], Value]) -> Callable[[Call], Outputs]:
    def rule(call: Call) -> Outputs:
        first, *rest = _values(call)
        for y in rest:
            first = combine(call, first, y)
        return first

    return rule


def clip(call: Call) -> Outputs:
    """``min(max(x, low), high)``: ends are attributes before version 11, inputs since."""
    x = call.value(0)
    if call.version < 11:
        low, high = (call.attribute(n, float, None) for n in ("min", "max"))
        ends: list[Value | None] = [None if e is None else torch.tensor(e, dtype=torch.float64) for e in (low, high)]
    else:
        ends = [call.optional(1), call.optional(2)]
    if all(e is None or (isinstance(e, Tensor) and e.numel() == 1) for e in ends) and isinstance(x, Ref):
        low, high = (e.item() if isinstance(e, Tensor) else None for e in ends)
        if any(e is not None and math.isnan(e) for e in (low, high)) or low == math.inf or high == -math.inf:
            raise call.refuse("an end of its range is not a number")
        # An upper end below the lower one wins.
        low = low if low is None or high is None else min(low, high)
        return call.builder.clamp(x, low, high)
    for end, combine in zip(ends, (larger, smaller), strict=True):
        if end is not None:
            x = combine(call, x, end)
    return x


def where(call: Call) -> Outputs:
    """A choice by a constant condition."""
    condition, x, y = call.value(0), call.value(1), call.value(2)
    if isinstance(condition, Ref):
        raise call.refuse("its condition depends on the network's input, so that its value may leap")
    shape = call.together(condition, x, y)
    chosen = condition.to(torch.bool)
    if isinstance(x, Ref) != isinstance(y, Ref):
        constant, used = (x, chosen) if isinstance(x, Tensor) else (y, ~chosen)
        assert isinstance(constant, Tensor)
        barred = (constant.expand(shape) == -math.inf) & used.expand(shape)
        # What is not chosen does not count, be it infinite.
        tame = torch.where(used.expand(shape) & ~barred, constant.to(torch.float64).expand(shape), 0.0)
        result = call.builder.where(chosen, *((tame, y) if isinstance(x, Tensor) else (x, tame)))
        assert isinstance(result, Ref)
        return call.bar(result, barred) if barred.any() else result
    return call.builder.where(chosen, x, y)


def matmul(call: Call) -> Outputs:
    """``x @ y`` with broadcasting batch axes."""
    return product(call, call.value(0), call.value(1))


def product(call: Call, x: Value, y: Value) -> Value:
    """A matrix product; constant matrices with batch axes of one enter as plain matrices."""
    call.require(len(x.shape) > 0 and len(y.shape) > 0, "matrices are expected")
    first, second = list(x.shape), list(y.shape)
    call.require(first[-1] == second[max(-2, -len(second))], "the inner lengths are to agree")
    try:
        batch = tuple(torch.broadcast_shapes(tuple(x.shape[:-2]), tuple(y.shape[:-2])))
    except RuntimeError:
        batch = None
    call.require(batch is not None, "the batch axes are to broadcast to one shape")
    assert batch is not None
    rows = (*batch, *x.shape[-2:-1], *(y.shape[-1:] if len(y.shape) > 1 else ()))
    call.room(rows)
    call.room((*batch, *x.shape[-2:]))
    call.room((*batch, *y.shape[-2:]))
    if isinstance(x, Ref) and isinstance(y, Tensor) and y.ndim > 2 and math.prod(y.shape[:-2]) == 1 and len(x.shape) > 1:
        return call.reshape(call.builder.linear_both(x, y.reshape(y.shape[-2:])), rows)
    if isinstance(y, Ref) and isinstance(x, Tensor) and x.ndim > 2 and math.prod(x.shape[:-2]) == 1 and len(y.shape) > 1:
        return call.reshape(call.builder.linear_both(x.reshape(x.shape[-2:]), y), rows)
    return call.builder.linear_both(x, y)


def gemm(call: Call) -> Outputs:
    """``alpha A B + beta C``, A and B transposed on demand."""
    a, b, c = call.value(0), call.value(1), call.optional(2)
    call.require(len(a.shape) == 2 and len(b.shape) == 2, "two matrices are expected")
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    a = call.permute(a, (1, 0)) if call.flag("transA", False) else a
    b = call.permute(b, (1, 0)) if call.flag("transB", False) else b
    if c is not None:
        together = torch.broadcast_shapes(tuple(c.shape), (a.shape[0], b.shape[1])) if len(c.shape) <= 2 else None
        call.require(together == (a.shape[0], b.shape[1]), "the third is to broadcast to the product of the first two")
    if isinstance(a, Ref) and isinstance(b, Tensor) and (c is None or (isinstance(c, Tensor) and (c.ndim < 2 or c.shape[0] == 1))):
        call.require(a.shape[1] == b.shape[0], "the inner lengths are to agree")
        bias = None if c is None else (beta * call.builder.finite(c)).expand(1, b.shape[1]).reshape(-1)
        return call.builder.dense(a, (alpha * call.builder.finite(b)).mT.contiguous(), bias)
    y = product(call, a, b)
    y = y if alpha == 1.0 else call.builder.multiply(y, torch.tensor(alpha, dtype=torch.float64))
    if c is None:
        return y
    return call.builder.add(y, c if beta == 1.0 else call.builder.multiply(c, torch.tensor(beta, dtype=torch.float64)))


def einsum(call: Call) -> Outputs:
    """Sums of products of one or two tensors, no letter twice in one of them."""
    equation = call.text("equation", "").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    letters = set(left) - {","}
    plain = all(c.isascii() and c.isalpha() for c in letters) and all(len(set(t)) == len(t) for t in (*terms, out)) and set(out) <= letters
    if not plain or not 1 <= len(terms) <= 2:
        raise call.refuse(f"the equation {equation!r} is not understood: at most two tensors, no ellipsis, no letter twice in one of them")
    values = [call.value(i) for i in range(len(call.inputs))]
    call.require(
        len(values) == len(terms) and all(len(v.shape) == len(t) for v, t in zip(values, terms, strict=True)),
        f"{equation!r} is to fit them",
    )
    lengths: dict[str, int] = {}
    for value, term in zip(values, terms, strict=True):
        for letter, n in zip(term, value.shape, strict=True):
            call.require(lengths.setdefault(letter, n) == n, f"{equation!r} is to fit them")
    if len(terms) == 1:
        kept = "".join(c for c in terms[0] if c in out)
        return _arranged(call, _summed(call, values[0], terms[0], kept), kept, out)
    # Letters of one tensor alone that the result lacks are summed first.
    for i, other in ((0, 1), (1, 0)):
        kept = "".join(c for c in terms[i] if c in out or c in terms[other])
        values[i], terms[i] = _summed(call, values[i], terms[i], kept), kept
    batch = "".join(c for c in terms[0] if c in terms[1] and c in out)
    inner = "".join(c for c in terms[0] if c in terms[1] and c not in out)
    rows, columns = ("".join(c for c in t if c not in batch + inner) for t in terms)

    def length(part: str) -> int:
        return math.prod(lengths[c] for c in part)

    x = _arranged(call, values[0], terms[0], batch + rows + inner)
    y = _arranged(call, values[1], terms[1], batch + inner + columns)
    lead = (length(batch),) if batch else ()
    x = call.reshape(x, (*lead, length(rows), length(inner)))
    y = call.reshape(y, (*lead, length(inner), length(columns)))
    z = call.reshape(product(call, x, y), [lengths[c] for c in batch + rows + columns])
    return _arranged(call, z, batch + rows + columns, out)


def _arranged(call: Call, x: Value, term: str, target: str) -> Value:
    return call.permute(x, [term.index(c) for c in target])


def _summed(call: Call, x: Value, term: str, kept: str) -> Value:
    axes = [i for i, c in enumerate(term) if c not in kept]
    if not axes:
        return x
    return x.sum(axes) if isinstance(x, Tensor) else call.builder.reduce_sum(x, axes, keepdim=False)


RULES: dict[str, Callable[[Call], Outputs]] = {
    "Add": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Pow": power,
    "Sum": total,
    "Mean": mean,
    "Max": _fold(larger),
    "Min": _fold(smaller),
    "Clip": clip,
    "Where": where,
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
}
