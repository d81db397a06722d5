"""The theories asked of watched runs, against what is known of the runs."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import steepest
from steepest.measures.stability import Stability
from steepest.monitors import DescentLemma, PolyakLojasiewicz
from steepest.monitors.abc_variance import Noise
from steepest.monitors.deep_linear import DeepLinear
from steepest.monitors.ntk_rate import KernelRate
from steepest.monitors.observed import (
    AdamTypeRecord,
    DeepLinearRecord,
    DescentProbe,
    DescentRecord,
    GradientPathProbe,
    GradientPathRecord,
    KernelRecord,
)
from steepest.monitors.polyak_lojasiewicz import LinearRate
from steepest.probes.curvature import CurvatureRecord
from steepest.report.convergence import statements
from steepest.watch.schedule import Schedule


class Drift(nn.Module):
    """Its mean output has the gradient w + mean of z."""

    def __init__(self, start: Tensor, level: float) -> None:
        super().__init__()
        self.level = level
        self.w = nn.Parameter(start.clone())

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.w + 0.5 * self.w.square().sum() + self.level


def _drift(batch: int, deviation: float, steps: int, probe: GradientPathProbe | None = None, level: float = 10.0) -> GradientPathRecord:
    generator = torch.Generator().manual_seed(0)
    net = Drift(torch.ones(40, dtype=torch.float64), level)
    with steepest.watch(None if probe is None else [probe]) as run:
        optimizer = SGD(net.parameters(), 0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            net(deviation * torch.randn(batch, 40, generator=generator, dtype=torch.float64)).mean().backward()
            optimizer.step()
    record = run.get(GradientPathRecord)
    assert record is not None, run.notes
    json.dumps(record.to_json(), allow_nan=False)
    return record


def test_noise_and_gradient_are_told_apart() -> None:
    """|grad f|^2 = 40 and the trace of the covariance of a sample is 40 s^2, so that the noise scale is s^2."""
    report = _drift(batch=8, deviation=4.0, steps=400).reports[0]
    assert report.batch == 8 and not report.repeated and report.noise is not None and report.sketch == 1.0
    assert report.noise.low < 16.0 < report.noise.high and report.noise.high / report.noise.low < 3.0
    assert abs(report.squared_gradient - 40.0) < 5 * report.squared_error
    # The loss is about 10 + 20.
    assert report.path is not None and report.path.constant == pytest.approx(40.0 / 2 / 30.0, rel=0.3)
    assert report.variance is not None and report.variance.verdict is Noise.BOUNDED
    assert report.lost_from is None


def test_a_gradient_lost_in_its_noise_is_said_to_be() -> None:
    """Squared gradient 40, noise of 40 x 10,000 / 4: the standard error of 50 pairs is about 80 times the signal."""
    report = _drift(batch=4, deviation=100.0, steps=300, level=1e4).reports[0]
    assert report.lost_from is not None and report.path is not None and report.path.points < 3
    assert report.noise is not None and (math.isinf(report.noise.high) or report.noise.high > 1000)


def test_a_sketch_estimates_the_same() -> None:
    full = _drift(8, 4.0, 300, GradientPathProbe()).reports[0]
    part = _drift(8, 4.0, 300, GradientPathProbe(coordinates=20)).reports[0]
    assert part.sketch < 0.6 and part.squared_gradient == pytest.approx(full.squared_gradient, rel=0.5)


def _regression(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def _data(n: int = 32, d: int = 4, o: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, x @ torch.randn(d, o, generator=generator, dtype=torch.float64)


def test_one_batch_again_and_again_has_no_noise() -> None:
    """The constant is that of the monitor fed with every point; at the edge, where gradients change sign, products would be negative."""
    x, y = _data()
    sharpness = 2 * float(torch.linalg.eigvalsh(x.T @ x)[-1]) / len(x)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    monitor = PolyakLojasiewicz()
    with steepest.watch() as run:
        optimizer = SGD(model.parameters(), 1.9 / sharpness)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            assert model.weight.grad is not None
            monitor.record(loss.item(), float(model.weight.grad.square().sum()))
            optimizer.step()
    record = run.get(GradientPathRecord)
    assert record is not None
    report = record.reports[0]
    assert report.repeated and report.noise is None and report.variance is None
    assert report.path is not None and report.path.verdict is LinearRate.HOLDS
    constant = monitor.report().constant
    assert constant is not None and report.path.constant == pytest.approx(constant, rel=0.1)


def test_losses_below_zero_have_no_constant() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    with steepest.watch() as run:
        optimizer = SGD([x], 0.01)
        for _ in range(100):
            optimizer.zero_grad()
            (x.square().sum() - 5.0).backward()
            optimizer.step()
    record = run.get(GradientPathRecord)
    assert record is not None and record.reports[0].path is None
    assert not [s for s in statements({"GradientPathRecord": record.to_json()}) if "Polyak" in s.title]


def test_descent_is_measured_on_the_batch_itself() -> None:
    """Against the lemma fed by hand in every step."""
    x, y = _data()
    plain = nn.Linear(4, 1, dtype=torch.float64)
    watched = nn.Linear(4, 1, dtype=torch.float64)
    watched.load_state_dict(plain.state_dict())
    optimizer = SGD(plain.parameters(), 0.1)
    lemma = DescentLemma(plain.parameters())
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(plain(x), y)
        loss.backward()
        lemma.before(loss)
        optimizer.step()
        lemma.after(lambda: nn.functional.mse_loss(plain(x), y))
    with steepest.watch([DescentProbe(share=1e9)], schedule=Schedule(spread=100, budget=1e9)) as run:
        _regression(watched, SGD(watched.parameters(), 0.1), x, y, 40)
    record = run.get(DescentRecord)
    assert record is not None, run.notes
    # The first window is not measured, and the report is about the second half of the others.
    expected = torch.tensor(lemma.ratios[1:][39 // 2 :], dtype=torch.float64)
    assert record.report.steps == len(expected) and record.report.ratio == pytest.approx(float(expected.median()), rel=0.05)
    assert record.report.low == pytest.approx(float(expected.quantile(0.25)), rel=1e-6)
    assert record.method == "SGD" and record.rate == 0.1
    json.dumps(record.to_json(), allow_nan=False)


def test_asking_changes_no_bit_and_no_buffer() -> None:
    def train(watch: bool) -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(0)
        x, y = torch.randn(64, 6), torch.randn(64, 1)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = Adam(model.parameters(), 0.01)
        if not watch:
            return _regression(model, optimizer, x, y, 60), model.state_dict()
        with steepest.watch([DescentProbe(share=1e9), GradientPathProbe()], schedule=Schedule(spread=100, budget=1e9)) as run:
            values = _regression(model, optimizer, x, y, 60)
        assert run.get(DescentRecord) is not None, run.notes
        return values, model.state_dict()

    (plain, before), (watched, after) = train(False), train(True)
    assert plain == watched and all(torch.equal(before[k], after[k]) for k in before)


def test_dropout_refuses_the_descent_lemma() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randn(64, 1)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(), nn.Linear(16, 1))
    with steepest.watch([DescentProbe(share=1e9)]) as run:
        _regression(model, SGD(model.parameters(), 0.01), x, y, 20)
    assert run.get(DescentRecord) is None and any("dropout" in n for n in run.notes)


def test_the_kernel_attaches_to_a_wide_two_layer_network() -> None:
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(8, 10, dtype=torch.float64))
    y = torch.randn(8, 1, dtype=torch.float64)
    first, second = nn.Linear(10, 2000, bias=False, dtype=torch.float64), nn.Linear(2000, 1, bias=False, dtype=torch.float64)
    model = nn.Sequential(first, nn.ReLU(), second)
    with torch.no_grad():
        first.weight.normal_()
        second.weight.copy_(second.weight.sign() / math.sqrt(2000))
    second.requires_grad_(False)
    with steepest.watch() as run:
        values = _regression(model, SGD([first.weight], 2.0), x, y, 60)
    record = run.get(KernelRecord)
    assert record is not None, run.notes
    report = record.report
    assert (record.width, record.samples, record.assumptions) == (2000, 8, ())
    # The mean over 8 samples has a quarter of the gradient of the sum of halves.
    assert report.predicted == pytest.approx(1.0 - 0.5 * 0.5 * report.eigenvalue)
    assert report.measured == pytest.approx((values[-1] / values[0]) ** (1 / 59)) and report.verdict is KernelRate.AS_PREDICTED
    assert report.at_weights == pytest.approx(report.eigenvalue, rel=0.5)


def test_the_kernel_says_what_is_not_kept() -> None:
    torch.manual_seed(0)
    x, y = _data(n=6, d=5)
    model = nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 1)).double()
    with steepest.watch() as run:
        _regression(model, SGD(model.parameters(), 0.01), x, y, 20)
    record = run.get(KernelRecord)
    assert record is not None
    assert [a.split()[0] + " " + a.split()[1] for a in record.assumptions] == [
        "the first",
        "inputs are",
        "the second",
        "output weights",
    ]


@pytest.mark.parametrize("kind", ["tanh", "adam", "momentum", "batches"])
def test_special_theories_leave_other_runs_alone(kind: str) -> None:
    torch.manual_seed(0)
    x, y = _data(n=6, d=5)
    model = nn.Sequential(nn.Linear(5, 10), nn.Tanh() if kind == "tanh" else nn.ReLU(), nn.Linear(10, 1)).double()
    optimizer = Adam(model.parameters()) if kind == "adam" else SGD(model.parameters(), 0.01, momentum=0.9 * (kind == "momentum"))
    with steepest.watch() as run:
        for step in range(6):
            _regression(model, optimizer, x + step * (kind == "batches"), y, 1)
    assert run.get(KernelRecord) is None and run.get(DeepLinearRecord) is None


def test_deep_linear_networks_are_recognised() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(50, 3, generator=generator, dtype=torch.float64)).Q * math.sqrt(50.0 * 2.0)
    y = x + 0.1 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    layers = [nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(3)]
    for layer in layers:
        layer.weight.data = torch.eye(3, dtype=torch.float64) * 0.8 ** (1 / 3)
    model = nn.Sequential(*layers)
    with steepest.watch() as run:
        _regression(model, SGD(model.parameters(), 0.02), x, y, 40)
    record = run.get(DeepLinearRecord)
    assert record is not None and record.depth == 3 and record.assumptions == (), run.notes
    report = record.report
    assert report is not None and report.verdict is DeepLinear.LARGE_RATE
    assert report.predicted is not None and report.measured is not None and report.measured <= report.predicted < 1.0
    with steepest.watch() as run:
        _regression(model, SGD(model.parameters(), 0.02), x * torch.tensor([1.0, 2.0, 3.0]), y, 10)
    record = run.get(DeepLinearRecord)
    assert record is not None and record.report is None and record.assumptions == ("the inputs are not whitened",)
    for s in statements({"DeepLinearRecord": record.to_json()}):
        assert s.verdict == "the theorem does not apply"


def test_convergence_on_request_asks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.probes.curvature import Curvature
    from steepest.watch import watching

    monkeypatch.setattr(watching, "dear_probes", lambda: (DescentProbe(share=1e9),))
    monkeypatch.setattr(watching, "curvature_probes", lambda: (Curvature(share=1e9),))
    torch.manual_seed(0)
    x, y = _data(n=64)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with steepest.watch(convergence=True) as run:
        optimizer = Adam(model.parameters(), 0.01)
        for step in range(300):
            rows = torch.arange(16) + 16 * (step % 4)
            _regression(model, optimizer, x[rows], y[rows], 1)
    for kind in (AdamTypeRecord, GradientPathRecord, DescentRecord, CurvatureRecord):
        assert run.get(kind) is not None, (kind, run.notes)
    found = statements({type(r).__name__: json.loads(json.dumps(r.to_json())) for r in run.measurements()})
    titles = [s.title for s in found]
    assert titles[:3] == ["Theorem for Adam-type methods, Adam", "Descent lemma, Adam", "Edge of stability"]
    assert "Polyak-Lojasiewicz inequality" in titles and "Gradient noise scale" in titles
    assert found[2].verdict in {s.value for s in Stability}
    assert found[0].rows and found[0].assumptions and found[0].exponents
