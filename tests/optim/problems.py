"""Problems and methods of the suite: a noisy least-squares sum in two tensors, and one entry per method of this package."""

from dataclasses import dataclass, field
from typing import Any

import torch

from steepest.optim import SAGA, SVRG, AdaDelay, AdaFom, Armijo, BarzilaiBorwein, StochasticPolyak


class Sum:
    """``f_i(w, b) = (a_i'w + b - y_i)^2 / 2``: n samples, two tensors of parameters."""

    def __init__(self, n=12, d=4, dtype=torch.float64, fits=False, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.a = torch.randn(n, d, generator=g, dtype=torch.float64)
        self.y = self.a @ torch.ones(d, dtype=torch.float64) + 0.5
        if not fits:
            self.y = self.y + 0.3 * torch.randn(n, generator=g, dtype=torch.float64)
        self.a, self.y, self.n = self.a.to(dtype), self.y.to(dtype), n
        self.w = torch.zeros(d, dtype=dtype, requires_grad=True)
        self.b = torch.zeros((), dtype=dtype, requires_grad=True)

    @property
    def parameters(self):
        return [self.w, self.b]

    def losses(self, rows):
        return 0.5 * (self.a[rows] @ self.w + self.b - self.y[rows]) ** 2

    def closure(self, rows, sign=1.0):
        def evaluate():
            for p in self.parameters:
                p.grad = None
            loss = sign * self.losses(rows).mean()
            loss.backward()
            return loss

        return evaluate

    @property
    def flat(self):
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])


@dataclass
class Case:
    """A method, options at which it behaves, and how it is driven."""

    cls: Any
    options: dict = field(default_factory=dict)
    kind: str = "plain"
    fits: bool = False
    """Whether it is run on a problem that all samples agree on."""

    @property
    def name(self):
        return self.cls.__name__

    def build(self, problem, **more):
        options = self.options | ({"size": problem.n} if self.kind == "components" else {}) | more
        return self.cls(problem.parameters, **options)

    def step(self, optimizer, problem, t, sign=1.0):
        """Step t: two samples in turn, or all of them."""
        rows = torch.tensor([(2 * t) % problem.n, (2 * t + 3) % problem.n])
        if self.kind == "full":
            return optimizer.step(problem.closure(torch.arange(problem.n), sign))
        if self.kind == "components":
            return optimizer.step(lambda: sign * problem.losses(rows), rows)
        if self.kind == "snapshot" and t % 6 == 0:
            optimizer.snapshot(sign * problem.losses(torch.tensor([i])).mean() for i in range(problem.n))
        return optimizer.step(problem.closure(rows, sign))


METHODS = [
    Case(AdaFom, {"lr": 0.05}),
    Case(AdaDelay, {"lr": 0.5}),
    Case(SVRG, {"lr": 0.05}, "snapshot"),
    Case(SAGA, {"lr": 0.05}, "components"),
    Case(StochasticPolyak, {"lr": 0.3}, fits=True),
    Case(Armijo, {"lr": 1.0}, fits=True),
    Case(BarzilaiBorwein, {"lr": 0.05}, "full"),
]
