"""One node of an ONNX model while it is read: its inputs, attributes and version, each asked for or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Builder, Ref, Value
from steepest.errors import ModelError, UnsupportedOperatorError
from steepest.graph import Shape

Outputs = Value | tuple[Value | None, ...]
Attribute = int | float | str | Tensor | tuple[Any, ...]

MAX_ENTRIES = 2**27
"""The most entries one tensor of the network may have: one GiB in float64."""


@dataclass
class Call:
    """What a rule sees of a node. What it does not ask for and the node nevertheless has is refused in ``finish``.

    Args:
        builder: where the rule's operators go.
        version: of the operators of ``ai.onnx``.
        inputs: what the node reads; None where an optional input is left out.
        attributes: by name.
        outputs: how many outputs there are up to the last one used.
        barred: for nodes of the builder whose true value is minus infinity at some entries (attention masks): where.
    """

    builder: Builder
    version: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Attribute]
    outputs: int = 1
    barred: dict[int, Tensor] = field(default_factory=dict)
    asked: set[str | int] = field(default_factory=set)

    def refuse(self, why: str) -> UnsupportedOperatorError:
        """The error that names operator and node."""
        return self.builder.refuse(why)

    def require(self, condition: bool, expected: str) -> None:
        """Check what every correct model keeps to.

        Raises:
            ModelError: the model is damaged, or was written by a faulty exporter.
        """
        if not condition:
            shapes = ", ".join("none" if v is None else str(list(v.shape)) for v in self.inputs)
            raise ModelError(
                f"{self.builder.operator} at {self.builder.at!r} has inputs of shapes {shapes}, but {expected}: export the model again"
            )

    def finish(self) -> None:
        """Refuse a node that says more than its rule has read."""
        for name in self.attributes:
            if name not in self.asked:
                raise self.refuse(f"its attribute {name!r} is not understood in version {self.version}")
        for index, value in enumerate(self.inputs):
            if value is not None and index not in self.asked:
                raise self.refuse(f"its input number {index + 1} is not understood in version {self.version}")

    # Inputs ---------------------------------------------------------------------------------------------------------

    def optional(self, index: int) -> Value | None:
        """An input, or None where it is left out."""
        value = self.masked(index)
        if isinstance(value, Ref) and value.index in self.barred:
            raise self.refuse(
                "entries of its input are minus infinity (a mask), which only a softmax over the last axis turns into a number"
            )
        return value

    def masked(self, index: int) -> Value | None:
        """An input that may stand for minus infinity at some entries."""
        self.asked.add(index)
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """An input that must be there."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"{self.builder.operator} at {self.builder.at!r} has no input number {index + 1}: export the model again")
        return value

    def live(self, index: int) -> Ref:
        """An input that depends on the network's."""
        value = self.value(index)
        if isinstance(value, Tensor):
            raise self.refuse(f"its input number {index + 1} is a constant while another one depends on the network's input")
        return value

    def constant(self, index: int) -> Tensor:
        """An input that must not depend on the network's."""
        value = self.optional_constant(index)
        if value is None:
            raise ModelError(f"{self.builder.operator} at {self.builder.at!r} has no input number {index + 1}: export the model again")
        return value

    def optional_constant(self, index: int) -> Tensor | None:
        """A constant, or None where it is left out."""
        value = self.optional(index)
        if isinstance(value, Ref):
            raise self.refuse(f"its input number {index + 1} depends on the network's input; only a constant is understood there")
        return value

    def constant_ints(self, index: int) -> tuple[int, ...] | None:
        """A constant list of whole numbers, or None where it is left out."""
        value = self.optional_constant(index)
        if value is None:
            return None
        self.require(value.dtype == torch.int64, f"input number {index + 1} is to be whole numbers")
        return tuple(value.flatten().tolist())

    # Attributes -----------------------------------------------------------------------------------------------------

    def attribute(self, name: str, kind: type, default: Any) -> Any:
        """An attribute of a given kind, or the default."""
        self.asked.add(name)
        value = self.attributes.get(name, default)
        self.require(value is default or isinstance(value, kind), f"its attribute {name!r} is to be of the kind {kind.__name__}")
        return value

    def integer(self, name: str, default: int) -> int:
        """A whole number."""
        return self.attribute(name, int, default)

    def flag(self, name: str, default: bool) -> bool:
        """Zero or one."""
        value = self.integer(name, int(default))
        self.require(value in (0, 1), f"its {name} is {value} where 0 or 1 is expected")
        return bool(value)

    def real(self, name: str, default: float) -> float:
        """A float32 number, finite (defaults are float32 too)."""
        value = self.attribute(name, float, float(np.float32(default)))
        if not math.isfinite(value):
            raise self.refuse(f"its attribute {name!r} is {value}")
        return value

    def text(self, name: str, default: str) -> str:
        """A word."""
        return self.attribute(name, str, default)

    def ints(self, name: str) -> tuple[int, ...] | None:
        """A list of whole numbers, or None."""
        return self.attribute(name, tuple, None)

    def ints_of(self, name: str, index: int, since: int) -> tuple[int, ...] | None:
        """A list that was an attribute before a version and is an input since."""
        return self.constant_ints(index) if self.version >= since else self.ints(name)

    def axis(self, rank: int, default: int, name: str = "axis", ends: bool = False) -> int:
        """An axis counted from the front; with ``ends`` the place behind the last axis counts too."""
        axis = self.integer(name, default)
        axis = axis + rank if axis < 0 else axis
        self.require(0 <= axis < rank + ends, f"its axis is to lie within {rank} axes")
        return axis

    def axes(self, given: Sequence[int], rank: int) -> list[int]:
        """Axes counted from the front, each once."""
        axes = [a + rank if a < 0 else a for a in given]
        self.require(
            all(0 <= a < rank for a in axes) and len(set(axes)) == len(axes), f"its axes {list(given)} are to be different ones of {rank}"
        )
        return axes

    # Values ---------------------------------------------------------------------------------------------------------

    def room(self, shape: Sequence[int]) -> Shape:
        """The shape of a tensor about to be made.

        Raises:
            ModelError: it is negative or too large.
        """
        if any(n < 0 for n in shape):
            raise ModelError(
                f"{self.builder.operator} at {self.builder.at!r} would make a tensor of shape {list(shape)}: export the model again"
            )
        if math.prod(shape) > MAX_ENTRIES:
            raise ModelError(
                f"{self.builder.operator} at {self.builder.at!r} would make a tensor of shape {list(shape)}; at most "
                f"{MAX_ENTRIES:,} entries are taken"
            )
        return tuple(int(n) for n in shape)

    def together(self, *values: Value) -> Shape:
        """The shape several inputs broadcast to."""
        try:
            shape = torch.broadcast_shapes(*(tuple(v.shape) for v in values))
        except RuntimeError:
            shape = None
        self.require(shape is not None, "they are to broadcast to one shape")
        assert shape is not None
        return self.room(shape)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Row-major reshape."""
        self.require(math.prod(x.shape) == math.prod(shape), f"{math.prod(x.shape)} entries do not fit the shape {list(shape)}")
        return x.reshape(tuple(shape)) if isinstance(x, Tensor) else self.builder.reshape(x, tuple(shape))

    def permute(self, x: Value, dims: Sequence[int]) -> Value:
        """Reorder axes."""
        return x.permute(*dims) if isinstance(x, Tensor) else self.builder.permute(x, dims)

    def pick(self, x: Value, pick: Callable[[Tensor], Tensor]) -> Value:
        """A rearrangement that is a function of the positions."""
        return pick(x) if isinstance(x, Tensor) else self.builder.select(x, pick)

    def bar(self, x: Ref, barred: Tensor) -> Ref:
        """Remember where an entry of x stands for minus infinity."""
        # A node of its own: the unmasked value may have readers too.
        y = self.builder.append(ops.Scale((x.shape,), *(torch.full([1] * len(x.shape), c, dtype=torch.float64) for c in (1.0, 0.0))), x)
        self.barred[y.index] = barred.expand(x.shape)
        return y
