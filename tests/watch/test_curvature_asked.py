"""Curvature is measured where it is asked for, and the losses stay what they are."""

import torch
from torch import nn

import steepest
from steepest.probes.curvature import Curvature, CurvatureRecord
from steepest.watch import watching


def _train():
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_curvature_on_request(monkeypatch):
    plain = _train()
    with steepest.watch() as run:
        assert _train() == plain
    assert run.get(CurvatureRecord) is None
    # As often as it likes, so that a run this short is looked at.
    monkeypatch.setattr(watching, "curvature_probes", lambda: (Curvature(share=1.0),))
    with steepest.watch(curvature=True) as run:
        assert _train() == plain
    found = run.get(CurvatureRecord)
    assert found is not None and found.points
