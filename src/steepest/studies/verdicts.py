"""From numbers of several seeds to intervals, and from intervals to verdicts, by rules that do not look at the outcome.

A claim is about one quantity and a side of one number. That number includes the margin below which an effect is negligible: "higher rates"
means a ratio of at least 1.25, say, not of 1.0001.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from steepest.results import Interval, Verdict
from steepest.results.study import shown

# Quantiles of Student's t at 97.5 %, for 1 to 10 degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion around the normal one, right to a thousandth."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean over seeds and its 95 % t interval; of a single seed an interval without ends."""
    n = len(values)
    if any(not math.isfinite(v) for v in values):
        return _beyond(values)
    mean = sum(values) / n
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    half = t_quantile(n - 1) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(over: Sequence[float], under: Sequence[float], grid: float = 1.0) -> Interval:
    """The geometric mean of the ratios of paired positive numbers and its 95 % t interval, taken in logarithms.

    Args:
        over, under: one number per seed each.
        grid: where both were looked for on a geometric grid, its ratio: either may lie a step further, so that each end moves by it.
    """
    logs = [_log(a) - _log(b) if a != b else 0.0 for a, b in zip(over, under, strict=True)]
    found = mean_interval(logs)
    wide = math.log(grid)
    return Interval(_exp(found.value), _exp(found.low - wide), _exp(found.high + wide))


def above(interval: Interval, margin: float) -> Verdict:
    """Whether the quantity is above the margin: held where the whole interval is, did not hold where none of it is, else partly."""
    if interval.low > margin:
        return Verdict.HELD
    return Verdict.DID_NOT_HOLD if interval.high <= margin else Verdict.PARTLY


def below(interval: Interval, margin: float) -> Verdict:
    """The mirror image of ``above``."""
    if interval.high < margin:
        return Verdict.HELD
    return Verdict.DID_NOT_HOLD if interval.low >= margin else Verdict.PARTLY


def inside(interval: Interval, margin: float) -> Verdict:
    """Whether the quantity is within the margin of zero: held where the whole interval is, did not hold where none is, else partly."""
    if -margin < interval.low and interval.high < margin:
        return Verdict.HELD
    return Verdict.DID_NOT_HOLD if interval.low >= margin or interval.high <= -margin else Verdict.PARTLY


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim with several parts: held where all did, did not hold where none even partly did, else partly."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else Verdict.PARTLY


def text(interval: Interval) -> str:
    """``12 [10, 15]``: value and ends with three digits."""
    value, low, high = shown(interval.value, interval.low, interval.high)
    return f"{value} [{low}, {high}]"


def listed(intervals: Mapping[str, Interval]) -> str:
    """``12 [10, 15] (one name); 3 [2, 4] (another)``."""
    return "; ".join(f"{text(i)} ({name})" for name, i in intervals.items())


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least squares line through the points; of logarithms an exponent."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def _beyond(values: Sequence[float]) -> Interval:
    """Some values are infinite or none: the interval spans what is left and the infinite side; its value is the median."""
    known = sorted(v for v in values if not math.isnan(v))
    if len(known) < len(values):
        return Interval(math.nan, -math.inf, math.inf)
    return Interval(known[len(known) // 2], known[0], known[-1])


def _log(value: float) -> float:
    return math.log(value) if 0 < value < math.inf else -math.inf if value == 0 else value


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
