"""Proven rates, measured: quadratics with torch's methods, finite sums with variance reduction, interpolation with steps that adapt."""

import itertools
import math

import numpy as np
import pytest
import torch
from problems import Sum

from steepest.optim import SAGA, SVRG, Armijo, BarzilaiBorwein, StochasticPolyak

MU, L = 1.0, 100.0
KAPPA = L / MU


def measured_rate(optimizer_of, steps=1200, dimension=9):
    """The factor per step, late in the run, of the distance to the minimum of a diagonal quadratic with eigenvalues mu ... L."""
    eigenvalues = torch.logspace(math.log10(MU), math.log10(L), dimension, dtype=torch.float64)
    x = torch.ones(dimension, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_of([x])
    distances = []
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * eigenvalues * x * x).sum().backward()
        optimizer.step()
        distances.append(float(x.detach().norm()))
    half = steps // 2
    return (distances[-1] / distances[half - 1]) ** (1.0 / (steps - half))


def test_gradient_descent():
    rate = measured_rate(lambda p: torch.optim.SGD(p, lr=2.0 / (L + MU)))
    assert rate == pytest.approx((KAPPA - 1) / (KAPPA + 1), rel=1e-6)


def test_heavy_ball():
    root = math.sqrt(KAPPA)
    momentum = ((root - 1) / (root + 1)) ** 2
    rate = measured_rate(lambda p: torch.optim.SGD(p, lr=4.0 / (math.sqrt(L) + math.sqrt(MU)) ** 2, momentum=momentum))
    assert rate == pytest.approx((root - 1) / (root + 1), rel=1e-2)


def test_nesterov():
    """Roots of ``z^2 - (1 + b)(1 - l/L) z + b (1 - l/L)``, b = (sqrt k - 1)/(sqrt k + 1): largest at l = mu, twice 1 - 1/sqrt k."""
    root = math.sqrt(KAPPA)
    momentum = (root - 1) / (root + 1)
    largest = max(
        np.abs(np.roots([1.0, -(1 + momentum) * (1 - e / L), momentum * (1 - e / L)])).max() for e in np.logspace(0, math.log10(L), 9)
    )
    assert largest == pytest.approx(1 - 1 / root, abs=1e-6)
    rate = measured_rate(lambda p: torch.optim.SGD(p, lr=1.0 / L, momentum=momentum, nesterov=True))
    assert rate == pytest.approx(1 - 1 / root, rel=1e-2)


def test_barzilai_borwein_is_superlinear_in_two_dimensions():
    """And for one it is the secant method: exact after two steps."""
    assert measured_rate(lambda p: BarzilaiBorwein(p, lr=1e-3), steps=14, dimension=2) < 0.5 * (KAPPA - 1) / (KAPPA + 1)
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = BarzilaiBorwein([x], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (21.0 * x * x).sum().backward()
        optimizer.step()
    assert abs(float(x.detach())) < 1e-15


class Ridge(Sum):
    """``f_i + mu/2 |x|^2``: every sample mu-strongly convex and L-smooth; its minimum by linear algebra."""

    def __init__(self, mu=0.5, **options):
        super().__init__(**options)
        self.mu = mu
        a = torch.cat([self.a, torch.ones(self.n, 1, dtype=torch.float64)], dim=1)
        self.hessian = a.T @ a / self.n + mu * torch.eye(a.shape[1], dtype=torch.float64)
        self.minimum = torch.linalg.solve(self.hessian, a.T @ self.y / self.n)
        self.smoothness = float((a * a).sum(1).max()) + mu
        self.samples = a

    def losses(self, rows):
        return super().losses(rows) + 0.5 * self.mu * (self.w.square().sum() + self.b.square())

    def excess(self):
        error = self.flat - self.minimum
        return 0.5 * float(error @ self.hessian @ error)


def test_saga_within_its_theorem():
    """``E|x_k - x*|^2 <= (1 - min(1/4n, mu/3L))^k (|x_0 - x*|^2 + (2n/3L)(f(x_0) - f*))``, the table filled at x_0, over several seeds."""
    n, steps, finals = 12, 500, []
    for seed in range(6):
        problem = Ridge(2.0, n=n)
        lr = 1.0 / (3.0 * problem.smoothness)
        optimizer = SAGA(problem.parameters, size=n, lr=0.0)
        optimizer.step(lambda problem=problem: problem.losses(torch.arange(n)), torch.arange(n))
        start = float((problem.flat - problem.minimum).square().sum()) + 2 * n * lr * problem.excess()
        optimizer.param_groups[0]["lr"] = lr
        for i in torch.randint(n, (steps,), generator=torch.Generator().manual_seed(seed)):
            optimizer.step(lambda problem=problem, i=i: problem.losses(i[None]), i[None])
        finals.append(float((problem.flat - problem.minimum).square().sum()))
    factor = 1 - min(1 / (4 * n), problem.mu / (3 * problem.smoothness))
    assert np.mean(finals) <= factor**steps * start
    # And it does converge linearly: constant-rate SGD stops at a noise floor far above.
    plain = Ridge(2.0, n=n)
    sgd = torch.optim.SGD(plain.parameters, lr=lr)
    for i in torch.randint(n, (steps,), generator=torch.Generator().manual_seed(0)):
        sgd.step(plain.closure(i[None]))
    assert np.mean(finals) < 1e-6 * float((plain.flat - plain.minimum).square().sum())


def test_svrg_within_its_theorem():
    """Johnson and Zhang's theorem 1: snapshots drawn from the m iterates, over several seeds."""
    n, rounds, ends = 12, 3, []
    for seed in range(6):
        problem = Ridge(2.0, n=n)
        lr, g = 0.1 / problem.smoothness, torch.Generator().manual_seed(seed)
        m = int(25 * problem.smoothness / problem.mu)
        optimizer = SVRG(problem.parameters, lr=lr)
        start = problem.excess()
        for _ in range(rounds):
            optimizer.snapshot(problem.losses(torch.tensor([i])).mean() for i in range(n))
            # One of the m iterates before a step, drawn uniformly: the loop ends there.
            for i in torch.randint(n, (int(torch.randint(m, (), generator=g)),), generator=g):
                optimizer.step(problem.closure(i[None]))
        ends.append(problem.excess())
    shrink = 1 / (problem.mu * lr * (1 - 2 * problem.smoothness * lr) * m) + 2 * problem.smoothness * lr / (1 - 2 * problem.smoothness * lr)
    assert shrink < 0.8 and np.mean(ends) <= shrink**rounds * start


def test_svrg_has_no_noise_floor():
    """At a constant rate the distance keeps falling, where SGD stops."""
    problem, plain = Ridge(2.0, n=12), Ridge(2.0, n=12)
    lr, g = 0.3 / problem.smoothness, torch.Generator().manual_seed(0)
    optimizer, sgd = SVRG(problem.parameters, lr=lr), torch.optim.SGD(plain.parameters, lr=lr)
    for t, i in enumerate(torch.randint(12, (600,), generator=g)):
        if t % 24 == 0:
            optimizer.snapshot(problem.losses(torch.tensor([i])).mean() for i in range(12))
        optimizer.step(problem.closure(i[None]))
        sgd.step(plain.closure(i[None]))
    assert problem.excess() < 1e-8 * plain.excess()


@pytest.mark.parametrize("cls", [StochasticPolyak, Armijo])
def test_steps_that_adapt_converge_linearly_under_interpolation(cls):
    """``(1 - mu / L)^k`` with single samples that all agree on the minimum, c = 1/2; no rate to tune."""

    class Agreeing(Sum):
        def losses(self, rows):
            x = torch.cat([self.w, self.b[None]])
            # Every sample strongly convex, minimum 0 at the same point.
            return super().losses(rows) + 0.25 * (x - target).square().sum()

    target = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    n, steps, ends = 12, 100, []
    for seed in range(5):
        problem = Agreeing(n=n, fits=True)
        options = {"lr": 2.0, "c": 0.5} | ({"growth": math.inf} if cls is Armijo else {})
        optimizer = cls(problem.parameters, **options)
        for i in torch.randint(n, (steps,), generator=torch.Generator().manual_seed(seed)):
            optimizer.step(problem.closure(i[None]))
        ends.append(float((problem.flat - target).square().sum()))
    rows = torch.cat([problem.a, torch.ones(n, 1, dtype=torch.float64)], dim=1)
    smoothness = float(rows.square().sum(1).max()) + 0.5
    step = (1.0 if cls is StochasticPolyak else 0.9) / smoothness
    assert np.mean(ends) <= (1 - 0.5 * step) ** steps * float(target.square().sum())


def test_polyaks_own_step_with_the_whole_data():
    """c = 1, no limit, the optimal value known: ``|x_k - x*|`` never grows on a convex function."""
    problem = Ridge(n=12)
    everything = torch.arange(12)
    with torch.no_grad():
        problem.w.copy_(problem.minimum[:4])
        problem.b.copy_(problem.minimum[4])
        best = float(problem.losses(everything).mean())
        problem.w.zero_(), problem.b.zero_()
    optimizer = StochasticPolyak(problem.parameters, lr=math.inf, c=1.0, bound=best)
    distances = [math.inf]
    while distances[-1] > 1e-5 and len(distances) < 1000:
        optimizer.step(problem.closure(everything))
        distances.append(float((problem.flat - problem.minimum).norm()))
    assert distances[-1] <= 1e-5 and all(b <= a for a, b in itertools.pairwise(distances))
