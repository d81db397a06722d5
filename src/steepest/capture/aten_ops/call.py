"""One ATen call, and the table that lowerings enter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.capture.builder import Builder, Ref, Value

_REQUIRED = object()


@dataclass(frozen=True)
class Call:
    """One call: its builder, and its arguments by position or by the schema's names."""

    builder: Builder
    args: list[Any]
    kwargs: dict[str, Any]
    names: list[str]

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """An argument by its schema name."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name in self.names and self.names.index(name) < len(self.args):
            return self.args[self.names.index(name)]
        if default is _REQUIRED:
            raise self.builder.refuse(f"its argument {name} is missing")
        return default

    def live(self, position: int = 0) -> Ref:
        """An argument that must come from the input."""
        value = self.args[position]
        if not isinstance(value, Ref):
            raise self.builder.refuse("only its first argument may depend on the input" if position == 0 else "an argument must be live")
        return value

    def fixed(self, name: str) -> Tensor | None:
        """An argument that must be a constant or absent."""
        value = self.get(name, None)
        if isinstance(value, Ref):
            raise self.builder.refuse(f"its argument {name} depends on the input")
        return value

    def value(self, position: int) -> Value:
        """An operand: live, a constant tensor, or a number."""
        value = self.args[position]
        return value if isinstance(value, Ref) else torch.as_tensor(value, dtype=torch.float64)


Lowering = Callable[[Call], Any]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Enter a function into the table under ATen names."""

    def enter(f: Lowering) -> Lowering:
        LOWERINGS.update({f"aten.{name}": f for name in names})
        return f

    return enter


def pairs(values: Any, dims: int) -> tuple[int, ...]:
    """One number per dimension, from one or as many."""
    values = [values] if isinstance(values, int) else list(values)
    return tuple(values * dims if len(values) == 1 else values)


def as_ref(value: Value) -> Ref:
    """A value known to come from the input."""
    assert isinstance(value, Ref)
    return value
