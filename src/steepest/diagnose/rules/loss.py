"""Loss, output and targets: do they suit each other?"""

from __future__ import annotations

from steepest.diagnose.case import Case
from steepest.diagnose.harm import Harm
from steepest.diagnose.rules.common import Rule, finding
from steepest.probes.task import POINTWISE
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding

SQUASH = {"Softmax", "SafeSoftmax", "Sigmoid", "LogSigmoid", "Tanh", "Hardsigmoid"}
CUT = {"Relu", "Threshold", "ClampMin"}
BISHOP = "Bishop 2006, section 4.3.6: canonical links pair softmax with cross-entropy of classes, sigmoid with that of 0/1 targets"


def loss_output_mismatch(case: Case, harm: Harm) -> Finding | None:
    """An activation too many, or one missing, before a loss of probabilities."""
    task = case.task
    if task is None:
        return None
    tail, said, fix = set(task.tail), "", ""
    if task.single:
        said, fix = (
            "a softmax over a single unit, which is 1 whatever the input",
            "Use a sigmoid for a single output, or two outputs with cross-entropy.",
        )
    elif task.loss in ("cross_entropy", "binary_cross_entropy_with_logits") and tail & SQUASH:
        said, fix = (
            f"{sorted(tail & SQUASH)[0]} before {task.loss}, which applies its own",
            "Give the loss the raw outputs of the last linear layer.",
        )
    elif task.loss in ("cross_entropy", "binary_cross_entropy_with_logits") and tail & CUT:
        said, fix = (
            f"{sorted(tail & CUT)[0]} before {task.loss}: logits below zero are cut off",
            "Give the loss the raw outputs of the last linear layer.",
        )
    elif task.loss == "nll_loss" and not tail & {"LogSoftmax", "Log"} and "LogSigmoid" not in tail:
        said, fix = "nll_loss on values that no log-softmax made", "Put log_softmax before nll_loss, or use cross_entropy on raw outputs."
    elif task.loss == "binary_cross_entropy" and not tail & {"Sigmoid", "Softmax", "SafeSoftmax", "Hardsigmoid", "Exp"} and task.tail:
        said, fix = f"{task.tail[0]} before binary_cross_entropy, which needs probabilities", "Use a sigmoid, or the loss on logits."
    elif task.loss == "cross_entropy" and task.classes == 1:
        said, fix = (
            "cross-entropy over a single class, which is 0 whatever the output",
            "Use binary_cross_entropy_with_logits, or two outputs.",
        )
    if not said:
        return None
    return finding(
        Cause.LOSS_OUTPUT_MISMATCH, 0.96 if harm.mild else 0.7, fix, Evidence("output and loss", said, source=BISHOP), harm.evidence()
    )


def wrong_loss(case: Case, harm: Harm) -> Finding | None:
    """A loss for another kind of target."""
    task = case.task
    if task is None:
        return None
    said, fix, score = "", "", 0.93
    if task.loss.startswith("binary_cross_entropy") and (task.low < -1e-6 or task.high > 1 + 1e-6):
        said = f"{task.loss} with targets from {task.low:.4g} to {task.high:.4g}: it is unbounded below outside of [0, 1]"
        fix, score = "Use mse_loss for a regression, cross_entropy for more than two classes.", 0.98
    elif task.loss == "cross_entropy" and task.kind in ("continuous", "integers") and task.classes >= 1:
        said, fix = "cross-entropy with targets that are no distribution", "Use mse_loss for a regression."
    elif task.loss == "l1_loss" and task.kind in ("binary", "one_hot") and harm.mild:
        said = "absolute error for classes: its gradient does not grow with the error, and a constant answer is a minimum"
        fix = "Use binary_cross_entropy_with_logits or cross_entropy."
    elif task.loss in POINTWISE and _class_numbers(task.kind, task.low, task.high, task.distinct) and harm.mild:
        said, fix, score = (
            f"{task.loss} on class numbers {task.low:g} ... {task.high:g}",
            "Use cross_entropy with one output for each class.",
            0.85,
        )
    elif task.loss in POINTWISE and task.kind in ("binary", "one_hot") and harm.clear:
        said, fix, score = f"{task.loss} for classes", "Use cross_entropy, or binary_cross_entropy_with_logits.", 0.5
    elif task.loss == "cross_entropy" and task.kind == "classes" and task.distinct > 50 and harm.mild and task.calls and _few_each(case):
        said, fix, score = f"cross-entropy over {task.distinct} whole numbers, nearly one a sample", "Use mse_loss for a regression.", 0.8
    if not said:
        return None
    return finding(Cause.WRONG_LOSS, score, fix, Evidence("loss and targets", said, source=BISHOP), harm.evidence())


def wrong_activation(case: Case, harm: Harm) -> Finding | None:
    """An output that cannot reach the targets; layers that are one linear map."""
    task, signals = case.task, case.signals
    if task is not None and task.loss in POINTWISE and task.tail and harm.mild:
        low, high = _range(task.tail)
        slack = 0.05 * max(task.high - task.low, 1e-9)
        if task.high > high + slack or task.low < low - slack:
            return finding(
                Cause.WRONG_ACTIVATION,
                0.97,
                "Leave the output of a regression linear, or scale the targets into its range.",
                Evidence(
                    f"targets beyond the range of {task.tail[0]}, [{low:g}, {high:g}]",
                    f"{task.low:.4g} ... {task.high:.4g}",
                    source="a value outside of the range of the last activation is reached by no weights",
                ),
                harm.evidence(),
            )
    if signals is not None and signals.depth >= 2 and not signals.nonlinear and not signals.normalisations and harm.mild:
        linear = case.reachable
        better = linear is not None and (linear.explained if linear.classes == 0 else linear.accuracy) - linear.linear
        if harm.diverged or (linear is not None and better > 0.02):
            return finding(
                Cause.WRONG_ACTIVATION,
                0.9,
                "Put an activation such as ReLU between the layers.",
                Evidence(
                    "weighted layers in a row without any nonlinearity",
                    float(signals.depth),
                    2.0,
                    "a composition of linear maps is one linear map (Goodfellow et al. 2016, section 6.1)",
                ),
                harm.evidence(),
            )
    if signals is not None and signals.softmaxes and harm.mild:
        return finding(
            Cause.WRONG_ACTIVATION,
            0.9,
            "Use ReLU or tanh in hidden layers; softmax belongs behind the last one.",
            Evidence(
                "softmax between layers",
                float(signals.softmaxes),
                1.0,
                "its outputs sum to 1, so that each carries 1 / width of the signal (Glorot & Bengio 2010: signals should keep "
                "their scale)",
            ),
            harm.evidence(),
        )
    sigmoids = [a for a in signals.activations if a.kind == "Sigmoid"] if signals is not None and not signals.recurrent else []
    if len(sigmoids) >= 3 and sigmoids[-1].gradient > 0 and sigmoids[0].gradient < 0.1 * sigmoids[-1].gradient and harm.clear:
        return finding(
            Cause.WRONG_ACTIVATION,
            0.75,
            "Use ReLU or tanh in the hidden layers.",
            Evidence(
                "gradient in the first sigmoid / in the last, at the start",
                sigmoids[0].gradient / sigmoids[-1].gradient,
                0.1,
                "Glorot & Bengio 2010, section 3.1: a sigmoid passes at most a quarter and shifts the mean",
            ),
            harm.evidence(),
        )
    return None


def bad_labels(case: Case, harm: Harm) -> Finding | None:
    """Labels that are all the same, or that nothing about the inputs tells."""
    task, reach = case.task, case.reachable
    if task is None or harm.adversarial:
        return None
    if task.distinct == 1 and task.calls >= 5:
        return finding(
            Cause.BAD_LABELS,
            0.97,
            "Look at how the labels are read: a division, a cast or an index made them all alike.",
            Evidence("distinct target values", 1.0, 2.0, "a constant needs no inputs"),
            harm.evidence(),
        )
    if reach is None or reach.rows < 100:
        return None
    if reach.classes == 0 and reach.explained < 0.02 and task.loss in POINTWISE and harm.clear and not harm.train_skill > 0.1:
        return finding(
            Cause.BAD_LABELS,
            0.6,
            "Check that inputs and targets still belong together: shuffle both with one permutation, look at some pairs.",
            Evidence("R^2 of kernel regression on the same pairs, left one out", reach.explained, 0.02, "targets that nothing explains"),
            harm.evidence(),
        )
    if reach.classes < 2:
        return None
    noise = 2.5 * (reach.chance * (1 - reach.chance) / reach.rows) ** 0.5
    # Of very unequal classes the accuracy tells little; the squared error of the class codes does.
    if reach.accuracy > reach.chance + noise or reach.explained > 0.02:
        return None
    fresh = harm.held_skill if harm.held_skill == harm.held_skill else harm.train_skill
    if not fresh < 0.1:
        return None
    return finding(
        Cause.BAD_LABELS,
        0.9,
        "Check that inputs and labels still belong together: shuffle both with one permutation, look at some pairs.",
        Evidence(
            "accuracy of kernel regression on the same pairs, left one out",
            reach.accuracy,
            reach.chance + noise,
            "chance plus 2.5 standard errors: labels that no method can tell from the inputs",
        ),
        Evidence("R^2 of their codes, left one out", reach.explained, 0.02),
        harm.evidence(),
    )


def _range(tail: tuple[str, ...]) -> tuple[float, float]:
    for name in tail:
        if name in ("Sigmoid", "Softmax", "SafeSoftmax", "Hardsigmoid"):
            return 0.0, 1.0
        if name in ("Tanh", "Hardtanh", "Softsign"):
            return -1.0, 1.0
        if name in ("Relu", "Threshold", "Softplus", "ClampMin"):
            return 0.0, float("inf")
        if name not in (
            "View",
            "Squeeze",
            "Reshape",
            "ReshapeAlias",
            "Unsqueeze",
            "Select",
            "Slice",
            "Transpose",
            "T",
            "Permute",
            "UnsafeView",
            "Alias",
        ):
            break
    return float("-inf"), float("inf")


def _class_numbers(kind: str, low: float, high: float, distinct: int) -> bool:
    return kind == "integers" and low in (0.0, 1.0) and high - low + 1 == distinct and 3 <= distinct <= 20


def _few_each(case: Case) -> bool:
    reach, task = case.reachable, case.task
    return reach is not None and task is not None and task.distinct > reach.rows / 8


RULES: tuple[Rule, ...] = (loss_output_mismatch, wrong_loss, wrong_activation, bad_labels)
