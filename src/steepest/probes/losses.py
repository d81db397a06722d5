"""What does the loss do: fall, rest, oscillate, jump, diverge, or still fall at the end?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from steepest.probes.events import LossPoint
from steepest.probes.probe import Probe
from steepest.results.measured import Measured

BINS = 40


@dataclass(frozen=True)
class Bin(Measured):
    """The losses of a stretch of training: their mean, standard deviation, least and largest value, and number; finite ones only."""

    step: int
    mean: float
    std: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class LossSeries(Measured):
    """The losses that one optimizer descended.

    Args:
        optimizer: its index; None where no step followed.
        count: how many losses there were; bins: they in order, in stretches of equal number.
        initial: the first loss.
        non_finite_step: the step at which a loss first was NaN or infinite; None where all were finite.
        rough: mean |loss_{i+1} - loss_i| over the last quarter, in units of the last bin's mean size.
    """

    optimizer: int | None
    count: int
    initial: float
    bins: tuple[Bin, ...]
    non_finite_step: int | None
    rough: float

    @property
    def final(self) -> float:
        """The mean of the last tenth of the losses; NaN where there is none."""
        return average(self.bins[-max(1, len(self.bins) // 10) :])

    @property
    def best(self) -> float:
        """The least mean of a bin."""
        return min((b.mean for b in self.bins), default=math.nan)


@dataclass(frozen=True)
class Losses(Measured):
    """All losses of a run, apart for each optimizer; steps: optimizer steps of the whole run."""

    steps: int
    series: tuple[LossSeries, ...]

    @property
    def main(self) -> LossSeries | None:
        """The longest series."""
        return max(self.series, key=lambda s: s.count, default=None)


def average(bins: Sequence[Bin]) -> float:
    """Mean of the losses in some bins."""
    count = sum(b.count for b in bins)
    return sum(b.mean * b.count for b in bins) / count if count else math.nan


class LossProbe(Probe):
    """Loss curve from the values that the observer keeps anyway; cost: nothing during training."""

    def finish(self) -> Losses | None:
        """The losses in bins, apart for each optimizer."""
        apart: dict[int | None, list[LossPoint]] = {}
        for point in self.run.losses:
            apart.setdefault(point.optimizer, []).append(point)
        if not apart:
            return None
        stepped = {k: v for k, v in apart.items() if k is not None} or apart
        return Losses(self.run.steps, tuple(summarise(k, v) for k, v in stepped.items()))


def summarise(optimizer: int | None, points: Sequence[LossPoint]) -> LossSeries:
    """The series of one optimizer in bins of equal count."""
    bad = next((p.step for p in points if not math.isfinite(p.value)), None)
    size = max(1, math.ceil(len(points) / BINS))
    bins = tuple(b for i in range(0, len(points), size) if (b := _bin(points[i : i + size])) is not None)
    last = [p.value for p in points[-max(2, len(points) // 4) :] if math.isfinite(p.value)]
    scale = abs(bins[-1].mean) if bins else math.nan
    rough = sum(abs(b - a) for a, b in pairwise(last)) / max(1, len(last) - 1)
    return LossSeries(optimizer, len(points), points[0].value, bins, bad, rough / scale if scale else 0.0)


def _bin(points: Sequence[LossPoint]) -> Bin | None:
    values = [p.value for p in points if math.isfinite(p.value)]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    # Losses that diverge overflow when squared.
    spread = max(abs(v - mean) for v in values)
    std = spread * math.sqrt(sum(((v - mean) / spread) ** 2 for v in values) / len(values)) if spread else 0.0
    return Bin(points[0].step, mean, std, min(values), max(values), len(values))
