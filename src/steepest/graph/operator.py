"""What every operator of a network can do: the four questions all algorithms are built from."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from steepest.numerics.interval import Interval

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """A map between real tensors of fixed shapes.

    All tensors may carry any number of leading axes before the declared shapes; parameters are float64 and exact.
    ``p`` is 1, 2 or ``inf`` and means the vector norm of the flattened tensor.

    Args:
        in_shapes: the declared shape of each input.
    """

    code: ClassVar[str]
    """The operator's name in certificates."""

    in_shapes: tuple[Shape, ...]

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Declared shape of the output."""

    @abstractmethod
    def evaluate(self, *xs: Tensor) -> Tensor:
        """The map itself, differentiable, in the dtype of its inputs."""

    @abstractmethod
    def enclose(self, *xs: Interval) -> Interval:
        """A set that holds ``evaluate(x)`` (in exact arithmetic) for every x in the given sets."""

    @abstractmethod
    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """Encloses ``J' g`` for every g in ``cotangent`` and every Clarke Jacobian J of the map over the sets ``xs``.

        Args:
            cotangent: shape ``[*lead, rows, *shape]``.
            xs: the inputs' enclosures, each ``[*lead, *in_shape]``.

        Returns:
            One interval per input, ``[*lead, rows, *in_shape]``.
        """

    @abstractmethod
    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """Encloses ``J d`` for every Clarke Jacobian J of the map over the sets ``xs``.

        Args:
            directions: one for each input, ``[*lead, rows, *in_shape]``, finite.
            xs: the inputs' enclosures, each ``[*lead, *in_shape]``.

        Returns:
            ``[*lead, rows, *shape]``; both ends are ``J d`` as computed where J does not depend on the point.
        """

    @abstractmethod
    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """Upper bound of the output's Lipschitz constant, given constants of the inputs (all as maps of the same variable).

        Args:
            p: 1, 2 or inf.
            inputs: a Lipschitz constant of each input over the region, rounded up.
            xs: enclosures of each input over the region, one sample: ``[*in_shape]``.
        """

    def tangent(self, xs: tuple[Tensor, ...], dxs: tuple[Tensor, ...], sharpness: float | None = None) -> Tensor:
        """The derivative at ``xs`` applied to ``dxs``; with ``sharpness`` hard gates are softened so that it can be ascended."""
        del sharpness
        with warnings.catch_warnings():
            # torch compiles its forward-mode rules on first use, by means it deprecates itself.
            warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
            return torch.func.jvp(self.evaluate, xs, dxs)[1]

    def attributes(self) -> dict[str, Any]:
        """JSON parameters for the record: every field that is not a tensor."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if not isinstance(getattr(self, f.name), Tensor)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights for the record: every field that is a tensor."""
        return {f.name: value.detach().cpu().numpy() for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """The network's input: the identity."""

    code: ClassVar[str] = "input"

    @property
    def shape(self) -> Shape:
        """The input's own shape."""
        return self.in_shapes[0]

    def evaluate(self, *xs: Tensor) -> Tensor:
        """The input itself."""
        return xs[0]

    def enclose(self, *xs: Interval) -> Interval:
        """The region itself."""
        return xs[0]

    def pullback(self, cotangent: Interval, *xs: Interval) -> tuple[Interval, ...]:
        """The identity."""
        return (cotangent,)

    def push(self, directions: tuple[Tensor, ...], *xs: Interval) -> Interval:
        """The identity."""
        return Interval.point(directions[0])

    def lipschitz(self, p: float, inputs: tuple[float, ...], xs: tuple[Interval, ...]) -> float:
        """One."""
        return 1.0
