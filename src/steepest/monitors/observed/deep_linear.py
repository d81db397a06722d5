"""The rate of deep linear networks, asked of a run that trains one on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steepest.monitors.deep_linear import DeepLinearRate, DeepLinearReport
from steepest.monitors.observed.network import Watched, WholeBatch
from steepest.probes.events import Backward, Criterion, Forward
from steepest.probes.probe import Probe

WHITE = 0.01
"""Inputs count as whitened where their covariance is this near to a multiple of the identity."""


@dataclass(frozen=True)
class DeepLinearRecord:
    """The rate of Arora et al. 2019 beside the measured one.

    Args:
        depth: layers; report: conditions and rates, where the inputs are whitened.
        assumptions: what the theorem assumes and the run does not keep, in sentences.
    """

    depth: int
    report: DeepLinearReport | None
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        report = None if self.report is None else self.report.to_json()
        return {"depth": self.depth, "report": report, "assumptions": list(self.assumptions)}


class DeepLinearProbe(Probe):
    """Attaches itself to a deep linear network that descends a squared error by plain SGD on one batch; else takes no more notice.

    That is one model of two or more linear layers, without biases and activations, the same batch in every step, no momentum, no decay.

    With ``X'X = n c I`` the mean of squared errors over n samples and o outputs is, up to a constant, ``(2 c / o) |W - Phi|^2 / 2`` with
    ``Phi = Y'X / (n c)``. Cost: one singular value decomposition, a comparison of the batch in every step.

    Args:
        most: samples; above, the network is left alone.
    """

    def __init__(self, most: int = 4096) -> None:
        self.watched = WholeBatch(most, activations=())
        self.monitor: DeepLinearRate | None = None
        self.depth, self.constant, self.factor = 0, 0.0, 1.0
        self.assumptions: tuple[str, ...] = ()

    def on_forward(self, event: Forward) -> None:
        """The batch."""
        self.watched.forward(event)

    def on_criterion(self, event: Criterion) -> None:
        """The squared error."""
        self.watched.criterion(event)

    def before_backward(self, event: Backward) -> None:
        """One loss."""
        found = self.watched.backward(event, self.run.optimizers)
        if found is None:
            return
        if self.monitor is None:
            self._begin(found, float(self.run.optimizers[0].param_groups[0]["lr"]))
        if self.monitor is None:
            self.watched.stop()
            return
        assert event.value is not None
        self.monitor.record(max(event.value - self.constant, 0.0) / self.factor)

    def finish(self) -> DeepLinearRecord | None:
        """Conditions and rates."""
        if not self.depth or (self.monitor is not None and self.watched.stopped):
            return None
        return DeepLinearRecord(self.depth, None if self.monitor is None else self.monitor.report(), self.assumptions)

    def _begin(self, found: Watched, rate: float) -> None:
        if found.biases or found.targets.ndim != 2 or not rate > 0.0:
            return
        x, y = found.inputs.double(), found.targets.double()
        n, o = len(x), y.shape[1]
        covariance = x.T @ x / n
        c = float(covariance.diagonal().mean())
        self.depth = len(found.weights)
        rest = covariance - c * torch.eye(len(covariance), dtype=torch.float64, device=x.device)
        if not c > 0.0 or float(torch.linalg.matrix_norm(rest, 2)) > WHITE * c:
            self.assumptions = ("the inputs are not whitened",)
            return
        target = y.T @ x / (n * c)
        per = n * o if found.mean else 1
        self.factor = 2.0 * n * c / per
        self.constant = float((x @ target.T - y).square().sum()) / per
        self.monitor = DeepLinearRate(found.weights, target, rate * self.factor)
