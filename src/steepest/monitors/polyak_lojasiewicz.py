"""The Polyak-Lojasiewicz constant along a path, and the linear rate it implies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from steepest.errors import UsageError
from steepest.results.convergence import number


class LinearRate(StrEnum):
    """What the constant says, as a sentence."""

    HOLDS = "the inequality holds along the path so far with a positive constant: a linear rate is consistent with what was seen"
    WEAK = "the constant falls towards zero along the path: no linear rate is in sight"
    UNKNOWN = "no point is above the least value: give a lower bound of the loss that is below all of its values"


@dataclass(frozen=True)
class PLReport:
    """The constant mu of ``|grad f|^2 >= 2 mu (f - f*)``.

    Args:
        points: that were seen above f*.
        constant: the least ``|grad f|^2 / (2 (f - f*))`` along the path: mu of any region which holds the path is at most this. None
            without points.
        early, late: the same over the first and the last half of the path.
        least: f* as used; verdict: what it says.
    """

    points: int
    constant: float | None
    early: float | None
    late: float | None
    least: float
    verdict: LinearRate

    def contraction(self, rate: float) -> float | None:
        """The factor ``1 - rate mu`` that each step of gradient descent takes off ``f - f*``, for ``rate <= 1/L``; None where unknown."""
        return None if self.constant is None else 1.0 - rate * self.constant

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.value if isinstance(v, LinearRate) else number(v) for k, v in vars(self).items()}


class PolyakLojasiewicz:
    """Estimates mu from pairs of a loss and the squared norm of its gradient, on one objective.

    Where ``|grad f|^2 >= 2 mu (f - f*)`` and f is L-smooth, gradient descent at a rate up to 1/L has
    ``f(x_{k+1}) - f* <= (1 - rate mu) (f(x_k) - f*)``, convex or not. The estimate is from above: other points may be flatter. With
    gradients of batches ``|g|^2`` carries the noise; pass the squared norm of the full gradient, or an unbiased estimate.

    Args:
        least: f*, or a lower bound of it (0 for most losses), which makes the constant smaller.

    Source: H. Karimi, J. Nutini, M. Schmidt, Linear convergence of gradient and proximal-gradient methods under the Polyak-Lojasiewicz
    condition, ECML 2016, theorem 1.
    """

    def __init__(self, least: float = 0.0) -> None:
        if not math.isfinite(least):
            raise UsageError(f"the least value {least} is not finite: give a lower bound of the loss")
        self.least = least
        self.ratios: list[float] = []

    def record(self, loss: float, squared_gradient: float) -> None:
        """One point of the path."""
        gap = loss - self.least
        if gap > 0.0 and math.isfinite(gap) and math.isfinite(squared_gradient):
            self.ratios.append(squared_gradient / (2.0 * gap))

    def report(self) -> PLReport:
        """The constant so far."""
        n = len(self.ratios)
        if n < 2:
            return PLReport(n, min(self.ratios, default=None), None, None, self.least, LinearRate.UNKNOWN)
        early, late = min(self.ratios[: n // 2]), min(self.ratios[n // 2 :])
        # A constant that holds does not fall by a factor as the path goes on; sublinear descent, f - f* ~ 1/t, makes it do so.
        verdict = LinearRate.HOLDS if min(early, late) > 0.0 and late >= 0.5 * early else LinearRate.WEAK
        return PLReport(n, min(early, late), early, late, self.least, verdict)
