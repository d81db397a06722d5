"""Asynchronous descent on a quadratic in the simulator, beside what is known of it exactly."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD

from steepest.distributed import Constant, Downpour, Exponential, Problem, simulate
from steepest.results import Interval
from steepest.studies.quadratics import Array


def largest_contracting_rate(workers: int, rounds: int = 60, tolerance: float = 0.01) -> Interval:
    """On ``x^2 / 2``, with workers that take equal times, so that each gradient is ``workers - 1`` updates old; the start does not matter.

    Found by halving between a rate whose run ends nearer to the minimum than its middle is and one whose does not, which are the ends of
    the interval.

    Args:
        workers: one for no delay.
        rounds: gradients of each worker in a run.
        tolerance: relative width of the interval.
    """
    low, high = 0.0, 4.0
    while high - low > tolerance * high:
        rate = 0.5 * (low + high)
        low, high = (rate, high) if _contracts(rate, workers, rounds) else (low, rate)
    return Interval(0.5 * (low + high), low, high)


def mean_path(workers: int, rate: float, steps: int, runs: int, seed: int) -> Array:
    """``E x_t / x_0`` for t = 0 ... steps on ``x^2 / 2``, estimated from runs whose workers take exponential times."""
    total = np.zeros(steps + 1)
    for k in range(runs):
        found = simulate(
            _problem(),
            Downpour(lambda p: SGD(p, rate)),
            workers,
            steps=steps,
            service=Exponential(),
            seed=seed * runs + k,
            evaluate=lambda model: float(next(model.parameters())),
            every=1,
            vectorise=False,
        )
        total += [moment.value for moment in found.moments]
    return total / runs


def implicit_momentum(workers: int, rate: float, steps: int) -> Array:
    """What heavy ball does with momentum ``1 - 1 / workers`` and rate ``rate / workers`` from ``x_1 = (1 - rate) x_0``.

    Exactly the mean path: a gradient is k updates old with probability ``(1 / p) (1 - 1 / p)^k``, and one of the start else, whatever the
    parameters are.

    Source: I. Mitliagkas, C. Zhang, S. Hadjis, C. Re, Asynchrony begets momentum, 2016, theorem 3.
    """
    path, momentum = [1.0, 1.0 - rate], 1.0 - 1.0 / workers
    while len(path) <= steps:
        path.append(path[-1] + momentum * (path[-1] - path[-2]) - rate / workers * path[-1])
    return np.array(path[: steps + 1])


def _contracts(rate: float, workers: int, rounds: int) -> bool:
    run = simulate(
        _problem(),
        Downpour(lambda p: SGD(p, rate)),
        workers,
        steps=rounds * workers,
        service=Constant(1.0),
        evaluate=lambda model: abs(float(next(model.parameters()))),
        every=1,
        until=lambda value: value > 1e6,
        vectorise=False,
    )
    values = [moment.value for moment in run.moments]
    # The largest of a third of the run, in which an oscillation of any period 4 workers and less has its peak.
    third = len(values) // 3
    return values[-1] <= 1e6 and max(values[-third:]) <= max(values[third:-third])


class _Parabola(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, scale: Tensor) -> Tensor:
        return scale * self.x


def _problem() -> Problem:
    one = torch.ones(1, dtype=torch.float64)
    return Problem(_Parabola(), lambda out, _: 0.5 * out.square().sum(), lambda worker, step: (one, one))
