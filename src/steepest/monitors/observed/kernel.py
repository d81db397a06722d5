"""The rate of the neural tangent kernel, asked of a run that trains a two-layer network with ReLU on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from steepest.monitors.ntk_rate import KernelReport, NTKRate
from steepest.monitors.observed.network import Watched, WholeBatch
from steepest.probes.events import Backward, Criterion, Forward
from steepest.probes.probe import Probe


@dataclass(frozen=True)
class KernelRecord:
    """The rate of Du et al. 2019 beside the measured one.

    Args:
        width: hidden units; samples: of the batch.
        report: predicted and measured.
        assumptions: what the theorem assumes and the run does not keep, in sentences.
    """

    width: int
    samples: int
    report: KernelReport
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"width": self.width, "samples": self.samples, "report": self.report.to_json(), "assumptions": list(self.assumptions)}


class KernelProbe(Probe):
    """Attaches itself to a two-layer network with ReLU that descends a squared error by plain SGD on one batch; else takes no more notice.

    That is one model with two weighted layers and one output, the same batch in every step, no momentum, no decay.

    With output weights ``a_r`` and inputs x (a bias is an input that is 1) the kernel of the first layer is ``sum_r a_r^2`` times the
    Gram matrix of Du et al.; a mean of squared errors over n samples has the gradient of their sum of halves times ``2 / n``. Cost: n^3
    once, a comparison of the batch in every step.

    Args:
        most: samples; above, the network is left alone.
    """

    def __init__(self, most: int = 512) -> None:
        self.watched = WholeBatch(most, activations=("Relu",))
        self.monitor: NTKRate | None = None
        self.width, self.sum_of_squares = 0, 0.0
        self.assumptions: tuple[str, ...] = ()
        self.first: tuple[Tensor, Tensor | None] | None = None

    def on_forward(self, event: Forward) -> None:
        """The batch."""
        self.watched.forward(event)

    def on_criterion(self, event: Criterion) -> None:
        """The squared error."""
        self.watched.criterion(event)

    def before_backward(self, event: Backward) -> None:
        """One error."""
        found = self.watched.backward(event, self.run.optimizers)
        if found is None:
            return
        if self.monitor is None and not self._begin(found, self.run.optimizers[0]):
            self.watched.stop()
            return
        assert self.monitor is not None and event.value is not None
        self.first = found.weights[0], _first_bias(found)
        self.monitor.record(event.value * (found.elements if found.mean else 1))

    def finish(self) -> KernelRecord | None:
        """Predicted and measured, with the least eigenvalue at the weights of the end."""
        if self.monitor is None or self.watched.stopped or self.first is None or len(self.monitor.errors) < 2:
            return None
        weights, bias = self.first
        self.monitor.look(weights if bias is None else torch.cat([weights, bias[:, None]], 1))
        return KernelRecord(self.width, len(self.monitor.x), self.monitor.report(), self.assumptions)

    def _begin(self, found: Watched, optimizer: Optimizer) -> bool:
        one, two = found.weights
        if two.shape[0] != 1 or not isinstance(optimizer, SGD):
            return False
        x = found.inputs.double()
        said = []
        if _first_bias(found) is not None:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], 1)
            said.append("the first layer has a bias, here an input that is 1")
        if not bool((x.norm(dim=1) > 0).all()):
            return False
        if not torch.allclose(x.norm(dim=1), torch.ones((), dtype=torch.float64, device=x.device), rtol=1e-3):
            said.append("inputs are not of norm 1")
        if two.requires_grad:
            said.append("the second layer is trained too, which can only speed the descent up (theorem 3.3 of the source)")
        if not torch.allclose(two.abs(), two.abs().mean().expand_as(two), rtol=1e-3):
            said.append("output weights are not +-1 / sqrt(width)")
        self.width, self.assumptions = one.shape[0], tuple(said)
        squares = float(two.detach().double().square().sum())
        rate = float(optimizer.param_groups[0]["lr"]) * (2.0 / found.elements if found.mean else 2.0) * squares
        if not rate > 0.0:
            return False
        self.monitor = NTKRate(x, rate)
        return True


def _first_bias(found: Watched) -> Tensor | None:
    return found.biases[0] if found.biases and found.biases[0].shape[0] == found.weights[0].shape[0] else None
