from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from scipy.optimize import nnls
from torch import nn
from torch.optim import SGD

from steepest.errors import UsageError
from steepest.monitors import ABCVariance, DescentLemma, PolyakLojasiewicz
from steepest.monitors.abc_variance import Noise, nonnegative_least_squares
from steepest.monitors.descent_lemma import Descent
from steepest.monitors.polyak_lojasiewicz import LinearRate


@pytest.mark.parametrize(
    ("rate", "verdict"), [(0.01, Descent.LINEAR), (0.4, Descent.GUARANTEED), (0.8, Descent.BEYOND), (1.1, Descent.ASCENT)]
)
def test_ratio_on_a_quadratic(rate: float, verdict: Descent) -> None:
    """f = h x^2 / 2 has the ratio 1 - rate h / 2 exactly."""
    h = 2.0
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer, lemma = SGD([x], rate), DescentLemma([x])
    for _ in range(5):
        optimizer.zero_grad()
        loss = 0.5 * h * x.square().sum()
        loss.backward()
        lemma.before(loss)
        optimizer.step()
        lemma.after(lambda: 0.5 * h * x.square().sum())
    report = lemma.report()
    assert report.ratio == pytest.approx(1 - rate * h / 2, rel=1e-9)
    assert report.smoothness == pytest.approx(h, rel=1e-6)
    assert report.verdict is verdict and report.steps == 5
    json.dumps(report.to_json(), allow_nan=False)


def test_nothing_to_compare() -> None:
    lemma = DescentLemma([nn.Parameter(torch.ones(2))])
    lemma.after(1.0)
    assert lemma.report().verdict is Descent.UNKNOWN


def test_pl_constant_of_a_quadratic_is_its_least_curvature() -> None:
    """|Hx|^2 >= 2 mu x'Hx/2 with mu the least eigenvalue; gradient descent ends along it, and contracts no faster than 1 - rate mu in f."""
    h = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    x, rate, monitor, gaps = torch.ones(3, dtype=torch.float64), 0.2, PolyakLojasiewicz(), []
    for _ in range(60):
        gaps.append(float(0.5 * (h * x * x).sum()))
        monitor.record(gaps[-1], float((h * x).square().sum()))
        x = x - rate * h * x
    report = monitor.report()
    assert report.constant == pytest.approx(0.5, rel=1e-3) and report.constant >= 0.5
    assert report.verdict is LinearRate.HOLDS
    factor = report.contraction(rate)
    assert factor is not None and all(b <= a * (factor + 1e-3) for a, b in pairwise(gaps))


def test_quartic_has_no_linear_rate() -> None:
    x, monitor = 1.0, PolyakLojasiewicz()
    for _ in range(2000):
        monitor.record(x**4, (4 * x**3) ** 2)
        x -= 0.05 * 4 * x**3
    assert monitor.report().verdict is LinearRate.WEAK
    assert PolyakLojasiewicz().report().verdict is LinearRate.UNKNOWN
    with pytest.raises(UsageError, match="finite"):
        PolyakLojasiewicz(float("nan"))


def test_abc_constants_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    for a, b, c in ((2.0, 1.5, 3.0), (0.0, 4.0, 0.0), (1.0, 1.0, 0.0)):
        monitor = ABCVariance(least=0.5)
        for square, gap in torch.rand(30, 2, generator=generator, dtype=torch.float64).tolist():
            monitor.record(a + b * square + c * gap, square, gap + 0.5)
        report = monitor.report()
        assert (report.a, report.b, report.c) == pytest.approx((a, b, c), abs=1e-8)
        assert report.slack == pytest.approx(1.0) and report.unexplained == pytest.approx(0.0, abs=1e-8)
        assert report.verdict is (Noise.BOUNDED if a else Noise.INTERPOLATION)
    assert ABCVariance().report().verdict is Noise.UNKNOWN


def test_least_squares_against_scipy() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        design, target = (
            torch.randn(12, 3, generator=generator, dtype=torch.float64),
            torch.randn(12, generator=generator, dtype=torch.float64),
        )
        expected, _ = nnls(design.numpy(), target.numpy())
        assert torch.allclose(nonnegative_least_squares(design, target), torch.from_numpy(expected), atol=1e-9)
