"""The probes of curvature, noise and skips inside a run: they see what is there, and the run does not see them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import steepest
from steepest.measures.budget import Budget
from steepest.measures.hessian import hessian_eigenvalues
from steepest.measures.stability import Stability
from steepest.probes.curvature import Curvature, CurvatureRecord
from steepest.probes.noise import GradientNoise, NoiseRecord
from steepest.probes.skips import SkipRecord, Skips
from steepest.watch.schedule import Schedule


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.into, self.out = nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return x + 0.5 * self.out(F.relu(self.into(self.norm(x)), inplace=True))


def train(optimizer, probes=None, steps=40, model=None, batch=32):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(10, 16), Residual(), nn.Dropout(0.1), nn.Linear(16, 4))
    x = torch.randn(256, 10)
    y = x[:, :4].argmax(1)
    stepper = optimizer(model.parameters())
    losses = []

    def loop():
        for _ in range(steps):
            rows = torch.randint(0, 256, (batch,))
            stepper.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            stepper.step()
            losses.append(loss.item())

    if probes is None:
        loop()
        return losses, None
    with steepest.watch(probes=probes, schedule=Schedule(budget=1e9)) as run:
        loop()
    return losses, run


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_run_is_the_same_to_the_last_bit(name):
    expected, _ = train(OPTIMIZERS[name])
    losses, run = train(OPTIMIZERS[name], (Curvature(share=1e9), GradientNoise(share=1e9), Skips(share=1e9)))
    assert losses == expected and run.notes == ()
    curvature, noise, skips = run.get(CurvatureRecord), run.get(NoiseRecord), run.get(SkipRecord)
    assert len(curvature.points) > 10 and any(p.ratio is not None for p in curvature.points)
    assert noise.batch == 32 and noise.late.trace > 0.0
    assert [j.module for j in skips.last] == ["1"] and 0.0 < skips.last[0].ratio < 2.0


def test_the_value_is_the_eigenvalue():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))
    _, run = train(lambda p: torch.optim.SGD(p, 0.0), (Curvature(share=1e9, products=60, tolerance=1e-4),), 6, model, 256)
    point = run.get(CurvatureRecord).points[-1]
    # The same seed draws the same rows; the rate is zero, so that the model is what it was.
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    y = x[:, :4].argmax(1)
    rows = [torch.randint(0, 256, (256,)) for _ in range(6)][point.step]
    true = hessian_eigenvalues(model, F.cross_entropy, (x[rows], y[rows]), tolerance=1e-5).values.item()
    assert point.sharpness == pytest.approx(true, rel=1e-3) and point.ratio == 0.0


def test_a_rate_far_too_high_is_unstable():
    model = nn.Sequential(nn.Linear(10, 4))
    data = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    stepper = torch.optim.SGD(model.parameters(), 3.0)
    with steepest.watch(probes=(Curvature(share=1e9),), schedule=Schedule(budget=1e9)) as run:
        for _ in range(12):
            stepper.zero_grad()
            (model(data) - data[:, :4]).square().mean().mul(4).backward()
            stepper.step()
    record = run.get(CurvatureRecord)
    assert record.stability is Stability.UNSTABLE and record.points[0].ratio > 1.0


def test_hooks_of_the_script_are_left_alone():
    calls = []
    model = nn.Sequential(nn.Linear(10, 4))
    model[0].weight.register_hook(lambda g: calls.append(1))
    _, run = train(OPTIMIZERS["sgd"], (Curvature(share=1e9), GradientNoise(share=1e9)), 5, model)
    assert len(calls) == 5 and run.get(CurvatureRecord) is None
    assert any("backward hooks" in note for note in run.notes)


def test_the_budget():
    budget = Budget(0.5, windows=1.0)
    assert not budget.allows()
    budget.tick()
    assert not budget.allows()
    budget.begun -= 10.0
    for _ in range(10):
        budget.tick()
    assert budget.allows()
    budget.spent = budget.dearest = 4.0
    assert not budget.allows()
