"""Is the step size at the edge of what the curvature bears?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.errors import UsageError
from steepest.measures.budget import Budget
from steepest.measures.hessian import Hessian
from steepest.measures.stability import Stability, judge, step_scale
from steepest.probes.events import Backward
from steepest.probes.probe import Probe


@dataclass(frozen=True)
class CurvaturePoint:
    """The curvature at one step, on that step's own batch.

    Args:
        step: steps done before.
        sharpness: the largest eigenvalue of the Hessian of the loss; None for a method with a preconditioner.
        ratio: the largest eigenvalue as the method sees it, in units of what its step size bears: 1 is the edge of stability. None where
            the method is not known or has no state yet.
        residual: error bound of the eigenvalue as a part of it.
    """

    step: int
    sharpness: float | None
    ratio: float | None
    residual: float


@dataclass(frozen=True)
class CurvatureRecord:
    """Curvature over a run.

    Args:
        points: in order.
        stability: of the last third of the points, with the loss over the same steps; None where no ratio is known.
    """

    points: tuple[CurvaturePoint, ...]
    stability: Stability | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "points": [vars(p) for p in self.points],
            "stability": None if self.stability is None else self.stability.value,
        }


class Curvature(Probe):
    """The largest Hessian eigenvalue by a few Lanczos steps on the run's own graph, before its backward pass goes through it.

    No forward pass, no random number, no buffer: the backward pass of the run then finds the graph as it was. Cost: about 0.7 gradients,
    and 1.5 for each of up to ``products`` steps (about 10 together); asked in sampled windows, as often as ``share`` of the run's time
    allows: at a share of 0.05 once in some 200 steps. Values come from below, within a few percent. Left out where the script has backward
    hooks of its own, which would run once more, where there are several optimizers, and above ``largest`` parameters.

    Args:
        share: of the run's time.
        products: most Lanczos steps.
        tolerance: the residual to stop at.
        largest: parameters.
    """

    def __init__(self, share: float = 0.05, products: int = 8, tolerance: float = 0.03, largest: int = 10_000_000) -> None:
        self.products, self.tolerance, self.largest = products, tolerance, largest
        self.budget = Budget(share, windows=10.0)
        self.points: list[CurvaturePoint] = []
        self.vector: Tensor | None = None
        self.refused = False

    def before_backward(self, event: Backward) -> None:
        """Measure, where the budget allows."""
        if event.number or event.inside_step:
            return
        self.budget.tick()
        if self.refused or not event.sampled or not self.budget.allows():
            return
        if (reason := self._reason()) is not None:
            self.refused = True
            self.run.note(f"the curvature was not measured: {reason}")
            return
        with self.budget.spending():
            try:
                self._measure(event, self.run.optimizers[0])
            except (UsageError, FloatingPointError) as error:
                self.refused = isinstance(error, UsageError)
                self.run.note(f"the curvature was not measured: {error}")

    def finish(self) -> CurvatureRecord | None:
        """All points, and what they mean beside the loss."""
        self.vector = None
        if not self.points:
            return None
        known = [p for p in self.points if p.ratio is not None]
        last = known[-max(1, len(known) // 3) :]
        stability = None
        if last:
            losses = [x.value for x in self.run.losses if x.step >= min(last[0].step, self.run.steps // 2)]
            stability = judge(median(p.ratio for p in last if p.ratio is not None), losses)
        return CurvatureRecord(tuple(self.points), stability)

    def _measure(self, event: Backward, optimizer: Optimizer) -> None:
        parameters = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
        if not event.loss.requires_grad or event.loss.numel() != 1 or not parameters:
            return
        with torch.enable_grad():
            hessian = Hessian.of(event.loss / event.scale, parameters)
            steps = step_scale(optimizer, parameters)
            uniform = steps is not None and bool(steps[0].min() == steps[0].max())
            preconditioned = steps is not None and not uniform
            seen = Hessian(hessian.gradient, hessian.parameters, steps[0]) if steps is not None and preconditioned else hessian
            start = self.vector if self.vector is not None and len(self.vector) == len(hessian.gradient) else None
            found = seen.extremes(1, 0, self.tolerance, self.products, start)
        self.vector = found.vectors[0]
        value = found.values[0].item()
        ratio = None
        if steps is not None:
            ratio = steps[1] + (value if preconditioned else value * float(steps[0][0]) ** 2)
        residual = float(found.residuals[0]) / abs(value) if value else 0.0
        self.points.append(CurvaturePoint(event.step, None if preconditioned else value, ratio, residual))

    def _reason(self) -> str | None:
        if len(self.run.optimizers) != 1:
            return f"{len(self.run.optimizers)} optimizers, and it is told of one"
        parameters = [p for g in self.run.optimizers[0].param_groups for p in g["params"]]
        if sum(p.numel() for p in parameters) > self.largest:
            return f"more than {self.largest:,} parameters"
        modules = [m for model in self.run.models for m in model.modules()]
        if any(p._backward_hooks for p in parameters) or any(m._backward_hooks or m._backward_pre_hooks for m in modules):
            return "the script has backward hooks, which would run more often than it expects"
        return None
