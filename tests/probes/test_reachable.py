"""The reference by kernels against ridge regressions that are really fitted without each sample."""

from __future__ import annotations

import torch
from torch import nn

import steepest
from steepest.probes import reachable as module
from steepest.probes.reachable import bags, reachable


def test_left_out_as_by_refitting(monkeypatch):
    torch.manual_seed(0)
    n, ridge = 25, 0.1
    x = torch.randn(n, 3, dtype=torch.float64)
    y = 2 * x[:, :1] + 0.3 * torch.randn(n, 1, dtype=torch.float64) + 5
    kernel = torch.exp(-torch.cdist(x, x).square() / 3)
    predicted = []
    for i in range(n):
        k = [j for j in range(n) if j != i]
        # min |y - K a - b|^2 + r a'K a with a free b: (K + r I) a + b = y, sum a = 0
        system = torch.zeros(n, n, dtype=torch.float64)
        system[: n - 1, : n - 1] = kernel[k][:, k] + ridge * n**0.5 * torch.eye(n - 1)
        system[: n - 1, n - 1] = system[n - 1, : n - 1] = 1
        a = torch.linalg.solve(system, torch.cat([y[k], torch.zeros(1, 1, dtype=torch.float64)]))
        predicted.append(float(kernel[i, k] @ a[: n - 1, 0] + a[n - 1, 0]))
    spread = float((y - y.mean()).square().mean())
    expected = 1 - float((torch.tensor(predicted, dtype=torch.float64)[:, None] - y).square().mean()) / spread
    monkeypatch.setattr(module, "RIDGES", (ridge,))
    _, explained = module._best(kernel, y - y.mean(), None, spread)
    assert abs(explained - expected) < 1e-6


def test_noise_has_no_skill_though_features_abound():
    torch.manual_seed(1)
    x = torch.randn(120, 400, dtype=torch.float64)
    regression = reachable(x, torch.randn(120, 1))
    classes = reachable(x, torch.randint(0, 4, (120, 1)))
    assert regression is not None and regression.explained < 0.1
    assert classes is not None and classes.accuracy < 0.45 and classes.explained < 0.1


def test_what_can_be_learnt_is_learnt():
    torch.manual_seed(2)
    x = torch.randn(300, 2, dtype=torch.float64)
    ring = reachable(x, (x.square().sum(1, keepdim=True) > 1.4).long())
    line = reachable(x, x[:, :1] * 1000 + 7)
    assert ring is not None and ring.classes == 2 and ring.accuracy > 0.93 and ring.linear < 0.7
    assert line is not None and line.classes == 0 and line.explained > 0.99


def test_bags_count_each_index():
    counts = bags(torch.tensor([[0, 2, 2], [1, 1, 2]]))
    assert counts.shape == (2, 3)
    assert counts[0, 1] == 0 and counts[1, 1] > 0
    assert abs(float(counts[0, 2] / counts[1, 2]) - 2) < 1e-9


def test_a_reconstruction_has_no_reference():
    """A kernel method that is shown the answer says nothing of an autoencoder."""
    torch.manual_seed(3)
    x = torch.randn(300, 6)
    for target, known in ((x, False), (x[:, :2] @ torch.randn(2, 6), True)):
        model = nn.Linear(6, 6)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with steepest.watch(probes=(module.ReachableProbe(),)) as run:
            for part in torch.arange(300).split(30):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x[part]), target[part]).backward()
                optimizer.step()
        assert (run.get(module.Reachable) is not None) == known
