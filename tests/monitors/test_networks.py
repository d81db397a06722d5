from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from steepest.errors import UsageError
from steepest.measures.stability import Stability
from steepest.monitors import DeepLinearRate, EdgeOfStability, NTKRate
from steepest.monitors.deep_linear import DeepLinear, product
from steepest.monitors.ntk_rate import KernelRate, gram, limit_gram


def _inputs(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_limit_of_the_gram_matrix() -> None:
    """Against sampling, at inputs of unequal norms; errors of a proportion over m samples are below 5 / (2 sqrt m)."""
    x = _inputs(5, 3) * torch.tensor([[1.0], [2.0], [0.5], [1.0], [3.0]], dtype=torch.float64)
    m = 200_000
    weights = torch.randn(m, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error = (gram(weights, x) - limit_gram(x)).abs() / (x @ x.T).abs().clamp_min(1e-9)
    assert float(error.max()) < 2.5 / math.sqrt(m)


def test_gram_is_that_of_the_gradients() -> None:
    x = _inputs(6, 4)
    w = torch.randn(50, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    a = torch.ones(50, dtype=torch.float64)
    rows = [torch.autograd.grad(((w @ xi).relu() * a).sum() / math.sqrt(50), w)[0].flatten() for xi in x]
    jacobian = torch.stack(rows)
    assert torch.allclose(gram(w, x), jacobian @ jacobian.T, atol=1e-12)


def test_wide_network_falls_as_predicted() -> None:
    x, generator = _inputs(8, 10), torch.Generator().manual_seed(3)
    m, rate = 2000, 0.5
    w = torch.randn(m, 10, generator=generator, dtype=torch.float64)
    a = torch.sign(torch.randn(m, generator=generator, dtype=torch.float64))
    y = torch.randn(8, generator=generator, dtype=torch.float64)
    monitor = NTKRate(x, rate)
    for step in range(60):
        on = (x @ w.T >= 0).double()
        rest = (x @ w.T).relu() @ a / math.sqrt(m) - y
        monitor.record(float(rest @ rest), w if step % 59 == 0 else None)
        w = w - rate * (a[:, None] * ((on * rest[:, None]).T @ x)) / math.sqrt(m)
    report = monitor.report()
    assert report.verdict is KernelRate.AS_PREDICTED and report.measured is not None and report.measured < report.predicted < 1.0
    assert rate < report.largest_rate
    assert report.at_weights == pytest.approx(report.eigenvalue, rel=0.5)
    json.dumps(report.to_json(), allow_nan=False)


def test_parallel_inputs_are_degenerate() -> None:
    x = _inputs(4, 3)
    assert NTKRate(torch.cat([x, 2 * x[:1]]), 0.1).report().verdict is KernelRate.DEGENERATE
    with pytest.raises(UsageError, match="no zero row"):
        NTKRate(torch.zeros(2, 3), 0.1)


def _deep(start: float, depth: int, size: int = 3) -> list[torch.Tensor]:
    return [torch.eye(size, dtype=torch.float64) * start ** (1 / depth)] * depth


def test_deep_linear_rate_holds() -> None:
    """Balanced layers near the target, at the theorem's own rate and at a thousand times that."""
    depth, target = 3, torch.eye(3, dtype=torch.float64)
    allowed = DeepLinearRate(_deep(0.8, depth), target, 1.0).report().allowed_rate
    assert allowed is not None
    for rate, verdict in ((allowed, DeepLinear.GUARANTEED), (1000 * allowed, DeepLinear.LARGE_RATE)):
        weights = [w.clone().requires_grad_() for w in _deep(0.8, depth)]
        monitor = DeepLinearRate(weights, target, rate)
        for _ in range(40):
            loss = 0.5 * (product(weights) - target).square().sum()
            monitor.record(float(loss))
            for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                w.data -= rate * g
        report = monitor.report()
        assert report.verdict is verdict
        assert report.measured is not None and report.predicted is not None and report.measured <= report.predicted < 1.0
        assert report.margin == pytest.approx(1.0 - 0.2 * math.sqrt(3)) and report.balance == pytest.approx(0.0, abs=1e-12)
        json.dumps(report.to_json(), allow_nan=False)


def test_deep_linear_conditions() -> None:
    target = torch.eye(3, dtype=torch.float64)
    assert DeepLinearRate(_deep(0.1, 2), target, 0.1).report().verdict is DeepLinear.NO_MARGIN
    uneven = [torch.eye(3, dtype=torch.float64) * 4.0, torch.eye(3, dtype=torch.float64) * 0.25]
    assert DeepLinearRate(uneven, target, 0.1).report().verdict is DeepLinear.UNBALANCED
    narrow = [torch.ones(1, 3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)]
    assert DeepLinearRate(narrow, target, 0.1).report().verdict is DeepLinear.NARROW
    with pytest.raises(UsageError, match="chain"):
        DeepLinearRate([torch.ones(2, 3), torch.ones(2, 3)], torch.ones(2, 3), 0.1)


@pytest.mark.parametrize(("momentum", "threshold"), [(0.0, 2.0), (0.5, 3.0)])
def test_edge_on_a_quadratic(momentum: float, threshold: float) -> None:
    h = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for part, stability in ((0.5, Stability.STABLE), (1.1, Stability.UNSTABLE)):
        optimizer = SGD([x], part * threshold / 4.0, momentum=momentum)
        monitor = EdgeOfStability(optimizer)
        x.data.fill_(1.0)
        for _ in range(40):
            loss = 0.5 * (h * x * x).sum()
            assert monitor.measure(loss) == pytest.approx(part, rel=1e-3)
            assert x.grad is None
            loss.backward()
            optimizer.step()
            x.grad = None
        report = monitor.report()
        assert report.stability is stability and report.latest == pytest.approx(part, rel=1e-3)
    json.dumps(report.to_json(), allow_nan=False)


def test_edge_waits_for_the_state_of_adam() -> None:
    x = nn.Parameter(torch.ones(2))
    monitor = EdgeOfStability(Adam([x]))
    assert monitor.measure(x.square().sum()) is None
    assert monitor.report().stability is None
