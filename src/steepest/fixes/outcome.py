"""What a run has reached, and whether one run is better than another beyond the noise of both."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from steepest.probes.fit import Fit
from steepest.probes.losses import Losses
from steepest.results.measured import Measured

LEAST = 0.05
"""Improvements of a loss below this share of it, and of an accuracy below a hundredth, are not called help, however small the noise."""


@dataclass(frozen=True)
class Outcome(Measured):
    """The end of a run; NaN for what was not seen.

    Args:
        loss: mean of the last tenth of the losses that were differentiated; noise: the standard error of this mean.
        accuracy: in the last tenth of training; count: of how many samples; error: mean squared difference there, entry by entry.
        held_accuracy, held_error: at the last evaluation of data that were not trained on; held_count: how many.
        finite: whether all losses were finite.
    """

    loss: float = math.nan
    noise: float = 0.0
    accuracy: float = math.nan
    error: float = math.nan
    held_accuracy: float = math.nan
    held_error: float = math.nan
    held_count: int = 0
    count: int = 0
    finite: bool = True

    @classmethod
    def of(cls, records: Iterable[Any]) -> Self:
        """From what the probes of losses and of the fit have measured."""
        losses = next((r for r in records if isinstance(r, Losses)), None)
        fit = next((r for r in records if isinstance(r, Fit)), None)
        series = None if losses is None else losses.main
        final = None if fit is None else fit.final
        held = None if fit is None else fit.held_final
        finite = series is not None and series.non_finite_step is None
        noise = 0.0
        if series is not None and series.bins:
            last = series.bins[-max(1, len(series.bins) // 10) :]
            noise = math.sqrt(sum(b.count * b.std**2 for b in last)) / sum(b.count for b in last)
        return cls(
            loss=series.final if series is not None and finite else math.nan,
            noise=noise,
            accuracy=math.nan if final is None else final.accuracy,
            error=math.nan if final is None else final.error,
            held_accuracy=math.nan if held is None else held.accuracy,
            held_error=math.nan if held is None else held.error if held.error == held.error else math.nan,
            held_count=0 if held is None else held.count,
            count=0 if final is None else final.count,
            finite=finite,
        )

    @property
    def merit(self) -> tuple[float, float]:
        """By what runs of one script are ranked: held-out quality, then the training loss."""
        for value in (self.held_accuracy, -self.held_error, self.accuracy, -self.error):
            if value == value:
                return value, -self.loss if self.loss == self.loss else -math.inf
        return -math.inf, -self.loss if self.loss == self.loss else -math.inf


@dataclass(frozen=True)
class Verdict:
    """Two runs compared.

    Args:
        metric: what decided; before, after: its values.
        helped: whether the second run is better beyond the noise.
        aside: the training loss of both, where another metric decided.
    """

    metric: str
    before: float
    after: float
    helped: bool
    aside: str = ""


def compare(before: Outcome, after: Outcome, other_loss: bool) -> Verdict | None:
    """Held-out quality decides where it changed beyond its noise; else the training loss, or the error that means the same in both.

    A difference counts from two standard errors on (and from ``LEAST``). Shares of right answers have the binomial error of two independent
    samples, which is too large for one held-out set and so errs towards "did not help".

    Args:
        before, after: the runs.
        other_loss: whether the loss of the second is another function, so that the values of both cannot be compared.

    Returns:
        The verdict; None where the runs have nothing in common that could be compared.
    """
    aside = "" if other_loss or before.loss != before.loss else f"training loss {before.loss:.4g} -> {after.loss:.4g}"
    if not after.finite and not other_loss:
        return Verdict("training loss", before.loss, after.loss, False)
    worse = False
    verdicts = []
    a, b = before.held_accuracy, after.held_accuracy
    if a == a and b == b:
        n = max(1, min(before.held_count, after.held_count))
        margin = _margin(a, b, n)
        verdicts.append(Verdict("held-out accuracy", a, b, b - a > margin, aside))
        worse = a - b > margin
    a, b = before.held_error, after.held_error
    if not verdicts and (a == a or not before.finite) and b == b:
        verdicts.append(
            Verdict("held-out squared error", a, b, b < (1 - 2 * LEAST) * a or (not math.isfinite(a) and math.isfinite(b)), aside)
        )
        worse = b > (1 + 2 * LEAST) * a
    if worse or any(v.helped for v in verdicts):
        return verdicts[0]
    for metric, a, b, noise in (
        ("training loss", before.loss, after.loss, 2 * math.hypot(before.noise, after.noise)),
        (
            "accuracy in training",
            -before.accuracy,
            -after.accuracy,
            _margin(before.accuracy, after.accuracy, max(1, min(before.count, after.count))),
        ),
        ("squared error in training", before.error, after.error, 2 * LEAST * abs(before.error)),
    ):
        if other_loss == (metric == "training loss") or (metric == "squared error in training" and before.accuracy == before.accuracy):
            continue
        if b == b and (a == a or not before.finite):
            least = 0.0 if metric == "accuracy in training" else LEAST * abs(a)
            helped = not a == a or a - b > max(noise, least)
            sign = -1 if metric.startswith("acc") else 1
            lost = _lost(before, after)
            verdicts.append(Verdict(metric, sign * a, sign * b, helped and not lost, aside if metric != "training loss" else ""))
    return next((v for v in verdicts if v.helped), verdicts[0] if verdicts else None)


def _margin(a: float, b: float, n: int) -> float:
    """Two standard errors of the difference of two shares of n samples each, a hundredth at least."""
    return max(0.01, 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / n))


def _lost(before: Outcome, after: Outcome) -> bool:
    """A lower loss bought with fewer right answers on held-out data is no help."""
    return after.held_accuracy < before.held_accuracy - 0.02
