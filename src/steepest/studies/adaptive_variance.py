"""The variance of Adam's adaptive rate in its first steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def effective_length(beta: float, step: int) -> float:
    """rho_t, the length of the simple average with the centre of mass of the exponential one after t = ``step`` steps (section 4.1)."""
    return 2.0 / (1.0 - beta) - 1.0 - 2.0 * step * beta**step / (1.0 - beta**step)


def predicted_variance(length: float) -> float:
    """The variance of 1 / sqrt(v) for v the mean of ``length`` squares of standard normal gradients; infinite up to a length of 2.

    1 / v is scaled inverse chi-squared: ``E 1 / v = n / (n - 2)`` and ``E 1 / sqrt v = sqrt(n / 2) Gamma((n - 1) / 2) / Gamma(n / 2)``.

    Source: L. Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020, theorem 1 and its proof.
    """
    n = length
    if n <= 2.0:
        return math.inf
    mean = math.sqrt(0.5 * n) * math.exp(math.lgamma(0.5 * (n - 1.0)) - math.lgamma(0.5 * n))
    return n / (n - 2.0) - mean * mean


def sampled_variance(beta: float, steps: Sequence[int], samples: int, seed: int) -> list[float]:
    """The variance of ``1 / sqrt(v_t / (1 - beta^t))``, as Adam has it, over independent standard normal gradients.

    Args:
        beta: Adam's second.
        steps: t, increasing, from 1.
        samples: coordinates.
        seed: of the gradients.
    """
    generator = np.random.default_rng(seed)
    v, found = np.zeros(samples), list[float]()
    for t in range(1, steps[-1] + 1):
        v *= beta
        v += (1.0 - beta) * generator.standard_normal(samples) ** 2
        if t in steps:
            found.append(float(np.var(np.sqrt((1.0 - beta**t) / v))))
    return found
