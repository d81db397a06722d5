"""From the sums of Chen et al.'s terms to a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from steepest.monitors.growth import dominant, exponent, negative
from steepest.results.convergence import AdamTypeReport, Assumption, Verdict, Window

SHORTEST = 16
"""First step of the first window that counts: earlier ones have too few steps for a slope."""

FEWEST = 4
"""Windows for an exponent."""

SURE = 5
"""Windows for "met": an interval from four has two degrees of freedom, and rare large gradients may not have come yet."""

LATEST = 6
"""Windows that an exponent looks back: the beginning of a run is not its order of growth."""

FLAT = 0.05
"""An exponent of the bound within this of zero is no fall: it would take a million times the steps to halve the bound."""

KNOWN = 0.25
"""An exponent counts as zero only where its interval leaves out most of the way to the -1/2 of a method that works."""

SIGMAS = 4.0
"""Standard errors by which a rise must stand out: a chance of 7e-4 by Student's t of 14 degrees of freedom, in each of two windows."""

DOWNHILL = 2.0
"""Standard errors by which steps that go downhill stand out: a risen loss then comes from the noise."""


def judge(
    method: str,
    steps: int,
    windows: Sequence[Window],
    assumptions: Collection[Assumption],
    *,
    forgets: bool,
    largest: float,
    momentum: float,
    smoothness: float,
) -> AdamTypeReport:
    """The verdict.

    Met: every term's increments fall against those of the sum of gamma, and that sum diverges, both with the whole of their
    intervals and in the last doubling too; nothing rises, the second moment does not forget, and there are windows enough.
    Failed: the bound's exponent is zero or more, known well enough to say so, and there is evidence of a rise. Not guaranteed: all else.

    Args:
        forgets: whether the second moment is a moving average of fixed memory.
        largest: H, the largest gradient seen in a coordinate.
        momentum: beta1; smoothness: L.
    """
    found = set(assumptions)
    used = [w for w in windows if w.first >= SHORTEST][-LATEST:]
    finite = all(math.isfinite(x) for w in windows for x in (w.a, w.b, w.b_squared, w.gamma))
    if not finite:
        found.add(Assumption.NOT_FINITE)
    order = tuple(x for x in Assumption if x in found)
    last = used[-1] if used else None
    square = None if last is None else last.squared_gradient
    evidence = rises(used)
    if len(used) < FEWEST or not finite:
        verdict = Verdict.TOO_SHORT if finite else Verdict.FAILED
        evidence = evidence if finite else (*evidence, "gradients or moments are no longer finite")
        return AdamTypeReport(method, steps, verdict, None, None, None, None, None, None, square, evidence, order, tuple(windows))
    gamma = exponent([w.gamma for w in used])
    parts = {name: exponent([getattr(w, name) / w.gamma for w in used]) for name in ("a", "b", "b_squared")}
    ratio = dominant([*parts.values(), negative(gamma)])
    falling = all(getattr(used[-1], n) / used[-1].gamma <= getattr(used[-2], n) / used[-2].gamma for n in parts)
    if ratio.value >= -FLAT and ratio.low >= -KNOWN and evidence:
        verdict = Verdict.FAILED
    elif ratio.high < -FLAT and falling and not evidence and not forgets and len(used) >= SURE:
        verdict = Verdict.MET
    else:
        verdict = Verdict.NOT_GUARANTEED
    return AdamTypeReport(
        method,
        steps,
        verdict,
        ratio,
        parts["a"],
        parts["b"],
        parts["b_squared"],
        gamma,
        0.0 if verdict is Verdict.MET else floor(used[-1], largest, momentum, smoothness),
        square,
        evidence,
        order,
        tuple(windows),
    )


def floor(window: Window, largest: float, momentum: float, smoothness: float) -> float:
    """What the bound on ``min E|grad f|^2`` tends to if all goes on as in a window.

    ``(L/2 dA + H^2 (2 + b / (1 - b)) dB) / d(sum of gamma)``: the descent lemma for ``z_t = x_t + b/(1-b) (x_t - x_{t-1})``, where
    replacing s_t by s_{t-1}, which does not depend on g_t, and back costs ``H^2 |s_t - s_{t-1}|_1`` each time (the way of theorem 3.1
    of Chen et al. 2019). The terms of momentum with L and B' are left out, so the argument promises no less than this.
    """
    carried = momentum / (1.0 - momentum)
    return (0.5 * smoothness * window.a + largest**2 * (2.0 + carried) * window.b) / window.gamma


def rises(windows: Sequence[Window]) -> tuple[str, ...]:
    """Evidence that the loss rises: sentences with numbers, none where nothing stands out from the noise.

    Either the mean step goes uphill along the gradients before it, in each of the last two windows; or the recorded loss of the last
    window is above that of an earlier one and the highest so far, while in each of the last two windows the steps keep a direction, and
    over both do not go downhill. A higher loss alone is no evidence: from a start near the optimum it rises to the level of the noise, by
    steps without a direction, and falls with the rate later on.
    """
    found = []
    known = [w for w in windows if w.ascent is not None][-2:]
    if len(known) < 2:
        return ()
    if all(_sigmas(w.ascent, w.ascent_error) > SIGMAS for w in known):
        last = known[-1]
        found.append(
            f"over steps {last.first:,} to {2 * last.first - 1:,} the mean step went against descent: it added "
            f"{last.ascent:.3g} +- {last.ascent_error:.1g} a step to the loss, along the gradients before it"
        )
    # Together: a cycle that blocks cut shifts the one against the other.
    downhill = -sum(_sigmas(w.ascent, w.ascent_error) for w in known) / math.sqrt(2.0)
    steady = downhill < DOWNHILL and all(_sigmas(w.drift, w.drift_error) > SIGMAS for w in known)
    losses = [(w.loss, w.loss_error, w.first) for w in windows if w.loss is not None and w.loss_error is not None]
    if len(losses) >= 3 and not math.isfinite(losses[-1][0]):
        found.append("the loss is no longer finite")
    elif len(losses) >= 3 and steady:
        value, error, first = losses[-1]
        low, low_error, low_first = min(losses[:-1])
        highest = all(value >= v - 2.0 * math.hypot(error, e) for v, e, _ in losses[:-1])
        if highest and _sigmas(value - low, math.hypot(error, low_error)) > SIGMAS:
            found.append(
                f"the loss rose from {low:.4g} +- {low_error:.1g} (steps from {low_first:,}) "
                f"to {value:.4g} +- {error:.1g} (steps from {first:,}), by steps that keep their direction"
            )
    return tuple(found)


def _sigmas(value: float | None, error: float | None) -> float:
    """A value in standard errors; 0 where it is 0 or not known."""
    if not value or error is None:
        return 0.0
    return value / error if error > 0.0 else math.copysign(math.inf, value)
