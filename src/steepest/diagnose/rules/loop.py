"""Faults of the loop and the code: facts that a run shows, whatever its data."""

from __future__ import annotations

from steepest.diagnose.case import Case
from steepest.diagnose.harm import Harm, fits
from steepest.diagnose.rules.common import Rule, finding
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding

PYTORCH = "PyTorch documentation"


def broadcast_shape(case: Case, harm: Harm) -> Finding | None:
    """(N, 1) against (N,) makes N^2 differences, and the best answer to that is a constant."""
    task = case.task
    if task is None or not task.broadcast:
        return None
    a, b = task.prediction_shape, task.target_shape
    rank = max(len(a), len(b))
    wide = [(1,) * (rank - len(s)) + s for s in (a, b)]
    joint = [max(i, j) for i, j in zip(*wide, strict=True)]
    # Both are stretched, so that no entry meets its own target; of a loss written by hand only the square that came of it is known.
    square = len(b) == 2 and b[0] == b[1] > 1 and a in ((b[0], 1), (b[0],))
    # Shapes that torch would refuse to broadcast are those of something else, such as a similarity of two outputs.
    if square or (fits(a, b) and all(list(w) != joint for w in wide)):
        return finding(
            Cause.BROADCAST_SHAPE,
            0.99,
            "Give prediction and target one shape, as with prediction.squeeze(1) or target.unsqueeze(1).",
            Evidence(f"shapes of prediction and target in {task.loss}", f"{a} and {b}", source=f"{PYTORCH}: broadcasting semantics"),
            harm.evidence(),
        )
    return None


def missing_zero_grad(case: Case, harm: Harm) -> Finding | None:
    """Steps that use gradients of earlier steps."""
    main = None if case.steps is None else case.steps.main
    if main is None or main.steps < 3 or main.uncleared < 0.5 or main.closures or main.held < 3 or main.gradient != main.gradient:
        return None
    return finding(
        Cause.MISSING_ZERO_GRAD,
        0.97,
        "Call optimizer.zero_grad() before each backward pass (or after each step).",
        Evidence(
            "share of steps whose gradients had not been cleared since the step before",
            main.uncleared,
            0.5,
            f"{PYTORCH}: gradients accumulate in .grad",
        ),
        Evidence("backward passes summed in one gradient, at most", float(main.held), 3.0),
        harm.evidence(),
    )


def unscaled_accumulation(case: Case, harm: Harm) -> Finding | None:
    """Means of several micro-batches summed: a step several times as large."""
    main = None if case.steps is None else case.steps.main
    if main is None or case.task is None or case.task.reduction != "mean" or harm.adversarial or not harm.mild:
        return None
    if main.backwards < 2 or main.closures or main.uncleared >= 0.5 or not 0.99 < main.accumulated_scale < 1.01 or case.task.others:
        return None
    return finding(
        Cause.UNSCALED_ACCUMULATION,
        0.9,
        f"Divide each loss by the number of micro-batches ({main.backwards:g}) before backward().",
        Evidence("backward passes in one step", main.backwards, 2.0, "the sum of k mean losses has k times the gradient of their mean"),
        Evidence("(value differentiated) / (mean loss of the micro-batch)", main.accumulated_scale, 1.0),
        harm.evidence(),
    )


def wrong_mode(case: Case, harm: Harm) -> Finding | None:
    """Dropout and batch normalisation act otherwise in the other mode."""
    modes = case.modes
    if modes is None or not modes.mode_matters:
        return None
    source = f"{PYTORCH}: Module.eval; Ioffe & Szegedy 2015, algorithm 2"
    trained = modes.train_in_eval / max(1, modes.train_calls)
    if trained > 0.5 and modes.train_calls >= 5 and (harm.mild or _gap(harm) > 0.1):
        return finding(
            Cause.WRONG_MODE,
            0.93,
            "Call model.train() before training, and again after each evaluation.",
            Evidence("share of training passes in evaluation mode", trained, 0.5, source),
            harm.evidence(),
        )
    # Calls without gradients are evaluations where they are scored, or where there never were any others.
    scored = (case.fit is not None and bool(case.fit.held)) or modes.eval_in_train == modes.eval_calls >= 5
    if modes.last_eval_in_train and modes.eval_in_train > 0.5 * modes.eval_calls and scored and not harm.adversarial:
        return finding(
            Cause.WRONG_MODE,
            0.93,
            "Call model.eval() before evaluation and model.train() after it.",
            Evidence("evaluations in training mode", f"{modes.eval_in_train} of {modes.eval_calls}", source=source),
            Evidence("largest dropout probability, at work in these evaluations", modes.largest_dropout),
            Evidence("batch normalisations, which used and updated batch statistics in them", float(modes.batch_norms)),
            harm.evidence(),
        )
    return None


def frozen_parameters(case: Case, harm: Harm) -> Finding | None:
    """Weights that the loss reaches and no optimizer moves, and weights of an optimizer that no loss reaches."""
    if case.parameters is None or not case.parameters.looks:
        return None
    weights = [p for p in case.parameters.parameters if p.weight]
    every = sum(p.size for p in weights)
    if not every or not harm.mild:
        return None
    unknown = [p for p in weights if p.reached and not p.owned and p.trainable]
    fixed = [p for p in weights if p.registered and not p.trainable and p.layer]
    cut = [p for p in weights if p.owned and p.trainable and not p.reached and p.gradient != p.gradient and p.layer]
    for group, fix, what in (
        (
            unknown,
            "Register these parameters (nn.ModuleList, nn.Parameter) and give the optimizer all of them.",
            "gradients reach, no optimizer moves",
        ),
        (
            cut,
            "Let gradients through: no detach(), .data, numpy or no_grad between these weights and the loss.",
            "an optimizer owns, no gradient reaches",
        ),
        (fixed, "Let these weights learn (requires_grad), or check that they were trained before.", "have requires_grad off"),
    ):
        share = sum(p.size for p in group) / every
        if group and share >= 0.02:
            score = 0.95 if group is not fixed else 0.75 + 0.15 * harm.clear
            if group is fixed and not harm.clear:
                continue
            return finding(
                Cause.FROZEN_PARAMETERS,
                score,
                fix,
                Evidence(
                    f"share of weights that {what}",
                    share,
                    0.02,
                    "a weight without step stays at its random start",
                    ", ".join(p.name for p in group[:4]),
                ),
                harm.evidence(),
            )
    return None


def cross_batch_leak(case: Case, harm: Harm) -> Finding | None:
    """Outputs that change with the company of a sample."""
    leak = case.leak
    if leak is None or leak.change < 0.01:
        return None
    return finding(
        Cause.CROSS_BATCH_LEAK,
        0.95,
        "Look for an operation along the batch axis: softmax or mean over axis 0, a view that mixes axes, batch_first.",
        Evidence(
            "largest change of outputs when other samples of the batch are replaced, in standard deviations",
            leak.change,
            0.01,
            "1 % of the outputs' spread is far above rounding",
        ),
        harm.evidence(),
    )


def bn_tiny_batch(case: Case, harm: Harm) -> Finding | None:
    """Statistics from a handful of values."""
    modes = case.modes
    if modes is None or not 0 < modes.bn_values <= 4 or not harm.mild:
        return None
    return finding(
        Cause.BN_TINY_BATCH,
        0.92,
        "Use larger batches, or group or layer normalisation, which do not depend on the batch.",
        Evidence(
            "values per channel from which batch normalisation estimates mean and variance",
            modes.bn_values,
            4.0,
            "Wu & He 2018, figure 1: the error of batch norm rises steeply at batches of 4 and 2",
        ),
        harm.evidence(),
    )


def no_shuffle(case: Case, harm: Harm) -> Finding | None:
    """Labels that come in runs."""
    task = case.task
    if task is None or not task.within < 0.5 or task.batches == 1:
        return None
    # In sorted order the scores of training flatter: the net follows the class of the moment. Without held-out data the
    # order itself has to do.
    blind = task.within < 0.2 and task.kind != "continuous" and harm.held_skill != harm.held_skill and not harm.adversarial
    if not harm.mild and not blind:
        return None
    return finding(
        Cause.NO_SHUFFLE,
        0.94,
        "Shuffle the training data in each epoch (shuffle=True).",
        Evidence(
            "variance of labels within eight consecutive samples / over all",
            task.within,
            0.5,
            "1 in expectation for independent samples (one-way analysis of variance), 0 for sorted ones",
        ),
        harm.evidence(),
    )


def _gap(harm: Harm) -> float:
    gap = harm.train_skill - harm.held_skill
    return gap if gap == gap else 0.0


RULES: tuple[Rule, ...] = (
    broadcast_shape,
    missing_zero_grad,
    unscaled_accumulation,
    wrong_mode,
    frozen_parameters,
    cross_batch_leak,
    bn_tiny_batch,
    no_shuffle,
)
