"""Steps against the batch: the fit, a race against training by hand; warm-up; the extra that may be missing."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from steepest.errors import UsageError
from steepest.studies.critical_batch import fit, race
from steepest.studies.digits import Digits
from steepest.studies.large_batch import LargeBatch
from steepest.studies.replicas import orders
from steepest.studies.study import seeded


def test_the_fit_finds_what_made_the_steps():
    batches = (4, 16, 64, 256, 1280)
    found = fit(batches, [30.0 * (1 + 41.0 / b) for b in batches])
    assert found.critical == pytest.approx(41.0, rel=0.02)
    assert found.least == pytest.approx(30.0, rel=0.02)
    assert found.misfit < 0.01
    assert fit(batches, [100.0, 30.0, 100.0, 30.0, 100.0]).misfit > 0.4


def _make():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))


def test_a_race_is_training_until_the_loss_is_reached():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = Digits(x, (x[:, 0] > 0).long(), x, (x[:, 0] > 0).long())
    rates, seeds, target, limit = (0.001, 0.5, 1.0), (0, 1), 0.3, 80
    found = race(_make, data, 10, rates, seeds, target, limit)
    for k, seed in enumerate(seeds):
        best = math.inf
        for rate in rates:
            model = seeded(_make, seed)
            optimizer = torch.optim.SGD(model.parameters(), rate)
            for step, index in enumerate(orders([seed], 40, 10, limit)[0]):
                if functional.cross_entropy(model(data.x), data.y).item() <= target:
                    best = min(best, step)
                    break
                optimizer.zero_grad()
                functional.cross_entropy(model(data.x[index]), data.y[index]).backward()
                optimizer.step()
        # It looks after every 5 % of the steps: a step beyond twenty may be seen late.
        assert best <= found.steps[k] <= math.ceil(1.05 * best) + 1
        assert found.rates[k] in rates[1:]


def test_no_rate_arrives():
    x = torch.randn(20, 3)
    data = Digits(x, (x[:, 0] > 0).long(), x, (x[:, 0] > 0).long())
    assert race(_make, data, 10, (0.1,), (0, 1), 0.0, 4).steps == (math.inf, math.inf)


def test_warm_up_rises_to_the_rate_and_stays():
    study = LargeBatch(train=64, epochs=4, warm=0.25)
    assert study._ramp(16, True).tolist() == [0.25, 0.5, 0.75, *[1.0] * 13]
    assert study._ramp(16, False).tolist() == [1.0] * 16


def test_without_the_extra_it_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(UsageError, match=r"steepest\[optim\]"):
        LargeBatch().run()
