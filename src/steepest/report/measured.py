"""Measured quantities for people: rounded to what they are known to, a miss written as one."""

from __future__ import annotations

import math
from collections.abc import Callable

from steepest.results.study import Interval


def plain_text(value: float) -> str:
    """Three significant digits."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def steps_text(value: float) -> str:
    """A whole number; an infinite one is a miss."""
    return "missed" if math.isinf(value) else f"{value:.0f}"


def seconds_text(value: float) -> str:
    """Two digits; an infinite one is a miss."""
    return "missed" if math.isinf(value) else f"{value:.2g}" if value < 100 else f"{value:.0f}"


def share_text(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f} %"


def interval_text(interval: Interval, text: Callable[[float], str] = plain_text) -> str:
    """``value [low, high]``; one word where all three are infinite."""
    if interval.value == interval.low == interval.high and math.isinf(interval.value):
        return text(interval.value)
    return f"{text(interval.value)} [{text(interval.low)}, {text(interval.high)}]"
