"""What a convergence theory says of a run: a verdict with its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What may be said of convergence, as a sentence; none of them says that a run has converged."""

    MET = "condition met so far: the sufficient condition of the theorem holds over the steps that were seen"
    NOT_GUARANTEED = "not guaranteed: the theorem's bound does not fall to zero, which is no evidence that the run fails"
    FAILED = "failed, with evidence: the theorem's bound does not fall, and the loss rises; use AMSGrad, AdaFom or a larger beta2"
    TOO_SHORT = "not guaranteed: the run is too short to tell, go on for more steps"


class Assumption(StrEnum):
    """What the theorem assumes and the run does not keep."""

    CONSTANT_RATE = "the rate is constant: the theorem needs rates that fall, such as lr / sqrt(t)"
    MOVING_AVERAGE = "beta2 is fixed: old gradients are forgotten and the effective steps go on oscillating"
    BIAS_CORRECTION = "the moments are corrected for their bias, which the theorem does not have"
    COUPLED_DECAY = "weight decay is part of the gradient: the theorem speaks of the regularised loss"
    DECOUPLED_DECAY = "weight decay acts on the parameters directly, which the theorem does not have"
    CLIPPING = "gradients are clipped: they are no longer unbiased"
    PROJECTION = "parameters are changed between steps, by projection or by hand"
    MOMENTUM = "momentum is added after the scaling, not before"
    CHANGED_OPTIONS = "a moment's memory changed during the run"
    SKETCH = "the terms come from a random sketch of the coordinates, and the largest gradient is that of the sketch"
    NOT_FINITE = "gradients or moments that are not finite were met"


@dataclass(frozen=True)
class Exponent:
    """The exponent p of a growth T^p.

    Args:
        value: least squares over doubling windows.
        low, high: an interval of 95 % (Student's t on the residuals).
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form; infinity as a word."""
        return {k: number(v) for k, v in vars(self).items()}


@dataclass(frozen=True)
class Window:
    """Sums over the steps ``first <= t < 2 first``.

    Args:
        first: its first step, from 1; steps: how many were looked at.
        a, b, b_squared: increments of the terms A, B and B' of Chen et al. 2019, theorem 3.1.
        gamma: the increment of the sum of least effective steps.
        squared_gradient: unbiased estimate of ``|mean gradient|^2``; None for short windows. May be negative.
        ascent: mean over blocks of ``<mean gradient of the blocks before, mean step>``: what a step adds to the loss, to first order;
            ascent_error: its standard error.
        drift: mean over blocks of ``<mean step of earlier blocks, mean step>``, zero without a direction; drift_error: its standard error.
        loss: mean of the recorded losses; loss_error: its standard error, from blocks. None where fewer than two were recorded.
    """

    first: int
    steps: int
    a: float
    b: float
    b_squared: float
    gamma: float
    squared_gradient: float | None
    ascent: float | None
    ascent_error: float | None
    drift: float | None
    drift_error: float | None
    loss: float | None
    loss_error: float | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: number(v) for k, v in vars(self).items()}


@dataclass(frozen=True)
class AdamTypeReport:
    """The theorem of Chen et al. 2019 held against a run.

    Args:
        method: the optimizer.
        steps: that were seen.
        verdict: what may be said.
        ratio: exponent of s1 / s2, the order of the bound on ``min E|grad f|^2``: negative is a bound that falls. None for short runs.
        a, b, b_squared: exponents of each term's increments over those of the sum of gamma.
        gamma: exponent of the sum of the least effective steps.
        floor: what the bound tends to as things go now, in units of ``|grad f|^2``: 0 where the condition is met; None for short runs.
        squared_gradient: measured over the last window, beside the floor.
        evidence: sentences with numbers, for a rise.
        assumptions: those that do not hold.
        windows: all complete ones.
    """

    method: str
    steps: int
    verdict: Verdict
    ratio: Exponent | None
    a: Exponent | None
    b: Exponent | None
    b_squared: Exponent | None
    gamma: Exponent | None
    floor: float | None
    squared_gradient: float | None
    evidence: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    windows: tuple[Window, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        names = ("ratio", "a", "b", "b_squared", "gamma")
        exponents = {n: None if (e := getattr(self, n)) is None else e.to_json() for n in names}
        return {
            "method": self.method,
            "steps": self.steps,
            "verdict": self.verdict.value,
            "exponents": exponents,
            "floor": number(self.floor),
            "squared_gradient": number(self.squared_gradient),
            "evidence": list(self.evidence),
            "assumptions": [x.value for x in self.assumptions],
            "windows": [w.to_json() for w in self.windows],
        }


def number(value: float | None) -> float | str | None:
    """A number as JSON can hold it: not finite as a word."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
