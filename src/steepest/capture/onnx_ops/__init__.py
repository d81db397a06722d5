"""The table of ONNX operators: what each becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from steepest.capture.builder import Builder, Ref, Value
from steepest.capture.onnx_ops import arithmetic, constants, elementwise, layers, movement, normalization, recurrent, reduction, resize
from steepest.capture.onnx_ops.call import Call, Outputs
from steepest.capture.onnx_ops.refused import UNKNOWN, WHY

__all__ = ["ANY", "LIVE", "Call", "lower"]

ANY: dict[str, Callable[[Call], Outputs]] = {**arithmetic.RULES, **movement.RULES, **reduction.RULES}
"""Operators whose inputs may be constants or depend on the network's input."""

LIVE: dict[str, Callable[[Call], Outputs]] = {**elementwise.RULES, **layers.RULES, **normalization.RULES, **recurrent.RULES, **resize.RULES}
"""Operators whose first input depends on the network's; on constants they are evaluated as a network of their own."""


def lower(call: Call) -> tuple[Value | None, ...]:
    """Add a node's operators to the builder, or evaluate it where all its inputs are constants.

    Raises:
        UnsupportedOperatorError: the operator, or something the node says, is not understood.
    """
    operator, fixed = call.builder.operator, all(not isinstance(v, Ref) for v in call.inputs)
    if fixed and operator in constants.RULES:
        rule: Callable[[Call], Outputs] = constants.RULES[operator]
    elif fixed and operator in LIVE:
        rule = _evaluated
    elif operator in ANY or operator in LIVE:
        rule = {**ANY, **LIVE}[operator]
    else:
        raise call.refuse(WHY.get(operator, UNKNOWN))
    result = rule(call)
    call.finish()
    return result if isinstance(result, tuple) else (result,)


def _evaluated(call: Call) -> Outputs:
    """A constant through an operator of the network: the same rule on a network of this one node."""
    x = call.constant(0)
    if not x.is_floating_point():
        raise call.refuse("it is given constants that are whole numbers")
    scratch = Builder()
    source = scratch.input(tuple(x.shape))
    scratch.at, scratch.operator = call.builder.at, call.builder.operator
    inner = replace(call, builder=scratch, inputs=[source, *call.inputs[1:]], barred={})
    result = LIVE[scratch.operator](inner)
    call.asked.update(inner.asked)
    values = result if isinstance(result, tuple) else (result,)
    return tuple(v if v is None or isinstance(v, Tensor) else scratch.finish(v).evaluate(x) for v in values)
