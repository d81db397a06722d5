"""The figures of a race: intervals by the bootstrap, performance profiles, expected results of smaller budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steepest.results.study import Interval


def median_interval(values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The median with a percentile bootstrap interval; infinite values, which are misses, are ordinary large values.

    The ends are medians that were drawn, without interpolation, so infinite values need no care. With few values the ends are coarse: of
    95 % intervals over ten values 93 to 96 % cover the median.

    Args:
        values: at least one, without NaN. For a paired comparison: one difference or ratio per seed.
        level: of confidence.
        resamples: of the bootstrap.
        seed: of the resampling.

    Source: Efron 1979.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    assert x.size and not np.isnan(x).any()
    drawn = np.random.default_rng(seed).integers(0, x.size, (resamples, x.size))
    medians = np.median(x[drawn], axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(medians, [tail, 1.0 - tail], method="inverted_cdf")
    return Interval(float(np.median(x)), float(low), float(high))


def ratios(steps: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Per pair ``steps / reference``; both infinite is a tie, 1."""
    return [1.0 if s == r else s / r if r > 0 else math.inf for s, r in zip(steps, reference, strict=True)]


def expected_best(values: Sequence[float]) -> tuple[float, ...]:
    """Expected least of k values drawn without replacement, for k = 1 ... n; exact.

    With v_(1) <= ... <= v_(n), the least of k is v_(i) in C(n - i, k - 1) of the C(n, k) draws.

    Source: Dodge et al. 2019, "Show your work", without their replacement.
    """
    ordered = sorted(values)
    n = len(ordered)
    return tuple(
        sum(v * (math.comb(n - i, k - 1) / math.comb(n, k)) for i, v in enumerate(ordered[: n - k + 1], 1)) for k in range(1, n + 1)
    )


def performance_profile(costs: Sequence[Sequence[float]]) -> list[tuple[tuple[float, float], ...]]:
    """For each method the steps ``(factor, share)`` of its performance profile.

    With cost t_{p,s} of method s on problem p and r_{p,s} = t_{p,s} / min_s t_{p,s}, the profile is rho_s(tau) = share of problems with
    r_{p,s} <= tau; an infinite cost never counts, and a problem that nobody solves counts against all. Each profile starts at factor 1;
    its last point lies at the largest finite ratio of any method.

    Args:
        costs: ``costs[p][s]`` > 0, at least one problem.

    Source: Dolan and More 2002.
    """
    t = np.asarray(costs, dtype=np.float64)
    least = t.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isfinite(t), t / least, math.inf)
    finite = ratio[np.isfinite(ratio)]
    factors = np.unique(np.concatenate([[1.0], finite]))
    return [tuple((float(f), float((column <= f).mean())) for f in factors) for column in ratio.T]
