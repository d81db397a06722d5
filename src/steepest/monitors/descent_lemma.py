"""Does a step lower the loss as its gradient promises?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from steepest.results.convergence import number


class Descent(StrEnum):
    """What actual over predicted decrease says, as a sentence."""

    LINEAR = "steps lower the loss about as much as the gradient promises: the rate could be larger"
    GUARANTEED = "steps lower the loss by at least half of what the gradient promises: the descent lemma holds with rate <= 1/L"
    BEYOND = "steps lower the loss by less than half of what the gradient promises: the rate is above 1/L, where the lemma promises little"
    ASCENT = "steps raise the loss: the rate is above 2/L along them, lower it"
    UNKNOWN = "no step had a gradient to compare with"


@dataclass(frozen=True)
class DescentReport:
    """Actual over predicted decrease of the loss.

    Args:
        ratio: median over steps; low, high: the quartiles. None without steps.
        smoothness: the largest curvature ``2 (f(x + d) - f(x) - <g, d>) / |d|^2`` along a step: L is at least this (to rounding).
        steps: that were compared; verdict: what they say.
    """

    steps: int
    ratio: float | None
    low: float | None
    high: float | None
    smoothness: float | None
    verdict: Descent

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.value if isinstance(v, Descent) else number(v) for k, v in vars(self).items()}


class DescentLemma:
    """The ratio ``(f(x) - f(x + d)) / -<grad f(x), d>`` of a step d, on one objective.

    With an L-smooth f, ``f(x + d) <= f(x) + <g, d> + L/2 |d|^2``; for ``d = -a g`` the ratio is at least ``1 - a L / 2``: 1/2 where
    ``a <= 1/L``, and 0 where ``a <= 2/L``. On a quadratic it is ``1 - a h / 2`` with h the curvature along the gradient.

        lemma = DescentLemma(parameters)
        lemma.before(loss)            # after backward(), before step()
        lemma.after(closure())        # the same objective on the same batch, after step()

    The caller evaluates the loss once more: ask in some steps only. A step with ``<g, d> >= 0`` predicts no decrease and is left out of the
    ratio, not of the curvature.

    Args:
        parameters: that the step moves.

    Source: Y. Nesterov, Introductory lectures on convex optimization, 2004, lemma 1.2.3.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.ratios: list[float] = []
        self.smoothness: float | None = None
        self._before: tuple[float, list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def before(self, loss: Tensor | float) -> None:
        """The loss, with its gradient in place."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        self._before = float(loss), [p.clone() for p in self.parameters], gradients

    @torch.no_grad()
    def after(self, loss: Tensor | float | Callable[[], Tensor]) -> None:
        """The same loss at the new parameters, or what computes it."""
        if self._before is None:
            return
        value, points, gradients = self._before
        self._before = None
        moved = float(loss() if callable(loss) else loss)
        steps = [p.double() - x.double() for p, x in zip(self.parameters, points, strict=True)]
        slope = sum(float((g.double() * d).sum()) for g, d in zip(gradients, steps, strict=True))
        square = sum(float(d.square().sum()) for d in steps)
        if not square or not math.isfinite(moved):
            return
        curvature = 2.0 * (moved - value - slope) / square
        self.smoothness = curvature if self.smoothness is None else max(self.smoothness, curvature)
        if slope < 0.0:
            self.ratios.append((value - moved) / -slope)

    def report(self) -> DescentReport:
        """The ratios so far."""
        if not self.ratios:
            return DescentReport(0, None, None, None, self.smoothness, Descent.UNKNOWN)
        low, middle, high = (
            torch.tensor(self.ratios, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        )
        if middle <= 0.0:
            verdict = Descent.ASCENT
        elif middle < 0.5:
            verdict = Descent.BEYOND
        else:
            verdict = Descent.LINEAR if middle > 0.9 else Descent.GUARANTEED
        return DescentReport(len(self.ratios), middle, low, high, self.smoothness, verdict)
