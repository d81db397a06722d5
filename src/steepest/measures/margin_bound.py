"""The margin bound of Bartlett, Foster and Telgarsky, with every constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest.measures.spectral_complexity import Chain, complexity
from steepest.results.generalisation import MarginBound

STEP = 0.1
"""Margins are looked for on the grid ``e^(STEP k)``, norms rounded up to ``e^(STEP k / L)`` with L layers."""

_LEAST = 1e-9
"""Norms below it count as it."""

_WEIGHTS = math.log(math.pi**2 / 3 - 1)


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """``f_y - max_{j != y} f_j`` of each sample.

    Args:
        outputs: ``[n, classes]``.
        labels: ``[n]``, int64.
    """
    own = outputs.gather(1, labels[:, None])
    others = outputs.scatter(1, labels[:, None], -math.inf)
    return (own - others.amax(1, keepdim=True)).squeeze(1)


def margin_bound(layers: Chain, found: Tensor, data_norm: float, delta: float, margin: float | None = None) -> MarginBound:
    """Bounds the probability of a wrong answer for every network of this architecture at once, and so for one that was trained.

    With probability at least ``1 - delta`` over n independent samples, for all weights and all margins gamma::

        Pr[wrong] <= share of samples with margin <= gamma
                     + 8 / n^(3/2) + 72 |X|_2 R sqrt(ln(2 W^2)) ln(n) / (gamma n)
                     + 3 sqrt((ln(2 / delta) + C) / (2 n))

    R is the spectral complexity, W the width. The theorem is for norms and a margin fixed beforehand; so that it holds for those
    that were found, they are rounded to a geometric grid (norms up) and the failure probability is shared out among the grid's points,
    those of index k getting a part proportional to ``(1 + |k|)^-2``: C is the sum of minus the logarithms of those parts over one margin
    and two norms a layer. The constants are those of the covering of Theorem 3.3 (Maurey's lemma with its rounding up of counts), margins
    being sqrt(2)-Lipschitz in the outputs, Dudley's integral down to 1/n, and the Rademacher bound with the empirical complexity;
    docs/generalisation.md goes through them.

    Args:
        layers: the network's chain.
        found: ``[n]``, the samples' margins, n at least 2.
        data_norm: ``|X|_2``, root of the sum of squared inputs, rounded up.
        delta: in (0, 1).
        margin: gamma, rounded to the grid; by default the grid's margin at which the bound is least.

    Returns:
        The bound, rounded up except in the last digits of its logarithms and roots.

    Source: P. Bartlett, D. Foster, M. Telgarsky, Spectrally-normalized margin bounds for neural networks, NeurIPS 2017, Theorem 1.1.
    """
    n, depth = len(found), len(layers.layers)
    grid = STEP / depth
    s = [_place(layer.spectral, grid) for layer in layers.layers]
    b = [_place(layer.distance, grid) for layer in layers.layers]
    norms = complexity([math.exp(k * grid) for k in s], [math.exp(k * grid) for k in b], layers.gains)
    unit = 72.0 * data_norm * norms * math.sqrt(math.log(2.0 * layers.width**2)) * math.log(n) / n
    shared = math.log(2.0 / delta) + math.fsum(_price(k) for k in [*s, *b])
    ordered = found.double().sort().values
    candidates = _candidates(ordered) if margin is None else [round(math.log(margin) / STEP)]

    def at(k: int) -> MarginBound:
        gamma = math.exp(k * STEP)
        share = float(torch.searchsorted(ordered, gamma, right=True)) / n
        parts = share, 8.0 / n**1.5 + unit / gamma, 3.0 * math.sqrt((shared + _price(k)) / (2.0 * n))
        return MarginBound(sum(parts) * (1.0 + 1e-11), gamma, *parts, delta)

    return min((at(k) for k in candidates), key=lambda bound: bound.value)


def _candidates(ordered: Tensor) -> list[int]:
    """Grid margins from just below the least positive one of a sample to the largest; beyond, the share is one."""
    positive = ordered[ordered > 0]
    if not len(positive):
        return [0]
    first, last = (math.ceil(math.log(float(v)) / STEP) - 1 for v in (positive[0], positive[-1]))
    return list(range(first, last + 1))


def _place(norm: float, grid: float) -> int:
    """Index of the grid's least point that is not below a norm."""
    k = math.ceil(math.log(max(norm, _LEAST)) / grid)
    return k if math.exp(k * grid) >= norm else k + 1


def _price(k: int) -> float:
    """Minus the logarithm of a grid point's part of the failure probability: ``(1 + |k|)^-2 / (pi^2 / 3 - 1)``."""
    return _WEIGHTS + 2.0 * math.log1p(abs(k))
