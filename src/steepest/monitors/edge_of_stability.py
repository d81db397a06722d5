"""How near to the edge of stability a method descends."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.measures.hessian import Hessian
from steepest.measures.stability import Stability, judge, step_scale
from steepest.results.convergence import number


@dataclass(frozen=True)
class EdgeReport:
    """Curvature in units of what the step sizes bear.

    Args:
        ratios: at each measurement; 1 is the edge.
        latest: median of the last third; None without measurements.
        stability: with the losses over the same measurements; None without.
    """

    ratios: tuple[float, ...]
    latest: float | None
    stability: Stability | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        stability = None if self.stability is None else self.stability.value
        return {"ratios": [number(r) for r in self.ratios], "latest": number(self.latest), "stability": stability}


class EdgeOfStability:
    """The largest eigenvalue of the preconditioned Hessian over the threshold of the method.

    Thresholds: ``2 / rate`` for gradient descent, ``(2 + 2b) / rate`` heavy ball, ``(2 + 2b) / ((1 + 2b) rate)`` Nesterov, and
    ``(2 + 2 b1) / ((1 - b1) rate)`` of ``P^-1 H`` for Adam; RMSprop and Adagrad likewise. To be at the edge is normal; the alarm is
    beyond the edge with a loss that grows.

        monitor = EdgeOfStability(optimizer)
        monitor.measure(loss)         # before backward(), in some steps: about 10 gradients

    Args:
        optimizer: as ``measures.stability.step_scale`` knows it; others are not measured.
        products: most Lanczos steps; tolerance: relative residual at which they end.

    Source: J. Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, ICLR 2021; J. Cohen et al., Adaptive
    gradient methods at the edge of stability, 2022.
    """

    def __init__(self, optimizer: Optimizer, products: int = 8, tolerance: float = 0.03) -> None:
        self.optimizer, self.products, self.tolerance = optimizer, products, tolerance
        self.ratios: list[float] = []
        self.losses: list[float] = []
        self._vector: Tensor | None = None

    def measure(self, loss: Tensor) -> float | None:
        """The ratio at the present parameters, from the graph of the loss, which stays; None where it is not known yet.

        The gradients in ``.grad`` are not touched.
        """
        parameters = [p for g in self.optimizer.param_groups for p in g["params"] if p.requires_grad]
        scale = step_scale(self.optimizer, parameters)
        if scale is None:
            return None
        with torch.enable_grad():
            hessian = Hessian.of(loss, parameters)
            seen = Hessian(hessian.gradient, hessian.parameters, scale[0])
            found = seen.extremes(1, 0, self.tolerance, self.products, self._vector)
        self._vector = found.vectors[0]
        self.ratios.append(found.values[0].item() + scale[1])
        self.losses.append(float(loss.detach()))
        return self.ratios[-1]

    def report(self) -> EdgeReport:
        """The measurements so far."""
        if not self.ratios:
            return EdgeReport((), None, None)
        last = max(1, len(self.ratios) // 3)
        ratio = median(self.ratios[-last:])
        return EdgeReport(tuple(self.ratios), ratio, judge(ratio, self.losses[-2 * last :]))
