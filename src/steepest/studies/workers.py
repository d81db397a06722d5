"""Simulated workers that train a network on digits to a loss: how many gradients, and how long, at the best rate of a grid."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional

from steepest.distributed import Problem, Shuffled, simulate
from steepest.distributed.delays import Delay
from steepest.distributed.method import Method
from steepest.studies.digits import load_digits

MakeMethod = Callable[[float], Method]


# Ten times chance: a run that is there has diverged.
_LOST = 10.0 * math.log(10.0)


@dataclass(frozen=True)
class Arrival:
    """At the loss.

    Args:
        rate: of the run; steps: gradients of all workers, infinite where it was not reached; time: simulated; staleness: the mean.
    """

    rate: float
    steps: float
    time: float
    staleness: float


@dataclass(frozen=True)
class Race:
    """A ReLU network with one hidden layer, trained until the loss over all training images is low enough.

    Args:
        width: hidden units.
        batch: images in one gradient.
        target: the loss.
        limit: most gradients of all workers together, beside ``extra`` for each worker.
        extra: see there.
        every: gradients between two looks at the loss.
    """

    width: int
    batch: int
    target: float
    limit: int
    extra: int
    every: int

    def run(self, method: Method, rate: float, workers: int, service: Delay, seed: int, most: float = math.inf) -> Arrival:
        """One run; it ends early beyond ``most`` gradients."""
        data = load_digits()
        x = data.x.flatten(1)
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, self.width), nn.ReLU(), nn.Linear(self.width, 10))

        def loss(model: nn.Module) -> float:
            return functional.cross_entropy(model(x), data.y).item()

        found = simulate(
            Problem(net, functional.cross_entropy, Shuffled(x, data.y, self.batch, seed)),
            method,
            workers,
            steps=int(min(self.limit + self.extra * workers, most)),
            service=service,
            seed=seed,
            evaluate=loss,
            every=self.every,
            until=lambda value: value <= self.target or value > _LOST,
            vectorise=workers > 2,
        )
        reached = found.moments[-1].value <= self.target
        late = fmean(found.staleness) if found.staleness else 0.0
        return Arrival(rate, found.steps if reached else math.inf, found.time if reached else math.inf, late)

    def best(self, make: MakeMethod, rates: Sequence[float], workers: int, service: Delay, seed: int, near: float | None = None) -> Arrival:
        """Of the rate that arrives after the fewest gradients; of the smallest where none arrives.

        Goes down the grid, from the rate above ``near`` where that is given, until a rate that arrives is followed by two that take longer.

        Args:
            make: the method for a rate.
            rates: falling.
            workers, service, seed: of the runs.
            near: the best for fewer workers.
        """
        best: Arrival | None = None
        worse = 0
        for rate in rates[max(0, rates.index(near) - 1) if near in rates else 0 :]:
            found = self.run(make(rate), rate, workers, service, seed, math.inf if best is None else best.steps)
            if best is None or found.steps < best.steps:
                best, worse = found, 0
            elif math.isfinite(best.steps):
                worse += 1
                if worse == 2:
                    break
            else:
                best = found
        assert best is not None
        return best
