"""Is the gradient lost in its noise?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.measures.budget import Budget
from steepest.measures.noise_scale import NoiseScale, from_pairs
from steepest.measures.objective import flat
from steepest.probes.events import Criterion
from steepest.probes.probe import Probe


@dataclass(frozen=True)
class NoiseRecord:
    """The gradient noise scale over a run.

    Args:
        batch: median number of samples in a batch.
        early, late: over the first and the second half of the measurements; None for fewer than three.
    """

    batch: int
    early: NoiseScale | None
    late: NoiseScale | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "batch": self.batch,
            "early": None if self.early is None else self.early.to_json(),
            "late": None if self.late is None else self.late.to_json(),
        }


class GradientNoise(Probe):
    """The simple noise scale ``tr(Sigma) / |G|^2`` from the gradients of the two halves of a batch, over many steps.

    With g and g' of independent halves of b samples each, ``<g, g'>`` is an unbiased estimate of ``|G|^2`` and ``b |g - g'|^2 / 2`` one of
    ``tr(Sigma)`` (McCandlish et al. 2018, appendix A.1). Taken from losses of ``torch.nn.functional`` that average over samples, on the
    run's own graph. With batch normalisation halves are not quite independent. Cost: two backward passes in a sampled window, within
    ``share`` of the run's time.

    Args:
        share: of the run's time.
    """

    def __init__(self, share: float = 0.03) -> None:
        self.budget = Budget(share, windows=2.0)
        self.seen: list[tuple[int, float, float]] = []
        self.last = -1

    def on_criterion(self, event: Criterion) -> None:
        """Differentiate the loss of each half, where the budget allows."""
        if not event.grad or not event.training or event.step == self.last:
            return
        self.last = event.step
        self.budget.tick()
        if event.sampled and self.budget.allows():
            with self.budget.spending(), torch.enable_grad():
                self._measure(event)

    def finish(self) -> NoiseRecord | None:
        """The noise scale of either half of the run."""
        if len(self.seen) < 3:
            return None
        half = len(self.seen) // 2
        sizes = sorted(2 * s for s, _, _ in self.seen)
        return NoiseRecord(sizes[len(sizes) // 2], _scale(self.seen[:half]), _scale(self.seen[half:]))

    def _measure(self, event: Criterion) -> None:
        if len(self.run.optimizers) != 1 or event.input is None or event.target is None or event.result is None:
            return
        parameters = [p for g in self.run.optimizers[0].param_groups for p in g["params"] if p.requires_grad]
        modules = [m for model in self.run.models for m in model.modules()]
        hooked = any(p._backward_hooks for p in parameters) or any(m._backward_hooks or m._backward_pre_hooks for m in modules)
        if hooked or event.options.get("reduction", "mean") != "mean" or event.result.numel() != 1:
            return
        each = getattr(F, event.name)(event.input, event.target, **{**event.options, "reduction": "none"})
        n = len(each) // 2 if each.ndim else 0
        # Class weights, ignored targets and broadcasting make the mean another one.
        if n < 1 or len(each) != len(event.input) or not torch.allclose(each.mean(), event.result.reshape(()), rtol=1e-4):
            return
        rows = each.reshape(len(each), -1).mean(1)
        first, second = (_gradient(rows[s].mean(), parameters) for s in (slice(0, n), slice(n, 2 * n)))
        self.seen.append((n, float((first * second).sum()), float((first - second).square().sum())))


def _gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    return flat(list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True))).double()


def _scale(seen: list[tuple[int, float, float]]) -> NoiseScale | None:
    size = seen[-1][0] if seen else 0
    same = [(p, d) for s, p, d in seen if s == size]
    if len(same) < 3:
        return None
    products, distances = torch.tensor(same, dtype=torch.float64).T
    return from_pairs(products, distances, size)
