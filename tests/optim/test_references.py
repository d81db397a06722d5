"""Every method against its equations written out in numpy, sample by sample, over 1,000 steps in float64."""

import math

import numpy as np
import pytest
import torch
from problems import METHODS, Sum

from steepest.optim import AdaDelay, AdaFom, BarzilaiBorwein, StochasticPolyak

STEPS, TOLERANCE = 1000, 1e-10


class Reference:
    """The same sum of squares, its samples' losses and gradients by hand."""

    def __init__(self, problem):
        self.a = np.hstack([problem.a.numpy(), np.ones((problem.n, 1))])
        self.y, self.n = problem.y.numpy(), problem.n
        self.x = np.zeros(self.a.shape[1])

    def loss(self, x, rows):
        return float(np.mean([0.5 * (self.a[i] @ x - self.y[i]) ** 2 for i in rows]))

    def gradient(self, x, rows):
        return np.mean([(self.a[i] @ x - self.y[i]) * self.a[i] for i in rows], axis=0)


def adafom(r, rows_of, lr, beta1=0.9, eps=1e-8):
    m, v = np.zeros_like(r.x), np.zeros_like(r.x)
    for t in range(1, STEPS + 1):
        g = r.gradient(r.x, rows_of(t - 1))
        m = beta1 * m + (1 - beta1) * g
        v = (1 - 1 / t) * v + g**2 / t
        r.x = r.x - lr * m / (np.sqrt(v) + eps)
        yield r.x


def adadelay(r, rows_of, lr, smoothness=0.0, eps=1e-10, delay=lambda t: 0):
    past = []
    for t in range(1, STEPS + 1):
        g, tau = r.gradient(r.x, rows_of(t - 1)), delay(t - 1)
        past.append(t / (t + tau) * g**2)
        c = np.sqrt(np.sum(past, axis=0) / t)
        r.x = r.x - lr * g / (smoothness + c * math.sqrt(t + tau) + eps)
        yield r.x


def svrg(r, rows_of, lr):
    for t in range(STEPS):
        if t % 6 == 0:
            snapshot, full = r.x.copy(), r.gradient(r.x, range(r.n))
        r.x = r.x - lr * (r.gradient(r.x, rows_of(t)) - r.gradient(snapshot, rows_of(t)) + full)
        yield r.x


def saga(r, rows_of, lr):
    table = [np.zeros_like(r.x) for _ in range(r.n)]
    for t in range(STEPS):
        new = {i: r.gradient(r.x, [i]) for i in rows_of(t)}
        direction = np.mean([new[i] - table[i] for i in new], axis=0) + np.mean(table, axis=0)
        for i, gradient in new.items():
            table[i] = gradient
        r.x = r.x - lr * direction
        yield r.x


def sps(r, rows_of, lr, c=0.5, bound=0.0, growth=math.inf):
    last = math.inf
    for t in range(STEPS):
        g = r.gradient(r.x, rows_of(t))
        last = min((r.loss(r.x, rows_of(t)) - bound) / (c * g @ g) if g @ g else 0.0, lr, growth * last)
        r.x = r.x - last * g
        yield r.x


def armijo(r, rows_of, lr, c=0.1, shrink=0.9, growth=1.1):
    last = 0.0
    for t in range(STEPS):
        rows = rows_of(t)
        g, f = r.gradient(r.x, rows), r.loss(r.x, rows)
        step = min(lr, growth * last) if last else lr
        last = 0.0
        for _ in range(100):
            if r.loss(r.x - step * g, rows) <= f - c * step * g @ g:
                r.x, last = r.x - step * g, step
                break
            step *= shrink
        yield r.x


def barzilai_borwein(r, rows_of, lr, rule="long"):
    x, g = None, None
    step = lr
    for t in range(STEPS):
        gradient = r.gradient(r.x, range(r.n))
        if x is not None:
            s, y = r.x - x, gradient - g
            if s @ y > 0:
                long = rule == "long" or (rule == "alternate" and t % 2 == 1)
                step = min(max(s @ s / (s @ y) if long else s @ y / (y @ y), 1e-10), 1e10)
        x, g = r.x, gradient
        r.x = r.x - step * gradient
        yield r.x


REFERENCES = {
    "AdaFom": adafom,
    "AdaDelay": adadelay,
    "SVRG": svrg,
    "SAGA": saga,
    "StochasticPolyak": sps,
    "Armijo": armijo,
    "BarzilaiBorwein": barzilai_borwein,
}


def compare(case, problem, steps, step, optimizer):
    worst = 0.0
    for t, expected in enumerate(steps):
        step(optimizer, t)
        worst = max(worst, float(np.abs(problem.flat.numpy() - expected).max()))
    assert worst <= TOLERANCE and np.abs(expected).max() > 0.1


def rows_of(problem):
    return lambda t: [(2 * t) % problem.n, (2 * t + 3) % problem.n]


@pytest.mark.parametrize("case", METHODS, ids=lambda c: c.name)
def test_1000_steps(case):
    problem = Sum(fits=case.fits)
    steps = REFERENCES[case.name](Reference(problem), rows_of(problem), **case.options)
    compare(case, problem, steps, lambda optimizer, t: case.step(optimizer, problem, t), case.build(problem))


def options(cls):
    return next(case for case in METHODS if case.cls is cls)


def test_adadelay_with_delays():
    delays = np.random.default_rng(0).integers(0, 40, STEPS)
    case, problem = options(AdaDelay), Sum()
    steps = adadelay(Reference(problem), rows_of(problem), 0.7, smoothness=0.3, delay=lambda t: delays[t])
    rows = rows_of(problem)
    optimizer = case.build(problem, lr=0.7, smoothness=0.3)
    compare(case, problem, steps, lambda o, t: o.step(problem.closure(torch.tensor(rows(t))), delay=int(delays[t])), optimizer)
    with pytest.raises(ValueError, match="delay is -1"):
        optimizer.step(delay=-1)


def test_adadelay_without_delays_is_adagrad():
    ours, theirs = Sum(), Sum()
    optimizer = AdaDelay(ours.parameters, lr=0.5, eps=1e-10)
    adagrad = torch.optim.Adagrad(theirs.parameters, lr=0.5, eps=1e-10)
    for t in range(200):
        rows = torch.tensor(rows_of(ours)(t))
        optimizer.step(ours.closure(rows))
        adagrad.step(theirs.closure(rows))
    assert torch.allclose(ours.flat, theirs.flat, rtol=1e-12, atol=1e-12)


def test_adafom_with_a_falling_rate_is_adagrad_with_momentum():
    problem = Sum()
    optimizer = AdaFom(problem.parameters, lr=0.1, beta1=0.9, eps=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    r = Reference(problem)
    m, total = 0.0, 0.0
    for t in range(200):
        g = r.gradient(r.x, rows_of(problem)(t))
        m, total = 0.9 * m + 0.1 * g, total + g**2
        r.x = r.x - 0.1 * m / np.sqrt(total)
        optimizer.step(problem.closure(torch.tensor(rows_of(problem)(t))))
        scheduler.step()
        assert np.abs(problem.flat.numpy() - r.x).max() < 1e-12


@pytest.mark.parametrize("cls", [AdaFom, AdaDelay])
def test_decoupled_weight_decay(cls):
    case, problem, other = options(cls), Sum(), Sum()
    decayed = case.build(problem, weight_decay=0.1, decoupled_weight_decay=True)
    plain = case.build(other)
    rows = torch.tensor([0, 1])
    decayed.step(problem.closure(rows))
    plain.step(other.closure(rows))
    assert torch.equal(problem.flat, other.flat)
    before = problem.flat
    with torch.no_grad():
        for p, q in zip(problem.parameters, other.parameters, strict=True):
            q.copy_(p)
    decayed.step(problem.closure(rows))
    plain.step(other.closure(rows))
    assert torch.allclose(problem.flat, other.flat - 0.1 * case.options["lr"] * before, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["short", "alternate"])
def test_rules_of_barzilai_and_borwein(rule):
    case, problem = options(BarzilaiBorwein), Sum()
    steps = barzilai_borwein(Reference(problem), None, 0.05, rule)
    compare(case, problem, steps, lambda o, t: case.step(o, problem, t), case.build(problem, rule=rule))


def test_polyak_with_growth_and_bound():
    case, problem = options(StochasticPolyak), Sum(fits=True)
    steps = sps(Reference(problem), rows_of(problem), 0.4, c=0.6, bound=-0.01, growth=1.02)
    optimizer = case.build(problem, lr=0.4, c=0.6, bound=-0.01, growth=1.02)
    compare(case, problem, steps, lambda o, t: case.step(o, problem, t), optimizer)
