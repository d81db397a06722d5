"""From measurements to findings: a pure function."""

from __future__ import annotations

from steepest.diagnose.case import Case
from steepest.diagnose.harm import Harm
from steepest.diagnose.rules import descent, generalisation, loop, loss, signal
from steepest.diagnose.rules.common import finding
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding, Severity

RULES = loop.RULES + loss.RULES + signal.RULES + descent.RULES + generalisation.RULES
MOST = 3

# What follows from what: the consequence is listed after its cause, whatever its score.
CONSEQUENCES = {
    Cause.NON_FINITE: (Cause.LR_TOO_HIGH, Cause.EXPLODING_GRADIENT, Cause.WRONG_LOSS, Cause.WRONG_ACTIVATION, Cause.UNSUITABLE_OPTIMIZER),
    Cause.DEAD_RELU: (Cause.UNSCALED_ACCUMULATION,),
}


def judge_case(case: Case) -> tuple[Finding, ...]:
    """The findings of a case, ranked; none for a healthy run."""
    harm = Harm(case)
    found = [f for rule in RULES if (f := rule(case, harm)) is not None]
    if not found and harm.clear and not harm.adversarial:
        found = [_rest(case, harm)]
    best = max((f.score for f in found), default=0.0)
    # A certain cause explains the harm: what is much less certain is left out.
    found = [f for f in found if f.score >= best - 0.4]
    ranked = sorted(found, key=lambda f: (f.severity is not Severity.ERROR, -f.score))
    return tuple(_causes_first(ranked)[:MOST])


def _causes_first(ranked: list[Finding]) -> list[Finding]:
    present = {f.cause for f in ranked}
    late = [f for f in ranked if f.score < 0.9 and present & set(CONSEQUENCES.get(f.cause, ()))]
    return [f for f in ranked if f not in late] + late


def _rest(case: Case, harm: Harm) -> Finding:
    """Harm without a mechanism: what the loss curve itself suggests."""
    series = harm.series
    if harm.falling >= 2:
        return finding(
            Cause.TOO_FEW_STEPS,
            0.4,
            "Train longer.",
            Evidence("per cent by which the loss fell in the last quarter", harm.falling, 2.0),
            harm.evidence(),
        )
    x = case.inputs
    if x is not None and not x.tokens and (x.condition >= 50 or x.rms >= 5):
        return finding(
            Cause.INPUT_NOT_NORMALISED,
            0.4,
            "Standardise the inputs.",
            Evidence("root mean square of the inputs", x.rms, 5.0),
            Evidence("largest mean square of a feature / median variance", x.condition, 50.0),
            harm.evidence(),
        )
    if series is not None and series.rough >= 0.2:
        return finding(
            Cause.LR_TOO_HIGH,
            0.4,
            "Lower the step size.",
            Evidence("mean change from loss to loss / loss, late", series.rough, 0.2),
            harm.evidence(),
        )
    if harm.left > 0.9:
        return finding(Cause.LR_TOO_LOW, 0.4, "Try other step sizes, larger ones first.", harm.evidence())
    return finding(Cause.CAPACITY_TOO_SMALL, 0.35, "Try a wider network.", harm.evidence())
