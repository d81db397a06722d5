"""Where does the first number arise that is not finite?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.probes.events import Backward, Criterion, Forward, Step
from steepest.probes.probe import Probe
from steepest.results.measured import Measured


@dataclass(frozen=True)
class NonFinite(Measured):
    """The first non-finite number that was seen.

    Args:
        step: steps done before; where: ``input``, ``target``, ``parameters``, ``output``, ``loss`` or ``gradient``, whichever
            comes first on its way.
        share: of the entries of that tensor that are not finite.
        loss_before, loss_start: the last finite loss before it and the first loss.
        parameter: largest |entry| of the parameters in the last sampled step before.
    """

    step: int
    where: str
    share: float
    loss_before: float
    loss_start: float


class FiniteProbe(Probe):
    """One sum over the inputs, targets and outputs of each pass; the parameters only once a loss is not finite."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.found: NonFinite | None = None
        self.first: float = math.nan
        self.last: float = math.nan
        self.suspect: tuple[str, float] | None = None

    def on_forward(self, event: Forward) -> None:
        """Inputs, then parameters, then outputs."""
        if self.found is not None or not event.grad:
            return
        self.suspect = None
        for x in event.inputs:
            if (share := _bad(x)) > 0:
                self.suspect = ("input", share)
                return
        if event.prediction is not None and (share := _bad(event.prediction)) > 0:
            poor = max((_bad(p) for p in event.module.parameters()), default=0.0)
            self.suspect = ("parameters", poor) if poor else ("output", share)

    def on_criterion(self, event: Criterion) -> None:
        """Targets."""
        if self.found is None and self.suspect is None and event.grad and event.target is not None and (share := _bad(event.target)) > 0:
            self.suspect = ("target", share)

    def before_backward(self, event: Backward) -> None:
        """The loss."""
        if self.found is not None or event.value is None:
            return
        if math.isfinite(event.value):
            self.first = event.value if math.isnan(self.first) else self.first
            self.last = event.value
            return
        where, share = self.suspect or ("loss", 1.0)
        self.found = NonFinite(event.step, where, share, self.last, self.first)

    def before_step(self, event: Step) -> None:
        """Gradients, in sampled steps."""
        if self.found is None and event.sampled:
            share = max((_bad(p.grad) for p in event.parameters if p.grad is not None), default=0.0)
            if share:
                self.found = NonFinite(event.step, "gradient", share, self.last, self.first)

    def finish(self) -> NonFinite | None:
        """What was found, if anything."""
        return self.found


def _bad(x: Tensor) -> float:
    """Share of entries that are not finite; a sum decides in most cases."""
    if not x.is_floating_point() or x.is_sparse:
        return 0.0
    x = x.detach()
    if math.isfinite(float(x.sum())):
        return 0.0
    return 1 - float(torch.isfinite(x).float().mean())
