"""Sums over doubling windows of steps, kept on the device until they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.results.convergence import Window

BLOCKS = 16
"""Into how many blocks a window is cut, for standard errors."""

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Sampling:
    """Which steps are looked at: all up to ``dense`` of a window, then ``dense`` of each, one in each stretch of equal length.

    The place within a stretch follows the golden ratio, so that no period of the data is in step with it, without random numbers.
    """

    dense: int

    def stride(self, step: int) -> int:
        """How many steps a step that is looked at stands for; ``step`` is 1, 2, ..."""
        return max(1, (1 << (step.bit_length() - 1)) // self.dense)

    def takes(self, step: int) -> bool:
        """Whether a step is looked at."""
        stride = self.stride(step)
        if stride == 1:
            return True
        stretch, place = divmod(step - (1 << (step.bit_length() - 1)), stride)
        return place == int(stride * math.fmod(stretch * _GOLDEN, 1.0))


@dataclass
class Sums:
    """One window ``[first, 2 first)`` as it fills.

    Args:
        first: its first step.
        coordinates: of the sketch.
        device: where the sums are.
    """

    first: int
    coordinates: int
    device: torch.device
    terms: Tensor = field(init=False)
    gradients: Tensor | None = field(init=False)
    moves: Tensor | None = field(init=False)
    counts: list[int] = field(init=False)
    losses: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.terms = torch.zeros(4, dtype=torch.float64, device=self.device)
        blocks = self.first >= BLOCKS
        self.gradients = torch.zeros(BLOCKS, self.coordinates, dtype=torch.float64, device=self.device) if blocks else None
        self.moves = torch.zeros_like(self.gradients) if self.gradients is not None else None
        self.counts = [0] * BLOCKS
        self.losses = []

    def add(self, step: int, terms: Tensor, gradient: Tensor, move: Tensor) -> None:
        """One step: A, B, B' and gamma, the gradient and what the method moved by, ``[coordinates]``."""
        block = (step - self.first) * BLOCKS // self.first
        self.counts[block] += 1
        self.terms += terms
        if self.gradients is not None and self.moves is not None:
            self.gradients[block] += gradient
            self.moves[block] += move

    def close(self) -> Closed:
        """The window is over: what is kept of it, without waiting for the device."""
        moments = None
        if self.gradients is not None and self.moves is not None and all(self.counts):
            counts = torch.tensor(self.counts, dtype=torch.float64, device=self.device)[:, None]
            moments = between(self.gradients / counts, self.moves / counts)
        return Closed(self.first, sum(self.counts), self.terms, moments, *_mean(self.losses))


@dataclass(frozen=True)
class Closed:
    """A window that is over, its numbers still on the device."""

    first: int
    steps: int
    terms: Tensor
    moments: Tensor | None
    loss: float | None
    loss_error: float | None

    def read(self, scale: float) -> Window:
        """As numbers; sums over coordinates are multiplied by ``scale``, sums over steps by what each step stands for."""
        a, b, b_squared, gamma = (float(x) * self.first / self.steps for x in self.terms.cpu())
        square, ascent, error = (None,) * 3 if self.moments is None else (float(x) * scale for x in self.moments.cpu())
        return Window(
            self.first,
            self.steps,
            a * scale,
            b * scale,
            b_squared * scale,
            gamma,
            square,
            ascent,
            error,
            self.loss,
            self.loss_error,
        )


def between(gradients: Tensor, moves: Tensor) -> Tensor:
    """Means of ``<g_i, g_j>`` and of ``<g_i, d_j>`` over blocks i != j, and the jackknife error of the latter, ``[3]``.

    Over independent blocks the first is an unbiased estimate of ``|E g|^2`` and the second one of ``<E g, E d>``: noise that gradient and
    move share does not enter.

    Args:
        gradients, moves: block means, ``[blocks, coordinates]``, at least three blocks.
    """
    n = len(gradients)
    total, moved = gradients.sum(0), moves.sum(0)
    same = (gradients * moves).sum(1)
    pairs = total @ moved - same.sum()
    square = (total @ total - gradients.square().sum()) / (n * (n - 1))
    # Without block i: <G - g_i, D - d_i> - (sum of same - same_i).
    without = total @ moved - gradients @ moved - moves @ total + same - (same.sum() - same)
    without = without / ((n - 1) * (n - 2))
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return torch.stack([square, pairs / (n * (n - 1)), error])


def _mean(values: list[float]) -> tuple[float | None, float | None]:
    n = len(values)
    if n < 2:
        return None, None
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
