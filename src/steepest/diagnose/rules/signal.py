"""Signals and gradients on their way through the layers."""

from __future__ import annotations

import math
from collections.abc import Callable

from steepest.diagnose.case import Case
from steepest.diagnose.harm import Harm
from steepest.diagnose.rules.common import Rule, finding
from steepest.probes.signals import Activation, Signals
from steepest.probes.tape import BOUNDED, RELU
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding

GLOROT = "Glorot & Bengio 2010, sections 2.3 and 3"
DEEP, VERY_DEEP = 10, 20


def vanishing_gradient(case: Case, harm: Harm) -> Finding | None:
    """The first layer gets a thousandth of what the last one gets."""
    if case.signals is None or not (harm.clear or _weak_harm(harm)):
        return None
    ratio, ends = gradient_ratio(case.signals)
    if not ratio < (1e-2 if harm.clear else 1e-3):
        return None
    return finding(
        Cause.VANISHING_GRADIENT,
        (0.91 if ratio < 1e-3 else 0.7) if harm.clear else 0.6,
        "Use ReLU-like activations, normalisation layers or skip connections; in recurrent nets gates (LSTM, GRU) or an orthogonal start.",
        Evidence(
            "gradient in the first activation / in the last", ratio, 1e-3, "threshold of AUTOTRAINER (Zhang et al. 2021); " + GLOROT, ends
        ),
        harm.evidence(),
    )


def exploding_gradient(case: Case, harm: Harm) -> Finding | None:
    """Growth from layer to layer, or step to step in time, before anything was learnt."""
    if case.signals is None or not harm.clear:
        return None
    acts = [a for a in case.signals.activations if a.gradient > 0 and a.rms > 0]
    if len(acts) < 3:
        return None
    growth = max(acts[-1].rms / acts[0].rms, 0.0)
    back = acts[0].gradient / acts[-1].gradient
    worst = max(growth, back)
    if worst < 70:
        return None
    return finding(
        Cause.EXPLODING_GRADIENT,
        0.95 if worst > 1e3 or case.signals.recurrent else 0.89,
        "Start with orthogonal or He weights of gain 1 per layer, and clip the norm of the gradient.",
        Evidence(
            "growth of the signal from the first to the last activation, at the start", growth, 70.0, "AUTOTRAINER (Zhang et al. 2021)"
        ),
        Evidence(
            "growth of the gradient from the last to the first activation, at the start", back, 70.0, "Pascanu et al. 2013, section 2.1"
        ),
        harm.evidence(),
    )


def saturated_units(case: Case, harm: Harm) -> Finding | None:
    """Bounded units in their flat ends for nearly every sample."""
    if case.signals is None:
        return None
    worst = _worst(case.signals, BOUNDED, lambda a: max(a.flat_end, a.flat if a.flat > 0.8 else 0))
    if worst is None:
        return None
    flat = max(worst.flat_end, worst.flat)
    at_start = worst.flat >= 0.5
    if flat < 0.5 or not (harm.mild or (flat >= 0.9 and at_start and _weak_harm(harm))):
        return None
    return finding(
        Cause.SATURATED_UNITS,
        (0.92 if flat >= 0.8 else 0.75) if at_start else 0.65,
        "Scale the weights or the inputs of these units down (Xavier initialisation, standardised inputs), or use ReLU.",
        Evidence(
            f"share of {worst.kind} outputs whose slope is below 5 % of its maximum, at the start",
            worst.flat,
            0.5,
            GLOROT,
            f"level {worst.level}",
        ),
        Evidence("the same at the end", worst.flat_end, 0.5),
        harm.evidence(),
    )


def dead_relu(case: Case, harm: Harm) -> Finding | None:
    """Units that are zero for every sample of several batches."""
    if case.signals is None or not harm.mild:
        return None
    worst = _worst(case.signals, RELU, lambda a: a.dead_end)
    if worst is None or worst.dead_end < (0.7 if harm.clear else 0.95):
        return None
    early = worst.dead >= 0.7
    return finding(
        Cause.DEAD_RELU,
        0.93 if early else 0.6,
        "Start with He weights and zero biases, lower the step size, or use LeakyReLU."
        if early
        else "Lower the step size, or use LeakyReLU.",
        Evidence(
            "share of units of a layer that are zero for all samples of the last windows",
            worst.dead_end,
            0.7,
            "AUTOTRAINER (Zhang et al. 2021): 70 %; Lu et al. 2019",
            f"level {worst.level}",
        ),
        Evidence("the same in the first windows", worst.dead, 0.7),
        harm.evidence(),
    )


def bad_init(case: Case, harm: Harm) -> Finding | None:
    """Weights all alike, or of a scale that no initialisation theory gives."""
    if case.parameters is None or not harm.mild:
        return None
    known = [p for p in case.parameters.parameters if p.registered]
    weights = [p for p in known if p.weight and p.layer not in ("Embedding", "EmbeddingBag")]
    alike = [p for p in weights if p.twins >= 0.9 and p.twins_end >= 0.9 and p.shape[0] >= 3]
    if alike:
        return finding(
            Cause.BAD_INIT,
            0.96,
            "Draw the weights at random (He initialisation for ReLU, Xavier for tanh).",
            Evidence(
                "share of units whose weights equal another unit's, from start to end",
                min(p.twins_end for p in alike),
                0.9,
                "Goodfellow et al. 2016, section 8.4: equal units get equal gradients",
                ", ".join(p.name for p in alike[:3]),
            ),
            harm.evidence(),
        )
    biases = [p for p in known if len(p.shape) == 1 and p.layer and "Norm" not in p.layer and abs(p.init_mean) >= 1]
    if (
        biases
        and case.signals is not None
        and any(max(a.dead, a.flat if a.kind in BOUNDED else 0) >= 0.5 for a in case.signals.activations)
    ):
        return finding(
            Cause.BAD_INIT,
            0.85,
            "Start biases at zero.",
            Evidence(
                "mean of initial biases",
                biases[0].init_mean,
                1.0,
                "signals of unit variance (He et al. 2015) do not cross a shift of their scale",
                biases[0].name,
            ),
            harm.evidence(),
        )
    scales = [(math.sqrt(p.fan_in) * p.init_std, p) for p in weights if p.fan_in > 1 and p.layer and "Norm" not in p.layer]
    if not scales:
        return None
    large, p = max(scales, key=lambda s: s[0])
    ratio = large / math.sqrt(2)
    if ratio >= 5 and (harm.clear or harm.diverged):
        return finding(
            Cause.BAD_INIT,
            0.86 if ratio >= 20 or not harm.diverged else 0.7,
            "Start with He or Xavier weights.",
            Evidence(
                "initial standard deviation * sqrt(fan-in) / He's sqrt(2)",
                ratio,
                5.0,
                "He et al. 2015, eq. 10: the signal's variance grows by the square of this in each layer",
                p.name,
            ),
            harm.evidence(),
        )
    middle = sorted(s for s, _ in scales)[len(scales) // 2]
    if middle < 0.1 and (case.signals is None or not case.signals.normalisations) and harm.clear:
        return finding(
            Cause.BAD_INIT,
            0.85 if middle < 0.05 else 0.6,
            "Start with He or Xavier weights.",
            Evidence(
                "median over layers of initial standard deviation * sqrt(fan-in)",
                middle,
                0.1,
                "He et al. 2015, eq. 10: the signal's variance shrinks by the square of this in each layer",
            ),
            harm.evidence(),
        )
    return None


def depth_degradation(case: Case, harm: Harm) -> Finding | None:
    """Many layers in a row without a way around them."""
    s = case.signals
    if s is None or s.recurrent or s.depth < DEEP or s.short_depth < 0.5 * s.depth:
        return None
    # From twenty layers on, without any way around, a mild harm is what is to be expected.
    if not harm.clear and not (harm.mild and s.depth >= VERY_DEEP and s.short_depth >= 0.9 * s.depth):
        return None
    return finding(
        Cause.DEPTH_DEGRADATION,
        0.93 if s.depth >= VERY_DEEP else 0.8,
        "Add identity skip connections around pairs of layers, or use fewer layers.",
        Evidence(
            "weighted layers in a row",
            float(s.depth),
            float(DEEP),
            "He et al. 2016, figure 1: plain nets of 20 layers and more train worse with depth; Schoenholz et al. 2017",
        ),
        Evidence("layers on the shortest path to the first one", float(s.short_depth)),
        harm.evidence(),
    )


def gradient_ratio(s: Signals) -> tuple[float, str]:
    """First over last gradient, the larger of start and end, and where."""
    acts = [a for a in s.activations if a.gradient == a.gradient]
    if len(acts) < 3:
        return math.nan, ""
    first, last = acts[0], acts[-1]
    ratios = [f / g for f, g in ((first.gradient, last.gradient), (first.gradient_end, last.gradient_end)) if g > 0]
    if s.recurrent:  # the last state gets the gradient of the loss, the first one what is left of it
        where = f"over {len(acts)} activations through time"
    else:
        where = f"{first.kind} at level {first.level}, {last.kind} at level {last.level}"
    return (min(ratios) if ratios and max(ratios) < 1e-2 else max(ratios, default=math.nan)), where


def _weak_harm(harm: Harm) -> bool:
    """A loss well above zero where the data allow a good answer."""
    return harm.left > 0.1 and harm.reference > 0.8


def _worst(signals: Signals, kinds: frozenset[str], key: Callable[[Activation], float]) -> Activation | None:
    return max((a for a in signals.activations if a.kind in kinds), key=key, default=None)


RULES: tuple[Rule, ...] = (vanishing_gradient, exploding_gradient, saturated_units, dead_relu, bad_init, depth_degradation)
