"""ATen operators, by name, to the operators of a graph: each module enters its own into one table."""

from steepest.capture.aten_ops import arithmetic, choice, elementwise, layers, movement, reduction
from steepest.capture.aten_ops.call import LOWERINGS, Call, Lowering

__all__ = ["LOWERINGS", "Call", "Lowering", "arithmetic", "choice", "elementwise", "layers", "movement", "reduction"]
