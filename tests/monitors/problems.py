"""Problems on which Adam-type methods are known to fail or to work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.monitors import AdamTypeMonitor
from steepest.results.convergence import AdamTypeReport

Gradient = Callable[[Tensor, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Problem:
    """A stochastic or cyclic gradient, the objective, and a projection onto ``[-box, box]``."""

    gradient: Gradient
    objective: Callable[[Tensor], float]
    start: tuple[float, ...]
    box: float | None = None


def reddi_cyclic(c: float = 3.0) -> Problem:
    """f_t(x) = c x where t mod 3 = 1 and -x else, on [-1, 1]; the best x is -1 for c > 2 (Reddi et al. 2018, theorem 1)."""
    return Problem(lambda x, t, g: torch.full_like(x, c if t % 3 == 0 else -1.0), lambda x: (c - 2) / 3 * float(x.sum()), (0.5,), 1.0)


def reddi_stochastic(c: float = 3.0, delta: float = 0.2) -> Problem:
    """c x with probability (1 + delta) / (c + 1), else -x, on [-1, 1]; f = delta x (Reddi et al. 2018, theorem 3)."""
    p = (1 + delta) / (c + 1)

    def gradient(x: Tensor, t: int, g: torch.Generator) -> Tensor:
        return torch.full_like(x, c if float(torch.rand((), generator=g)) < p else -1.0)

    return Problem(gradient, lambda x: delta * float(x.sum()), (0.0,), 1.0)


def eleven(cyclic: bool) -> Problem:
    """f = sum of 5.5 x^2 once and -x^2 / 2 ten times, one of them a step; f / 11 has its minimum at 0 (Chen et al. 2019, section 3.2)."""

    def gradient(x: Tensor, t: int, g: torch.Generator) -> Tensor:
        index = t % 11 if cyclic else int(torch.randint(11, (), generator=g))
        return 11 * x if index == 0 else -x

    return Problem(gradient, lambda x: float(x.square().sum()) / 22, (1.0,))


def quadratic(coordinates: int = 10) -> Problem:
    """|x|^2 / 2 with unit noise in every gradient."""

    def gradient(x: Tensor, t: int, g: torch.Generator) -> Tensor:
        return x + torch.randn(x.shape, generator=g, dtype=x.dtype)

    return Problem(gradient, lambda x: 0.5 * float(x.square().sum()), (1.0,) * coordinates)


def descend(
    problem: Problem,
    make: Callable[[list[Tensor]], Optimizer],
    steps: int,
    *,
    seed: int = 0,
    falling: bool = True,
    losses: bool = False,
) -> tuple[AdamTypeReport, Tensor, list[float]]:
    """The monitor's report, the last point, and the squared norm of the true gradient of the quadratic, x, at every step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.Parameter(torch.tensor(problem.start, dtype=torch.float64))
    optimizer = make([x])
    monitor = AdamTypeMonitor(optimizer)
    schedule = LambdaLR(optimizer, lambda t: (t + 1) ** -0.5 if falling else 1.0)
    squares = []
    for t in range(steps):
        x.grad = problem.gradient(x.detach(), t, generator)
        optimizer.step()
        schedule.step()
        if problem.box is not None:
            with torch.no_grad():
                x.clamp_(-problem.box, problem.box)
        if losses:
            monitor.record_loss(problem.objective(x.detach()))
        squares.append(float(x.detach().square().sum()))
    return monitor.report(), x.detach(), squares
