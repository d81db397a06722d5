"""How does each optimizer step? Its kind and rate, clearing, accumulation, size of steps, decay against gradient, noise of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from steepest.probes.events import Backward, Step
from steepest.probes.probe import Probe
from steepest.results.measured import Measured

SKETCH = 200_000
"""Gradients of consecutive steps are compared on at most this many entries."""


@dataclass(frozen=True)
class Optimizer(Measured):
    """One optimizer over the whole run.

    Args:
        kind: its class; steps: its steps; rate, last_rate: its first and last step size; momentum, decay: of its first group (0
            where none).
        parameters: entries it owns.
        uncleared: share of steps before which its gradients had not been cleared since the step before.
        backwards: median number of backward passes in a step; held: largest number of passes summed in the gradient that was used.
        closures: whether its steps evaluate the loss themselves.
        accumulated_scale: median (value that backward started from) / (value of the criterion): 1 where nothing is divided; NaN
            where unknown.
        update, update_early, update_late: median |step| / |weights| over the run and over its first and last quarter.
        largest_update: the largest of these.
        gradient, gradient_start, gradient_largest: norm of its gradient: median, first, largest.
        decay_ratio: median decay * |weights| / |gradient|; 0 without decay.
        cosine, cosine_late: mean cosine between gradients of consecutive steps, in all and in the last half; NaN where never seen.
        samples: median length of the batch in one backward pass.
    """

    kind: str
    steps: int
    rate: float
    last_rate: float
    momentum: float
    decay: float
    parameters: int
    uncleared: float
    backwards: float
    held: int
    closures: bool
    accumulated_scale: float
    update: float
    update_early: float
    update_late: float
    largest_update: float
    gradient: float
    gradient_start: float
    gradient_largest: float
    decay_ratio: float
    cosine: float
    cosine_late: float
    samples: float


@dataclass(frozen=True)
class Steps(Measured):
    """All optimizers in the order in which they were first seen."""

    optimizers: tuple[Optimizer, ...]

    @property
    def main(self) -> Optimizer | None:
        """The one with the most steps."""
        return max(self.optimizers, key=lambda o: o.steps, default=None)


@dataclass
class _Seen:
    kind: str
    rate: float
    momentum: float
    decay: float
    size: int
    last_rate: float = 0.0
    steps: int = 0
    uncleared: int = 0
    checked: int = 0
    backwards: list[int] = field(default_factory=list)
    held: int = 0
    closures: bool = False
    scales: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cosines: list[tuple[int, float]] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    last: tuple[int, Tensor] | None = None


class StepProbe(Probe):
    """Counters in every step; in sampled steps the norms of gradients, weights and changes, and one copy of each."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.seen: dict[int, _Seen] = {}
        self.passes: list[tuple[float, int, bool]] = []
        self.before: tuple[int, float, list[Tensor]] | None = None

    def before_backward(self, event: Backward) -> None:
        """How the value that is differentiated compares with the criterion's."""
        scale, length = math.nan, 0
        trained = [c for c in event.criteria if c.grad]
        if len(trained) == 1 and trained[0].value and event.value is not None:
            scale = event.value / trained[0].value
        if trained and trained[-1].target_shape:
            length = trained[-1].target_shape[0]
        self.passes.append((scale, length, event.inside_step))

    def before_step(self, event: Step) -> None:
        """Gradients as the step will use them."""
        o = self._of(event)
        o.steps += 1
        o.last_rate = event.rates[0] if event.rates else 0.0
        if event.cleared is not None:
            o.checked += 1
            o.uncleared += not event.cleared
        o.held = max(o.held, event.backwards)
        if self.passes and len(o.backwards) < 5000:
            o.backwards.append(len(self.passes))
            o.scales.append(self.passes[0][0])
            o.samples.append(self.passes[0][1])
        self.passes = []
        self.before = None
        # The step after a sampled one too, so that gradients of consecutive steps can be compared.
        if not event.sampled and (o.last is None or o.last[0] != event.own_step - 1):
            return
        held = [p for p in event.parameters if p.grad is not None]
        if not held:
            return
        gradients = [p.grad for p in held if p.grad is not None and not p.grad.is_sparse]
        if gradients:
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            o.gradients.append(norm)
            weight = math.sqrt(sum(float(p.detach().square().sum()) for p in held))
            if o.decay and norm > 0:
                o.ratios.append(o.decay * weight / norm)
            flat = _sketch(gradients)
            if o.last is not None and o.last[0] == event.own_step - 1 and o.last[1].shape == flat.shape:
                scale = float(flat.norm() * o.last[1].norm())
                if scale > 0 and math.isfinite(scale):
                    o.cosines.append((event.own_step, float(flat @ o.last[1]) / scale))
            o.last = (event.own_step, flat) if event.sampled else None
        if not event.sampled:
            return
        weight = math.sqrt(sum(float(p.detach().square().sum()) for p in held))
        self.before = (event.index, weight, [p.detach().clone() for p in held])

    def after_step(self, event: Step) -> None:
        """How far the weights moved."""
        o = self._of(event)
        if any(inside for _, _, inside in self.passes):
            o.closures = True
        if self.before is not None and self.before[0] == event.index:
            _, weight, old = self.before
            held = [p for p in event.parameters if p.grad is not None]
            if len(held) == len(old) and weight > 0:
                change = math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in zip(held, old, strict=True)))
                o.updates.append(change / weight)
        if o.closures and self.passes:
            o.backwards.append(len(self.passes))
            o.samples.append(self.passes[0][1])
            self.passes = []
        self.before = None

    def finish(self) -> Steps | None:
        """One record an optimizer."""
        found = tuple(_record(o) for _, o in sorted(self.seen.items()) if o.steps)
        return Steps(found) if found else None

    def _of(self, event: Step) -> _Seen:
        if event.index not in self.seen:
            group: dict[str, Any] = {} if event.optimizer is None else event.optimizer.param_groups[0]
            betas = group.get("betas", (0.0,))
            self.seen[event.index] = _Seen(
                "by hand" if event.optimizer is None else type(event.optimizer).__name__,
                event.rates[0] if event.rates else 0.0,
                float(group.get("momentum") or betas[0]),
                float(group.get("weight_decay") or 0.0),
                sum(p.numel() for p in event.parameters),
            )
        return self.seen[event.index]


def _sketch(gradients: list[Tensor]) -> Tensor:
    flat = torch.cat([g.detach().flatten() for g in gradients])
    return flat[:: math.ceil(flat.numel() / SKETCH)].clone()


def _middle(values: list[Any]) -> float:
    values = [v for v in values if v == v]
    return float(median(values)) if values else math.nan


def _record(o: _Seen) -> Optimizer:
    quarter = max(1, len(o.updates) // 4)
    late = [c for s, c in o.cosines if s >= o.steps / 2]
    return Optimizer(
        o.kind,
        o.steps,
        o.rate,
        o.last_rate,
        o.momentum,
        o.decay,
        o.size,
        o.uncleared / o.checked if o.checked else 0.0,
        _middle(o.backwards),
        o.held,
        o.closures,
        _middle(o.scales),
        _middle(o.updates),
        _middle(o.updates[:quarter]),
        _middle(o.updates[-quarter:]),
        max(o.updates, default=math.nan),
        _middle(o.gradients),
        o.gradients[0] if o.gradients else math.nan,
        max(o.gradients, default=math.nan),
        _middle(o.ratios) if o.ratios else 0.0,
        sum(c for _, c in o.cosines) / len(o.cosines) if o.cosines else math.nan,
        sum(late) / len(late) if late else math.nan,
        _middle([s for s in o.samples if s]),
    )
