"""Which interventions speak to which root cause, the most direct one first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from steepest.fixes.data import CleanData, Shuffle, StandardiseInputs, StandardiseTargets
from steepest.fixes.intervention import Intervention, Several
from steepest.fixes.layers import (
    ActivationsBetween,
    CalmPreactivations,
    DropoutTo,
    GroupNorm,
    Leak,
    LinearOutput,
    NormaliseLayers,
    Rectify,
    SkipConnections,
)
from steepest.fixes.losses import MatchShapes, OtherLoss, ProbabilitiesToLoss, RawLogits, WithoutPenalty
from steepest.fixes.modules import BatchFirst, Reinitialise, RightMode, TrainAll
from steepest.fixes.replay import MoreSteps
from steepest.fixes.steps import (
    AverageMicroBatches,
    ClearGradients,
    ClipGradients,
    Decay,
    LargerBatches,
    ScaleRate,
    StopAt,
    UseAdam,
    WithoutDecay,
)
from steepest.probes.finite import NonFinite
from steepest.probes.fit import Fit
from steepest.probes.modes import Modes
from steepest.probes.signals import Signals
from steepest.probes.steps import Steps
from steepest.probes.task import POINTWISE, Task
from steepest.results.cause import Cause

R = TypeVar("R")

NOTHING = {
    Cause.BAD_LABELS: "no hook can mend labels: look at how they are read",
    Cause.CAPACITY_TOO_SMALL: "no hook can make layers wider: change the network",
}

_FIXED: dict[Cause, tuple[Intervention, ...]] = {
    Cause.LR_TOO_HIGH: (ScaleRate(0.1), ScaleRate(0.01), ClipGradients(1.0)),
    Cause.TOO_FEW_STEPS: (MoreSteps(8), ScaleRate(10.0)),
    Cause.EXPLODING_GRADIENT: (Several((Reinitialise("he"), ClipGradients(1.0))), ClipGradients(1.0), ScaleRate(0.1)),
    Cause.SATURATED_UNITS: (CalmPreactivations(), StandardiseInputs(), Several((Rectify(), Reinitialise("he")))),
    Cause.DEAD_RELU: (Several((Reinitialise("he"), Leak())), ScaleRate(0.1)),
    Cause.BAD_INIT: (Reinitialise("he"), Reinitialise("default")),
    Cause.NO_SHUFFLE: (Shuffle(),),
    Cause.BATCH_TOO_SMALL: (LargerBatches(16), ScaleRate(0.1)),
    Cause.MISSING_ZERO_GRAD: (ClearGradients(),),
    Cause.WRONG_MODE: (RightMode(),),
    Cause.FROZEN_PARAMETERS: (TrainAll(),),
    Cause.BROADCAST_SHAPE: (MatchShapes(),),
    Cause.BN_TINY_BATCH: (GroupNorm(), LargerBatches(16)),
    Cause.DEPTH_DEGRADATION: (SkipConnections(), NormaliseLayers()),
    Cause.UNSUITABLE_OPTIMIZER: (UseAdam(1e-3), UseAdam(1e-2)),
    Cause.UNSCALED_ACCUMULATION: (AverageMicroBatches(),),
    Cause.CROSS_BATCH_LEAK: (BatchFirst(),),
}


def candidates(cause: Cause, records: Sequence[Any]) -> tuple[Intervention, ...]:
    """The interventions to try for a cause; none where hooks can do nothing.

    Args:
        cause: the root cause of a finding.
        records: what the probes measured in the run.
    """
    if cause in _FIXED:
        return _FIXED[cause]
    task, steps, signals, fit = _get(records, Task), _get(records, Steps), _get(records, Signals), _get(records, Fit)
    main = None if steps is None else steps.main
    regression = task is not None and task.kind in ("continuous", "integers") and task.loss in POINTWISE
    if cause is Cause.LR_TOO_LOW:
        adam = main is not None and "Adam" in main.kind
        return (ScaleRate(10.0), ScaleRate(100.0)) if adam else (ScaleRate(10.0), UseAdam(1e-2), ScaleRate(100.0))
    if cause is Cause.LOSS_OUTPUT_MISMATCH:
        probabilities = task is not None and (task.single or (task.classes == 1 and task.loss == "cross_entropy"))
        if probabilities or (task is not None and task.loss in ("nll_loss", "binary_cross_entropy")):
            return (ProbabilitiesToLoss(),)
        return (RawLogits(), Several((RawLogits(), Reinitialise("he"))))
    if cause is Cause.WRONG_LOSS and task is not None:
        if task.kind in ("binary", "one_hot"):
            return (OtherLoss("cross_entropy"), Several((OtherLoss("cross_entropy"), UseAdam(1e-2))))
        if task.loss in POINTWISE:
            return ()
        return (Several((StandardiseTargets(), OtherLoss("mse_loss"), StandardiseInputs())),)
    if cause is Cause.WRONG_ACTIVATION:
        if regression:
            return (LinearOutput(), Several((LinearOutput(), StandardiseTargets())), ActivationsBetween())
        return (Several((ActivationsBetween(), Reinitialise("he"), ScaleRate(0.1))), ActivationsBetween())
    if cause is Cause.VANISHING_GRADIENT:
        if signals is not None and signals.recurrent:
            return (Reinitialise("xavier"), ClipGradients(1.0))
        return (Several((Rectify(), Reinitialise("he"))), NormaliseLayers(), SkipConnections())
    if cause is Cause.INPUT_NOT_NORMALISED:
        if regression:
            return (Several((StandardiseInputs(), StandardiseTargets())), StandardiseInputs())
        return (StandardiseInputs(), Several((StandardiseInputs(), Reinitialise("he"))))
    if cause is Cause.OVERFITTING:
        best = _best_step(fit)
        return ((StopAt(best),) if best else ()) + (Decay(1.0),)
    if cause is Cause.NON_FINITE:
        found = _get(records, NonFinite)
        if found is not None and found.where == "input":
            return (CleanData(),)
        return (ScaleRate(0.1), ClipGradients(1.0), ScaleRate(0.01))
    if cause is Cause.REGULARISATION_TOO_STRONG:
        return _less(main is not None and main.decay > 0, fit, _get(records, Modes))
    return ()


def _less(decay: bool, fit: Fit | None, modes: Modes | None) -> tuple[Intervention, ...]:
    tried: list[Intervention] = []
    if decay:
        tried.append(WithoutDecay())
    if fit is not None and fit.penalty >= 0.3:
        tried.insert(0, WithoutPenalty())
    if modes is not None and modes.largest_dropout > 0:
        tried.append(DropoutTo(0.2))
    return tuple(tried)


def _best_step(fit: Fit | None) -> int:
    """The step of the least held-out loss or error, where it was not the last one."""
    held = [] if fit is None else [s for s in fit.held if s.seen < 0.5 and s.step > 0]
    marks = [(v, s.step) for s in held if (v := s.loss if s.loss == s.loss else s.error) == v and v < math.inf]
    return min(marks)[1] if len(marks) > 1 and min(marks)[1] < marks[-1][1] else 0


def _get(records: Sequence[Any], kind: type[R]) -> R | None:
    return next((r for r in records if isinstance(r, kind)), None)
