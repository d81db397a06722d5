from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from monitors.problems import Problem, descend, eleven, quadratic, reddi_cyclic, reddi_stochastic
from steepest.errors import UsageError
from steepest.monitors import AdamTypeMonitor
from steepest.optim import AdaDelay, AdaFom
from steepest.results.convergence import Assumption, Verdict

Make = Callable[[list[Tensor]], Optimizer]

# No memory of the direction, so that the effective step is what x moved by over the gradient.
METHODS: dict[str, Make] = {
    "adam": lambda p: Adam(p, 0.01, (0.0, 0.9)),
    "adamw": lambda p: AdamW(p, 0.01, (0.0, 0.9), weight_decay=0.1),
    "adam with decay": lambda p: Adam(p, 0.01, (0.0, 0.9), weight_decay=0.1),
    "amsgrad": lambda p: Adam(p, 0.01, (0.0, 0.9), amsgrad=True),
    "nadam": lambda p: NAdam(p, 0.01, (0.0, 0.9)),
    "radam": lambda p: RAdam(p, 0.01, (0.0, 0.9)),
    "adamax": lambda p: Adamax(p, 0.01, (0.0, 0.9)),
    "rmsprop": lambda p: RMSprop(p, 0.01),
    "centred rmsprop": lambda p: RMSprop(p, 0.01, centered=True),
    "adagrad": lambda p: Adagrad(p, 0.1, lr_decay=0.01, initial_accumulator_value=0.1),
    "adafom": lambda p: AdaFom(p, 0.01, beta1=0.0),
    "adadelay": lambda p: AdaDelay(p, 0.1, smoothness=0.5),
}


@pytest.mark.parametrize("name", METHODS)
def test_terms_are_those_of_the_moves(name: str) -> None:
    """A, B and B' from nothing but iterates and gradients, and gamma below every effective step."""
    generator = torch.Generator().manual_seed(3)
    x = nn.Parameter(torch.randn(7, generator=generator, dtype=torch.float64))
    optimizer = METHODS[name]([x])
    monitor = AdamTypeMonitor(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    decoupled, coupled = name == "adamw", name == "adam with decay"
    steps, a, b, b_squared, scales = 63, [], [], [], []
    for _ in range(steps):
        before, rate = x.detach().clone(), optimizer.param_groups[0]["lr"]
        x.grad = before + torch.randn(7, generator=generator, dtype=torch.float64)
        g = x.grad + 0.1 * before if coupled else x.grad.clone()
        optimizer.step()
        schedule.step()
        move = x.detach() - (before * (1 - 0.1 * rate) if decoupled else before)
        scales.append(-move / g)
        a.append(float(move.square().sum()))
        change = scales[-1] - scales[-2] if len(scales) > 1 else torch.zeros(7, dtype=torch.float64)
        b.append(float(change.abs().sum()))
        b_squared.append(float(change.square().sum()))
    windows = monitor.report().windows
    assert [w.first for w in windows] == [1, 2, 4, 8, 16, 32]
    for w in windows:
        span = slice(w.first - 1, 2 * w.first - 1)
        assert w.a == pytest.approx(sum(a[span]), rel=1e-9)
        assert w.b == pytest.approx(sum(b[span]), rel=1e-6, abs=1e-12)
        assert w.b_squared == pytest.approx(sum(b_squared[span]), rel=1e-6, abs=1e-12)
        assert 0.0 < w.gamma <= sum(float(s.min()) for s in scales[span]) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("problem", "beta2", "steps", "losses"),
    [
        (reddi_cyclic(), 0.1, 1023, False),
        (eleven(cyclic=True), 0.1, 1023, True),
        (eleven(cyclic=False), 0.1, 1023, True),
        (reddi_stochastic(), 0.1, 1023, True),
    ],
    ids=["reddi-cyclic", "eleven-cyclic", "eleven-random", "reddi-stochastic"],
)
def test_adam_fails_where_amsgrad_and_adafom_do_not(problem: Problem, beta2: float, steps: int, losses: bool) -> None:
    adam, x, _ = descend(problem, lambda p: Adam(p, 0.1, (0.0, beta2)), steps, losses=losses)
    assert adam.verdict is Verdict.FAILED and adam.evidence
    assert problem.objective(x) > problem.objective(torch.tensor(problem.start))
    for make in (lambda p: Adam(p, 0.1, (0.0, beta2), amsgrad=True), lambda p: AdaFom(p, 0.1, beta1=0.0)):
        report, x, _ = descend(problem, make, steps, losses=losses)
        assert report.verdict is Verdict.MET, report
        assert report.ratio is not None and report.ratio.value < -0.3
        assert report.floor == 0.0
        assert problem.objective(x) < problem.objective(torch.tensor(problem.start))


def test_uphill_steps_are_seen_without_a_loss() -> None:
    """Eleven functions in turn: the mean gradient and the mean step alone show the rise, once windows are long against the cycle."""
    report, _, _ = descend(eleven(cyclic=True), lambda p: Adam(p, 0.1, (0.0, 0.1)), 8191)
    assert report.verdict is Verdict.FAILED and "mean step" in report.evidence[0]


@pytest.mark.parametrize("falling", [False, True])
def test_healthy_adam_is_not_guaranteed(falling: bool) -> None:
    for seed in range(3):
        report, _, squares = descend(quadratic(), lambda p: Adam(p, 0.02), 1023, seed=seed, falling=falling)
        assert report.verdict is Verdict.NOT_GUARANTEED
        assert report.floor is not None and report.squared_gradient is not None
        assert report.floor > max(report.squared_gradient, sum(squares[511:]) / 512)
        assert Assumption.MOVING_AVERAGE in report.assumptions
        assert (Assumption.CONSTANT_RATE in report.assumptions) is not falling


def test_never_met_where_the_gradient_does_not_vanish() -> None:
    """A constant rate with noise keeps A at the order of the sum of gamma, whatever the method."""
    makes: list[Make] = [
        lambda p: Adam(p, 0.02, amsgrad=True),
        lambda p: AdaFom(p, 0.02),
        lambda p: Adam(p, 0.02, (0.9, 0.99)),
    ]
    for seed in range(50):
        report, _, _ = descend(quadratic(4), makes[seed % 3], 511, seed=seed, falling=False)
        assert report.verdict in (Verdict.NOT_GUARANTEED, Verdict.TOO_SHORT), (seed, report)
        report, _, _ = descend(eleven(cyclic=False), lambda p: Adam(p, 0.1, (0.0, 0.1)), 255, seed=seed)
        assert report.verdict not in (Verdict.MET,), (seed, report)


@pytest.mark.parametrize("make", [lambda p: AdamW(p, 1e-3), lambda p: AdaFom(p, 1e-3)], ids=["adamw", "adafom"])
def test_training_is_bit_equal(make: Make) -> None:
    x, y = torch.randn(64, 20, generator=torch.Generator().manual_seed(1)), torch.ones(64, 3)
    draws, results = torch.get_rng_state(), []
    model = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 3))
    torch.set_rng_state(draws)
    for watched in (False, True):
        net = copy.deepcopy(model)
        optimizer = make(list(net.parameters()))
        monitor = AdamTypeMonitor(optimizer, coordinates=100, dense=16) if watched else None
        for _ in range(70):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        results.append([p.detach().clone() for p in net.parameters()])
        if monitor is not None:
            monitor.detach()
            optimizer.step()
            report = monitor.report()
            assert Assumption.SKETCH in report.assumptions and report.steps == 70
            assert all(w.steps == min(w.first, 16) for w in report.windows)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(draws, torch.get_rng_state())


def test_report_is_json_and_survives_bad_numbers() -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = Adam([x])
    monitor = AdamTypeMonitor(optimizer)
    assert monitor.report().verdict is Verdict.TOO_SHORT
    for t in range(40):
        x.grad = torch.full((3,), float("nan") if t == 20 else 1.0)
        optimizer.step()
    report = monitor.report()
    assert report.verdict is Verdict.FAILED and Assumption.NOT_FINITE in report.assumptions
    json.dumps(report.to_json(), allow_nan=False)


def test_refusals() -> None:
    x = nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match="SGD is no Adam-type method"):
        AdamTypeMonitor(SGD([x], 0.1))
    with pytest.raises(UsageError, match="power of two"):
        AdamTypeMonitor(Adam([x]), dense=100)
