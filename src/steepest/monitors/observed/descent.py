"""The descent lemma, as a question asked of an observed run: the loss of the same batch before and after a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from steepest.measures.budget import Budget
from steepest.measures.objective import apply, same_randomness
from steepest.monitors.descent_lemma import DescentLemma, DescentReport
from steepest.probes.events import Backward, Criterion, Forward, Step, tensors
from steepest.probes.probe import Probe


@dataclass(frozen=True)
class DescentRecord:
    """Actual over promised decrease of the batch's own loss.

    Args:
        method: the optimizer; rate: its step size at the last measurement.
        report: over the second half of the measured steps, so that it is about the rate of the end.
    """

    method: str
    rate: float
    report: DescentReport

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"method": self.method, "rate": self.rate, "report": self.report.to_json()}


@dataclass
class _Batch:
    module: nn.Module
    inputs: Any
    criterion: tuple[str, Tensor, dict[str, Any]] | None = None
    value: float | None = None


class DescentProbe(Probe):
    """Does a step lower the loss of its batch by what the gradient promises? See ``DescentLemma``.

    The model is applied twice more to a copy of the batch, around the step: random numbers and buffers are put back, but a forward method
    that keeps a state of its own would notice: ask for this probe where you know that there is none. Left out, with a note, where the
    loss is not one call of a loss of ``torch.nn.functional`` on the output of one call of one model, or where it differs when evaluated
    again, as with dropout. Cost: two forward passes and copies of parameters and gradients in a sampled window, within ``share`` of the
    run's time.

    Args:
        share: of the run's time.
    """

    def __init__(self, share: float = 0.02) -> None:
        self.budget = Budget(share, windows=2.0)
        self.batch: _Batch | None = None
        self.calls = self.passes = 0
        self.lemma: DescentLemma | None = None
        self.counts: list[int] = []
        self.method, self.rate, self.index = "", 0.0, -1
        self.refused = False

    def on_forward(self, event: Forward) -> None:
        """The batch."""
        if not event.grad or self.refused:
            return
        self.calls += 1
        if self.calls == 1:
            self.budget.tick()
            if event.sampled and self.budget.allows() and all(isinstance(t, Tensor) for t in (*event.args, *event.kwargs.values())):
                copies = tuple(t.detach().clone() for t in event.args)
                named = {k: t.detach().clone() for k, t in event.kwargs.items()}
                self.batch = _Batch(event.module, named if named and not copies else copies)
                if named and copies:
                    self.batch = None
        else:
            self.batch = None

    def on_criterion(self, event: Criterion) -> None:
        """The loss."""
        if self.batch is None or not event.grad:
            return
        if self.batch.criterion is not None or not event.on_output or event.target is None or event.value is None:
            self.batch = None
            return
        self.batch.criterion, self.batch.value = (event.name, event.target.detach().clone(), event.options), event.value

    def before_backward(self, event: Backward) -> None:
        """One backward pass, from that loss."""
        self.passes += 1
        batch = self.batch
        same = batch is not None and event.value is not None and batch.value is not None and math.isclose(event.value, batch.value)
        if self.passes > 1 or not same or event.inside_step:
            self.batch = None

    def before_step(self, event: Step) -> None:
        """The loss once more, with its gradient in place."""
        if self.batch is None or event.optimizer is None or (self.index not in (-1, event.index)):
            return
        optimizer = event.optimizer
        if any(g.get("maximize") for g in optimizer.param_groups) or getattr(optimizer, "grad_scale", None) is not None:
            self.batch = None
            return
        with self.budget.spending():
            value = self._evaluate(self.batch)
            if value is None or self.batch.value is None or not math.isclose(value, self.batch.value, rel_tol=1e-3, abs_tol=1e-9):
                self.refused, self.batch = True, None
                self.run.note("the descent lemma was not measured: the loss of a batch differs when it is evaluated again, as with dropout")
                return
            if self.lemma is None:
                self.lemma = DescentLemma(event.parameters)
                self.method, self.index = type(optimizer).__name__, event.index
            self.lemma.before(value)

    def after_step(self, event: Step) -> None:
        """And after the step."""
        if self.batch is not None and self.lemma is not None and event.index == self.index:
            with self.budget.spending():
                value = self._evaluate(self.batch)
                self.lemma.after(math.nan if value is None else value)
            self.rate = event.rates[0] if event.rates else math.nan
        self.batch, self.calls, self.passes = None, 0, 0

    def finish(self) -> DescentRecord | None:
        """The ratios of the second half."""
        if self.lemma is None or not self.lemma.ratios:
            return None
        self.lemma.ratios = self.lemma.ratios[len(self.lemma.ratios) // 2 :]
        return DescentRecord(self.method, self.rate, self.lemma.report())

    def _evaluate(self, batch: _Batch) -> float | None:
        if batch.criterion is None:
            return None
        name, target, options = batch.criterion
        with same_randomness():
            output = apply(batch.module, dict(batch.module.named_parameters()), batch.inputs)
            given = next(iter(tensors(output)), None)
            if given is None:
                return None
            try:
                return float(getattr(F, name)(given, target, **options))
            except (RuntimeError, ValueError):
                return None
