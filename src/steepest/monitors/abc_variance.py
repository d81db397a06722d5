"""How gradient noise depends on where one is: E|g|^2 <= A + B |grad f|^2 + C (f - f*)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from steepest.results.convergence import number


class Noise(StrEnum):
    """Which kind of noise the fit describes, as a sentence."""

    INTERPOLATION = "no noise is left at the optimum: a constant rate can reach it"
    BOUNDED = "noise remains at the optimum: a constant rate ends at a floor, use rates that fall"
    UNKNOWN = "too few points for a fit of three constants"


@dataclass(frozen=True)
class ABCReport:
    """The fit; constants are None for too few points.

    Args:
        points: that were fitted.
        a, b, c: the constants, each at least 0; a in units of ``|g|^2``, b without units, c in units of curvature.
        unexplained: root mean square of the relative residual.
        slack: the least factor on all three for which the inequality holds at every point.
        verdict: what they say.
    """

    points: int
    a: float | None
    b: float | None
    c: float | None
    unexplained: float | None
    slack: float | None
    verdict: Noise

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.value if isinstance(v, Noise) else number(v) for k, v in vars(self).items()}


class ABCVariance:
    """Fits ``E|g|^2 = A + B |grad f|^2 + C (f - f*)`` with constants from 0, by least squares of relative residuals.

    Each point is a mean of ``|g|^2`` over batches at one x, the squared norm of the full gradient there, and the loss. The constants are
    those along the path; the inequality over all x may need larger ones. Bounded variance is (A, 1, 0), strong growth (0, B, 0), finite
    sums of smooth functions have C up to ``2 L`` times a factor of sampling.

    Args:
        least: f* or a lower bound.
        vanishing: A counts as none below this part of the smallest ``E|g|^2`` seen.

    Source: A. Khaled, P. Richtarik, Better theory for SGD in the nonconvex world, 2020, assumption 2 (ABC, there with 2A on f - f*).
    """

    def __init__(self, least: float = 0.0, vanishing: float = 0.05) -> None:
        self.least, self.vanishing = least, vanishing
        self.rows: list[tuple[float, float, float]] = []

    def record(self, second_moment: float, squared_gradient: float, loss: float) -> None:
        """One point: E|g|^2, |grad f|^2 and f."""
        if second_moment > 0.0 and all(map(math.isfinite, (second_moment, squared_gradient, loss))):
            self.rows.append((second_moment, max(squared_gradient, 0.0), max(loss - self.least, 0.0)))

    def report(self) -> ABCReport:
        """The fit to the points so far; at least 4."""
        n = len(self.rows)
        if n < 4:
            return ABCReport(n, None, None, None, None, None, Noise.UNKNOWN)
        data = torch.tensor(self.rows, dtype=torch.float64)
        moment = data[:, 0]
        design = torch.cat([torch.ones(n, 1, dtype=torch.float64), data[:, 1:]], 1) / moment[:, None]
        constants = nonnegative_least_squares(design, torch.ones(n, dtype=torch.float64))
        fitted = design @ constants
        residual = float((fitted - 1.0).square().mean().sqrt())
        slack = float((1.0 / fitted).max()) if bool((fitted > 0.0).all()) else math.inf
        a, b, c = constants.tolist()
        verdict = Noise.INTERPOLATION if a <= self.vanishing * float(moment.min()) else Noise.BOUNDED
        return ABCReport(n, a, b, c, residual, slack, verdict)


def nonnegative_least_squares(design: Tensor, target: Tensor) -> Tensor:
    """The ``x >= 0`` with the least ``|design x - target|``, by trying every support: for a handful of columns, exact.

    Args:
        design: ``[rows, columns]`` in float64; target: ``[rows]``.
    """
    columns = design.shape[1]
    # Columns of like size: a feasible least-squares solution on some support is the optimum.
    sizes = design.norm(dim=0).clamp_min(torch.finfo(design.dtype).tiny)
    best, least = torch.zeros(columns, dtype=design.dtype), float(target.square().sum())
    for mask in range(1, 1 << columns):
        support = [k for k in range(columns) if mask >> k & 1]
        scaled = design[:, support] / sizes[support]
        found = torch.linalg.lstsq(scaled, target[:, None], driver="gelsd").solution[:, 0]
        if bool((found < 0.0).any()):
            continue
        rest = float((scaled @ found - target).square().sum())
        if rest < least:
            best, least = torch.zeros(columns, dtype=design.dtype), rest
            best[support] = found / sizes[support]
    return best
