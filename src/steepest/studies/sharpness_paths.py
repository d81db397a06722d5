"""Descent on a small network with the sharpness measured on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

from steepest.errors import UsageError
from steepest.measures.hessian import Hessian
from steepest.measures.stability import step_scale
from steepest.monitors import EdgeOfStability
from steepest.studies.digits import load_digits

Factory = Callable[[list[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Path:
    """One run.

    Args:
        at: the steps at which the curvature was measured.
        ratios: the largest eigenvalue there of the Hessian as the method sees it, over the method's threshold; 1 is the edge.
        sharpness: the largest eigenvalue there of the Hessian itself.
        losses: of all data, before each step.
    """

    at: tuple[int, ...]
    ratios: tuple[float, ...]
    sharpness: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def arrival(self) -> int:
        """The measurement at which the edge is first reached; where it never is, the one nearest to it."""
        return next((k for k, r in enumerate(self.ratios) if r >= 1.0), self.ratios.index(max(self.ratios)))

    @property
    def sharpening(self) -> float:
        """Curvature at the arrival over that at the first measurement, in units of the edge."""
        return self.ratios[self.arrival] / self.ratios[0]

    def level(self, part: float = 0.5) -> float:
        """The median ratio over the last part of the measurements."""
        last = max(1, round(part * len(self.ratios)))
        return median(self.ratios[-last:])

    @property
    def rises(self) -> tuple[float, float]:
        """The share of steps that raise the loss, before the arrival and after it."""
        split = self.at[self.arrival]
        ups = [float(b > a) for a, b in pairwise(self.losses)]
        return fmean(ups[:split] or [0.0]), fmean(ups[split:] or [0.0])

    @property
    def progress(self) -> float:
        """The mean loss of the last twentieth of the steps over that at the arrival."""
        return fmean(self.losses[-max(1, len(self.losses) // 20) :]) / self.losses[self.at[self.arrival]]

    @property
    def growth(self) -> float:
        """The sharpness itself, at the end over that at the arrival: medians of a tenth of the measurements, which swing at the edge."""
        few = max(1, len(self.at) // 10)
        return median(self.sharpness[-few:]) / median(self.sharpness[self.arrival : self.arrival + few])


@dataclass(frozen=True)
class Landscape:
    """A tanh network with three hidden layers on digits, half the squared distance to the one-hot label, float64.

    Pixels have mean zero and standard deviation 0.4: about what dividing by the largest gives.

    Args:
        images: of the data, all in each step.
        width: of the hidden layers.
        every: steps between two measurements.
        shuffled: whether the labels are those of other images, so that they have to be learnt by heart.
    """

    images: int
    width: int
    every: int
    shuffled: bool

    def descend(
        self,
        seed: int,
        factory: Factory,
        steps: int,
        batch: int | None = None,
        change: Callable[[Optimizer, int], None] = lambda optimizer, step: None,
    ) -> Path:
        """Train and measure.

        Args:
            seed: of the weights, and of the batches.
            factory: makes the optimizer, one that ``EdgeOfStability`` knows.
            steps: of training.
            batch: images in a step; None for all. The curvature is that of all of them.
            change: called before each step with the optimizer and the step's number.

        Raises:
            UsageError: where the loss diverges.
        """
        data = load_digits(self.images)
        x, y = 0.4 * data.x.double().flatten(1), functional.one_hot(data.y.roll(7) if self.shuffled else data.y, 10).double()
        net = self._network(seed)
        parameters = list(net.parameters())
        optimizer = factory(parameters)
        monitor = EdgeOfStability(optimizer, products=30, tolerance=0.02)
        generator = torch.Generator().manual_seed(seed)
        at, sharpness, losses = list[int](), list[float](), list[float]()
        vector: Tensor | None = None
        for step in range(steps):
            change(optimizer, step)
            loss = _loss(net(x), y)
            losses.append(loss.item())
            if not losses[-1] < 1e3 * losses[0]:
                raise UsageError(f"descent diverges within {step} steps: give a smaller rate, or fewer steps")
            if step % self.every == 0 and (ratio := monitor.measure(loss)) is not None:
                at.append(step)
                if isinstance(optimizer, SGD):
                    scale = step_scale(optimizer, parameters)
                    assert scale is not None
                    sharpness.append(ratio / float(scale[0][0]) ** 2)
                else:
                    found = Hessian.of(loss, parameters).extremes(1, 0, 0.02, 30, vector)
                    vector = found.vectors[0]
                    sharpness.append(found.values[0].item())
            if batch is not None:
                index = torch.randint(self.images, (batch,), generator=generator)
                loss = _loss(net(x[index]), y[index])
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = g
            optimizer.step()
        return Path(tuple(at), tuple(monitor.ratios), tuple(sharpness), tuple(losses))

    def _network(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        first, *others = (nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise((64, *[self.width] * 3, 10)))
        return nn.Sequential(first, *(part for layer in others for part in (nn.Tanh(), layer)))


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()
