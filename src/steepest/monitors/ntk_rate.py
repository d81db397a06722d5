"""The linear rate that the neural tangent kernel predicts for wide two-layer networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from steepest.errors import UsageError
from steepest.results.convergence import number


class KernelRate(StrEnum):
    """The measured rate beside the predicted one, as a sentence."""

    AS_PREDICTED = "the error falls at least as fast as the kernel predicts"
    SLOWER = "the error falls more slowly than the kernel predicts: the network is too narrow or the rate too large for the theory"
    DEGENERATE = "the kernel's least eigenvalue is zero: two inputs are parallel, and no linear rate is predicted"
    UNKNOWN = "fewer than two errors were recorded"


@dataclass(frozen=True)
class KernelReport:
    """Predicted and measured contraction of ``|y - u|^2`` per step.

    Args:
        eigenvalue: lambda_0, of the kernel at infinite width; at_weights: of the Gram matrix at the weights that were given last, or None.
        predicted: ``1 - rate lambda_0 / 2``; measured: geometric mean over the steps, None where unknown.
        largest_rate: below ``2 / lambda_max`` of the kernel gradient descent is stable on it.
        steps: that were recorded; verdict: what they say.
    """

    eigenvalue: float
    at_weights: float | None
    predicted: float
    measured: float | None
    largest_rate: float
    steps: int
    verdict: KernelRate

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.value if isinstance(v, KernelRate) else number(v) for k, v in vars(self).items()}


def limit_gram(x: Tensor) -> Tensor:
    """``H_ij = E_w[x_i'x_j 1(w'x_i >= 0, w'x_j >= 0)] = x_i'x_j (pi - arccos(cos_ij)) / (2 pi)`` for w ~ N(0, I), ``[n, n]`` in float64.

    Args:
        x: inputs, ``[n, d]``, none of them zero.

    Source: S. S. Du, X. Zhai, B. Poczos, A. Singh, Gradient descent provably optimizes over-parameterized neural networks, ICLR 2019,
    assumption 3.1.
    """
    x = x.detach().double()
    inner, norms = x @ x.T, x.norm(dim=1)
    cosine = (inner / torch.outer(norms, norms)).clamp(-1.0, 1.0).fill_diagonal_(1.0)
    return inner * (math.pi - torch.arccos(cosine)) / (2.0 * math.pi)


def gram(weights: Tensor, x: Tensor) -> Tensor:
    """The same at width m: ``H_ij = (x_i'x_j / m) #{r: w_r'x_i >= 0, w_r'x_j >= 0}``, the kernel of the first layer, ``[n, n]`` in float64.

    Args:
        weights: of the first layer, ``[m, d]``; x: inputs, ``[n, d]``.

    Source: Du et al. 2019, section 3.
    """
    x, weights = x.detach().double(), weights.detach().double()
    on = (x @ weights.T >= 0.0).double()
    return (x @ x.T) * (on @ on.T) / len(weights)


class NTKRate:
    """Holds gradient descent on a wide two-layer network against the rate of its kernel.

    For ``u_i = m^-1/2 sum_r a_r relu(w_r'x_i)`` with fixed ``a_r = +-1``, w from N(0, I), unit inputs of which no two are parallel, and the
    loss ``|y - u|^2 / 2`` (a sum over samples: with a mean over n, hand over ``rate / n``), gradient descent on w has
    ``|y - u(k)|^2 <= (1 - rate lambda_0 / 2)^k |y - u(0)|^2`` with high probability for ``m = Omega(n^6 / (lambda_0^4 delta^3))`` and
    ``rate = O(lambda_0 / n^2)``; lambda_0 is the least eigenvalue of the kernel at infinite width.

    Args:
        x: the training inputs, ``[n, d]``; cost n^3 once.
        rate: of gradient descent.

    Raises:
        UsageError: for inputs that are zero or no matrix, or a rate that is not positive.

    Source: Du et al. 2019, theorem 4.1.
    """

    def __init__(self, x: Tensor, rate: float) -> None:
        if x.ndim != 2 or not bool((x.norm(dim=1) > 0).all()) or not rate > 0.0:
            raise UsageError(f"inputs of shape {tuple(x.shape)}, rate {rate}: [n, d] with no zero row and a positive rate are expected")
        self.x, self.rate = x.detach(), rate
        values = torch.linalg.eigvalsh(limit_gram(x))
        self.least, self.most = float(values[0]), float(values[-1])
        self.at_weights: float | None = None
        self.errors: list[float] = []

    def record(self, squared_error: float, weights: Tensor | None = None) -> None:
        """``|y - u|^2`` before a step, every step in turn; with weights the least eigenvalue of their own Gram matrix too (n^3)."""
        self.errors.append(float(squared_error))
        if weights is not None:
            self.look(weights)

    def look(self, weights: Tensor) -> None:
        """Take the least eigenvalue of the Gram matrix at the first layer's weights ``[m, d]`` (n^3)."""
        self.at_weights = float(torch.linalg.eigvalsh(gram(weights, self.x))[0])

    def report(self) -> KernelReport:
        """Predicted and measured."""
        predicted = 1.0 - 0.5 * self.rate * self.least
        steps, measured = max(len(self.errors) - 1, 0), None
        if steps and self.errors[0] > 0.0 and math.isfinite(self.errors[-1]):
            measured = (self.errors[-1] / self.errors[0]) ** (1.0 / steps)
        if self.least <= 1e-12 * self.most:
            verdict = KernelRate.DEGENERATE
        elif not steps:
            verdict = KernelRate.UNKNOWN
        else:
            verdict = KernelRate.AS_PREDICTED if measured is not None and measured <= predicted else KernelRate.SLOWER
        return KernelReport(self.least, self.at_weights, predicted, measured, 2.0 / self.most, steps, verdict)
