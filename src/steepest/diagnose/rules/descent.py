"""Steps: too large, too small, too few, too noisy, held back, or of the wrong kind."""

from __future__ import annotations

import math

from steepest.diagnose.case import Case
from steepest.diagnose.harm import MILD, Harm
from steepest.diagnose.rules.common import Rule, finding
from steepest.probes.task import POINTWISE
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding

FULL_BATCH = {
    "LBFGS": "Bollapragada et al. 2018: differences of gradients of different batches are noise",
    "Rprop": "Riedmiller & Braun 1993: for full batches",
}
RATIO = "rule of thumb: an update of 1e-3 of the weights is healthy (Karpathy 2019); Cockpit, Schneider et al. 2021"


def non_finite(case: Case, harm: Harm) -> Finding | None:
    """NaN or infinity: in the data, out of a moderate loss, or at the end of a divergence."""
    n = case.nonfinite
    if n is None:
        return None
    own = n.where in ("input", "target")
    calm = n.loss_before == n.loss_before and abs(n.loss_before) <= 3 * abs(n.loss_start)
    sudden = (calm and n.where in ("gradient", "loss", "output", "parameters") and n.step > 0) or (n.step == 0 and not own)
    return finding(
        Cause.NON_FINITE,
        0.98 if own else 0.9 if sudden else 0.5,
        {
            "input": "Remove NaN from the inputs (a feature of zero variance divided by itself, a missing value).",
            "target": "Remove NaN from the targets.",
        }.get(n.where, "Guard logarithms, roots and divisions against zero; cure what makes the values grow."),
        Evidence("first place that is not finite", f"{n.where} at step {n.step}", source="IEEE 754: NaN spreads through every later sum"),
        Evidence("share of its entries", n.share),
        Evidence("last finite loss / first loss", n.loss_before / n.loss_start if n.loss_start else math.nan),
    )


def input_not_normalised(case: Case, harm: Harm) -> Finding | None:
    """Scales of inputs or targets that the weights' scale does not suit."""
    if not harm.mild:
        return None
    x, task = case.inputs, case.task
    evidence, score = [], 0.0
    source = "LeCun et al. 1998, section 4.3: mean zero, equal variance about 1; the Hessian's condition grows with the square of "
    "the ratio of scales"
    if x is not None and not x.tokens and x.std_high > 0:
        if x.std_high >= 20 or x.rms >= 50:
            score = max(score, 0.9 if max(x.std_high, x.rms) >= 100 else 0.8)
            evidence.append(Evidence("largest standard deviation of an input feature", x.std_high, 20.0, source))
        if x.condition >= 1e3:
            score = max(score, 0.93 if x.condition >= 1e4 else 0.8)
            evidence.append(Evidence("largest mean square of a feature / median variance", x.condition, 1e3, source))
    if task is not None and task.loss in POINTWISE and max(task.std, abs(task.mean)) >= 20 and task.kind == "continuous":
        score = max(score, 0.9)
        evidence.append(Evidence("standard deviation of the regression targets", task.std, 20.0, source))
    if not evidence:
        return None
    return finding(
        Cause.INPUT_NOT_NORMALISED,
        score,
        "Standardise inputs (and regression targets): subtract the mean, divide by the deviation.",
        *evidence,
        harm.evidence(),
    )


def lr_too_high(case: Case, harm: Harm) -> Finding | None:
    """Steps that throw the loss up, or units dead."""
    main = None if case.steps is None else case.steps.main
    series = harm.series
    if main is None or series is None or not harm.mild or harm.adversarial or harm.train_shortfall < MILD or main.kind == "LBFGS":
        return None
    died = 0.0
    if case.signals is not None:
        died = max((a.dead_end - a.dead for a in case.signals.activations), default=0.0)
    score, evidence = 0.0, []
    if harm.diverged:
        score = 0.88
        evidence.append(harm.evidence())
    if main.largest_update >= 0.3 or main.update >= 0.1:
        score = max(score, 0.87 if harm.unlearnt or main.update >= 0.1 else 0.6)
        evidence.append(Evidence("largest |step| / |weights|", main.largest_update, 0.3, "Cockpit, Schneider et al. 2021; " + RATIO))
    if died >= 0.5 and harm.clear:
        score = max(score, 0.86)
        evidence.append(
            Evidence(
                "share of units of one layer that died during training",
                died,
                0.5,
                "a large step pushes biases below all inputs: Lu et al. 2019",
            )
        )
    if series.bins and series.final > 1.5 * series.best and harm.clear and series.final > 0:
        score = max(score, 0.8)
        evidence.append(
            Evidence(
                "final loss / least mean loss of a stretch",
                series.final / series.best,
                1.5,
                "descent lemma: a step below 2 / L lowers the loss",
            )
        )
    if harm.clear and main.cosine_late < -0.3 and main.update_late >= 1e-3:
        score = max(score, 0.7)
        evidence.append(
            Evidence(
                "mean cosine between gradients of consecutive steps, late",
                main.cosine_late,
                -0.3,
                "Xing et al. 2018: negative where steps bounce between walls",
            )
        )
    if harm.clear and series.rough >= 0.3 and harm.left > 0.3 and main.update_late >= 3e-3 and main.samples > 4:
        score = max(score, 0.72)
        evidence.append(
            Evidence("mean change from loss to loss / loss, late", series.rough, 0.3, "fitted; losses near their floor are smoother")
        )
    if not evidence:
        return None
    return finding(
        Cause.LR_TOO_HIGH,
        score,
        f"Lower the step size (now {main.rate:g}) by a factor of 3 to 10, or warm it up.",
        *evidence,
        harm.evidence(),
    )


def lr_too_low(case: Case, harm: Harm) -> Finding | None:
    """Steps that leave the weights where they were."""
    main = None if case.steps is None else case.steps.main
    if main is None or not harm.clear or harm.diverged or harm.adversarial or harm.train_shortfall < 0.1 or not main.update == main.update:
        return None
    travelled = _travelled(case)
    slow = main.update < 1e-4
    # At the level of a constant answer a net whose weights moved less than half of their size has hardly set out.
    near = (travelled < 0.3 and harm.left > 0.8) or (travelled < 0.5 and harm.left > 0.9)
    if not slow and not (near and main.update < 1e-2):
        return None
    return finding(
        Cause.LR_TOO_LOW,
        0.84 if slow else 0.78,
        f"Raise the step size (now {main.rate:g}) by factors of 3 to 10 until the loss falls quickly.",
        Evidence("median |step| / |weights|", main.update, 1e-4, RATIO),
        Evidence("median |end - start| / |weights| over layers", travelled, 0.3),
        Evidence("final loss / loss of the best constant answer", harm.left, 0.8),
        harm.evidence(),
    )


def too_few_steps(case: Case, harm: Harm) -> Finding | None:
    """A loss that still falls when training ends."""
    main = None if case.steps is None else case.steps.main
    if main is None or case.losses is None or harm.diverged or harm.adversarial:
        return None
    # Where nothing is known of what can be reached, most of the loss of a constant answer being left stands for the harm.
    unsettled = harm.reference != harm.reference and harm.left > 0.5 and harm.falling >= 5
    if not unsettled and not (harm.clear and harm.train_shortfall >= 0.1):
        return None
    if harm.falling < 5 and not (case.losses.steps <= 150 and harm.left > 0.5 and main.update < 1e-2):
        return None
    return finding(
        Cause.TOO_FEW_STEPS,
        0.76 + 0.06 * (harm.falling >= 10),
        "Train longer.",
        Evidence("per cent by which the loss fell in the last quarter", harm.falling, 5.0, "fitted; beyond twice the noise of the loss"),
        Evidence("steps", float(case.losses.steps)),
        harm.evidence(),
    )


def batch_too_small(case: Case, harm: Harm) -> Finding | None:
    """A handful of samples a step, and a loss that their noise rules."""
    main = None if case.steps is None else case.steps.main
    series = harm.series
    if main is None or series is None or not harm.clear or harm.adversarial:
        return None
    samples = main.samples * (1 if main.closures or main.kind == "LBFGS" else main.backwards)
    if not samples <= 4 or (series.rough < 0.15 and not (harm.diverged and samples <= 2)):
        return None
    return finding(
        Cause.BATCH_TOO_SMALL,
        0.87 if harm.diverged else 0.9 if samples <= 2 else 0.83,
        "Use a larger batch, or lower the step size in proportion.",
        Evidence("samples in a step", samples, 4.0, "Smith et al. 2018: noise scales with step size / batch; McCandlish et al. 2018"),
        Evidence("mean change from loss to loss / loss, late", series.rough, 0.15),
        harm.evidence(),
    )


def unsuitable_optimizer(case: Case, harm: Harm) -> Finding | None:
    """A method for full batches on mini-batches; one step size for rare and frequent parameters alike."""
    main = None if case.steps is None else case.steps.main
    if main is None or not harm.mild:
        return None
    if main.kind in FULL_BATCH and case.task is not None and case.task.batches > 1:
        return finding(
            Cause.UNSUITABLE_OPTIMIZER,
            0.95,
            "Use SGD with momentum or Adam, or give this optimizer the full batch.",
            Evidence("optimizer, with a new batch in each step", main.kind, source=FULL_BATCH[main.kind]),
            harm.evidence(),
        )
    sparse = case.parameters is not None and any(p.layer in ("Embedding", "EmbeddingBag") for p in case.parameters.parameters)
    if main.kind == "SGD" and sparse and harm.clear and main.update < 1e-3:
        return finding(
            Cause.UNSUITABLE_OPTIMIZER,
            0.7,
            "Use an adaptive method such as Adam or Adagrad for embeddings.",
            Evidence(
                "optimizer of rarely met embeddings", main.kind, source="Duchi et al. 2011, section 1: rare features need larger steps"
            ),
            harm.evidence(),
        )
    return None


def regularisation_too_strong(case: Case, harm: Harm) -> Finding | None:
    """Decay, penalty or dropout that outweighs the data."""
    main = None if case.steps is None else case.steps.main
    if main is None or not harm.mild or harm.train_shortfall < MILD or harm.diverged:
        return None
    decoupled = main.kind.endswith("W")
    ratio = main.rate * main.decay / main.update if decoupled and main.update > 0 else main.decay_ratio
    if ratio >= 0.3 and main.decay > 0:
        return finding(
            Cause.REGULARISATION_TOO_STRONG,
            0.94,
            f"Lower the weight decay (now {main.decay:g}), to 1e-4 ... 1e-2.",
            Evidence(
                "decay * |weights| / |gradient|, median",
                ratio,
                0.3,
                "at a minimum of loss + decay both balance: 1 where decay alone decides",
            ),
            harm.evidence(),
        )
    if case.fit is not None and case.fit.penalty >= 0.3:
        return finding(
            Cause.REGULARISATION_TOO_STRONG,
            0.93,
            "Lower the weight of the penalty.",
            Evidence("share of the loss that is not the criterion", case.fit.penalty, 0.3, "fitted"),
            harm.evidence(),
        )
    if case.modes is not None and case.modes.largest_dropout >= 0.7 and harm.clear:
        return finding(
            Cause.REGULARISATION_TOO_STRONG,
            0.9,
            "Lower the dropout probability to 0.2 ... 0.5.",
            Evidence(
                "largest dropout probability",
                case.modes.largest_dropout,
                0.7,
                "Srivastava et al. 2014, section 7.3: flat for 0.2 ... 0.6, worse above",
            ),
            harm.evidence(),
        )
    return None


def _travelled(case: Case) -> float:
    if case.parameters is None:
        return math.nan
    ways = sorted(p.moved for p in case.parameters.parameters if p.weight and p.owned and p.moved == p.moved)
    return ways[len(ways) // 2] if ways else math.nan


RULES: tuple[Rule, ...] = (
    non_finite,
    input_not_normalised,
    lr_too_high,
    lr_too_low,
    too_few_steps,
    batch_too_small,
    unsuitable_optimizer,
    regularisation_too_strong,
)
