"""Good on the training data alone, or not even there though nothing stands in the way."""

from __future__ import annotations

from steepest.diagnose.case import Case
from steepest.diagnose.harm import MILD, Harm
from steepest.diagnose.rules.common import Rule, finding
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding


def overfitting(case: Case, harm: Harm) -> Finding | None:
    """A gap between training and held-out data."""
    if case.fit is None or harm.diverged or harm.held_skill != harm.held_skill or harm.train_skill != harm.train_skill:
        return None
    gap = harm.train_skill - harm.held_skill
    if harm.train_skill < 0.9 or gap < (0.2 if harm.held_shortfall >= MILD else 0.35):
        return None
    losses = [s.loss for s in case.fit.held if s.seen < 0.5 and s.loss == s.loss]
    rise = losses[-1] / min(losses) if losses and min(losses) > 0 else 1.0
    return finding(
        Cause.OVERFITTING,
        0.88,
        "Get more data, stop when the held-out loss rises, augment, regularise or take a smaller network.",
        Evidence(
            "skill in training - skill on held-out data",
            gap,
            0.35,
            "fitted, 0.2 where a kernel method does better on such data; both are 1 for perfect answers, 0 for a constant one",
        ),
        Evidence("skill on held-out data", harm.held_skill),
        Evidence("held-out loss / its least value", rise),
    )


def capacity_too_small(case: Case, harm: Harm) -> Finding | None:
    """A loss that has settled high although gradients flow."""
    if (
        case.signals is None
        or not harm.clear
        or harm.diverged
        or harm.adversarial
        or harm.train_shortfall < 0.15
        or harm.falling >= 5
        or harm.left > 0.95
    ):
        return None
    widths = [a.units for a in case.signals.activations if a.units]
    narrow = min(widths, default=0)
    if not widths or narrow > 8:
        return None
    return finding(
        Cause.CAPACITY_TOO_SMALL,
        0.85 if narrow <= 3 else 0.7,
        "Make the narrow layers wider.",
        Evidence(
            "units in the narrowest layer",
            float(narrow),
            8.0,
            "Cybenko 1989: width buys approximation; kernel regression does better on the same data",
        ),
        harm.evidence(),
    )


RULES: tuple[Rule, ...] = (overfitting, capacity_too_small)
