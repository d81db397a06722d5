"""The linear rate of gradient descent on deep linear networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from steepest.errors import UsageError
from steepest.results.convergence import number


class DeepLinear(StrEnum):
    """What the theorem says, as a sentence."""

    GUARANTEED = "all conditions of the theorem hold at the start: the loss falls at the rate it states"
    NO_MARGIN = "no deficiency margin at the start: some rank-deficient map is as good, start nearer to the target"
    UNBALANCED = "the layers are not balanced enough at the start for the theorem: use a balanced initialisation"
    LARGE_RATE = "margin and balance hold, but the rate is above what the theorem allows: it may work all the same"
    NARROW = "a hidden layer is narrower than both input and output: not every map can be reached"


@dataclass(frozen=True)
class DeepLinearReport:
    """Conditions at the start, the predicted contraction of the loss per step and the measured one.

    Args:
        margin: c, how far ``|W - Phi|_F`` is below the least singular value of Phi; negative is none.
        balance: ``max_j |W_{j+1}' W_{j+1} - W_j W_j'|_F``; allowed_balance: what the theorem asks for (None without margin).
        allowed_rate: the largest rate of the theorem (None without margin).
        predicted: ``1 - rate c^{2(N-1)/N}`` (None without margin); measured: geometric mean over the recorded losses.
        verdict: which condition holds.
    """

    margin: float
    balance: float
    allowed_balance: float | None
    allowed_rate: float | None
    predicted: float | None
    measured: float | None
    verdict: DeepLinear

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.value if isinstance(v, DeepLinear) else number(v) for k, v in vars(self).items()}


class DeepLinearRate:
    """Holds gradient descent on ``|W_N ... W_1 - Phi|_F^2 / 2`` against its theorem.

    With whitened inputs the squared loss of a deep linear network is this, up to a constant. With a deficiency margin c > 0,
    ``|W(0) - Phi|_F <= sigma_min(Phi) - c``, layers balanced up to ``delta = c^2 / (256 N^3 |Phi|_F^{2(N-1)/N})``, and
    ``rate <= c^{(4N-2)/N} / (6144 N^3 |Phi|_F^{(6N-4)/N})``, the loss is below e after ``log(loss(0) / e) / (rate c^{2(N-1)/N})`` steps.

    Args:
        weights: ``W_1, ..., W_N`` at the start, at least two, each ``[out, in]``.
        target: Phi, ``[out of W_N, in of W_1]``.
        rate: of gradient descent.

    Raises:
        UsageError: for shapes that do not chain, fewer than two layers, or a rate that is not positive.

    Source: S. Arora, N. Cohen, N. Golowich, W. Hu, A convergence analysis of gradient descent for deep linear neural networks, ICLR
    2019, definitions 1 and 2, theorem 1.
    """

    def __init__(self, weights: Sequence[Tensor], target: Tensor, rate: float) -> None:
        layers = [w.detach().double() for w in weights]
        chained = all(v.ndim == w.ndim == 2 and v.shape[0] == w.shape[1] for v, w in zip(layers, layers[1:], strict=False))
        if len(layers) < 2 or not chained or target.shape != (layers[-1].shape[0], layers[0].shape[1]) or not rate > 0.0:
            raise UsageError(
                f"weights {[tuple(w.shape) for w in layers]}, target {tuple(target.shape)}, rate {rate}: at least two weights "
                "[out, in] that chain, a target of the shape of their product and a positive rate are expected"
            )
        phi = target.detach().double()
        self.rate, self.depth, self.norm = rate, len(layers), float(phi.norm())
        self.margin = float(torch.linalg.svdvals(phi)[-1]) - float((product(layers) - phi).norm())
        self.balance = max(float((w.T @ w - v @ v.T).norm()) for v, w in zip(layers, layers[1:], strict=False))
        self.narrow = min(v.shape[0] for v in layers[:-1]) < min(phi.shape)
        self.losses: list[float] = []

    def record(self, loss: float) -> None:
        """The loss before a step, every step in turn."""
        self.losses.append(float(loss))

    def report(self) -> DeepLinearReport:
        """Conditions and rates."""
        steps, measured = max(len(self.losses) - 1, 0), None
        if steps and self.losses[0] > 0.0 and math.isfinite(self.losses[-1]):
            measured = (self.losses[-1] / self.losses[0]) ** (1.0 / steps)
        if self.margin <= 0.0:
            verdict = DeepLinear.NARROW if self.narrow else DeepLinear.NO_MARGIN
            return DeepLinearReport(self.margin, self.balance, None, None, None, measured, verdict)
        n, c = self.depth, self.margin
        balance = c**2 / (256 * n**3 * self.norm ** (2 * (n - 1) / n))
        rate = c ** ((4 * n - 2) / n) / (6144 * n**3 * self.norm ** ((6 * n - 4) / n))
        predicted = 1.0 - self.rate * c ** (2 * (n - 1) / n)
        if self.balance > balance:
            verdict = DeepLinear.UNBALANCED
        else:
            verdict = DeepLinear.GUARANTEED if self.rate <= rate else DeepLinear.LARGE_RATE
        return DeepLinearReport(c, self.balance, balance, rate, predicted, measured, verdict)


def product(weights: Sequence[Tensor]) -> Tensor:
    """``W_N ... W_1``."""
    return reduce(lambda done, w: w @ done, weights)
