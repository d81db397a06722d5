"""Delay-compensated asynchronous SGD: a late gradient is corrected for how far the parameters have moved meanwhile."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.distributed.downpour import Downpour, GradientCentre
from steepest.distributed.flat import gather
from steepest.distributed.method import Centre, OptimizerFactory, Replies, Reply
from steepest.errors import UsageError


@dataclass(frozen=True)
class DelayCompensated(Downpour):
    """DC-ASGD: the first-order term of the gradient's change, with the diagonal of g g^T for the Hessian.

    The server keeps the parameters x_w that each worker fetched last, and steps, at x, with

        g + lambda g * g * (x - x_w)

    With ``momentum = None`` lambda is ``strength`` (DC-ASGD-c); otherwise ``strength / sqrt(s + 1e-7)`` by coordinate, s a running mean of
    g * g with that factor (DC-ASGD-a).

    Args:
        strength: lambda or lambda_0, at least 0; at 0 this is ``Downpour``.
        momentum: in [0, 1), or None.

    Raises:
        UsageError: for options out of their range.

    Source: S. Zheng et al., Asynchronous stochastic gradient descent with delay compensation, ICML 2017, algorithms 1 and 2, section 6.
    """

    strength: float = 0.04
    momentum: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < math.inf:
            raise UsageError(f"strength is {self.strength}: give a finite number of at least 0")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}: give None or a number in [0, 1)")

    def centre(self, parameters: Sequence[Tensor], workers: int) -> Centre:
        """The part of the parameter server; holds one copy of the parameters per version that some worker still has."""
        return _Compensating(parameters, workers, self.server, self.strength, self.momentum)


class _Compensating(GradientCentre):
    def __init__(
        self, parameters: Sequence[Tensor], workers: int, server: OptimizerFactory, strength: float, momentum: float | None
    ) -> None:
        super().__init__(parameters, workers, server)
        self.strength, self.momentum = strength, momentum
        self._fetched: dict[int, Tensor] = {}
        self._square: Tensor | None = None

    def gradient(self, worker: int, pushed: Tensor) -> Tensor:
        squared = pushed * pushed
        moved = gather(self.parameters) - self._fetched[worker]
        if self.momentum is None:
            return pushed + self.strength * squared * moved
        if self._square is None:
            self._square = torch.zeros_like(squared)
        self._square.mul_(self.momentum).add_(squared, alpha=1.0 - self.momentum)
        return pushed + self.strength * squared * moved / (self._square + 1e-7).sqrt()

    def leave(self, worker: int, lost: bool = False) -> Replies:
        self._fetched.pop(worker, None)
        return super().leave(worker, lost)

    def _parameters(self, worker: int) -> Reply:
        reply = super()._parameters(worker)
        assert reply.payload is not None
        self._fetched[worker] = reply.payload
        return reply
