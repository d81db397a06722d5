"""Schedules: torch's own, where torch has them; every method's rate follows."""

import warnings

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, SequentialLR

from race_tasks import tiny
from steepest.optim.catalogue import catalogue
from steepest.race.schedule import SCHEDULES
from steepest.race.trial import Setting, run_trial

PEERS = {
    "warmup": lambda o, n: LinearLR(o, 1 / (n // 20), 1.0, n // 20 - 1),
    "step": lambda o, n: MultiStepLR(o, [n // 2, 3 * n // 4], 0.1),
    "cosine": lambda o, n: CosineAnnealingLR(o, n),
    "warmup-cosine": lambda o, n: SequentialLR(
        o, [LinearLR(o, 1 / (n // 20), 1.0, n // 20 - 1), CosineAnnealingLR(o, n - n // 20)], [n // 20]
    ),
    "one-cycle": lambda o, n: OneCycleLR(o, 2.0, n, cycle_momentum=False),
}


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize("name", PEERS)
def test_schedules_are_torchs(name, n):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with warnings.catch_warnings():
        # SequentialLR calls its schedulers in a way that torch itself warns of.
        warnings.simplefilter("ignore")
        peer = PEERS[name](optimizer, n)
        for k in range(n):
            assert 2.0 * SCHEDULES[name](k, n) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
            optimizer.step()
            if k < n - 1:
                peer.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_are_positive_and_at_most_one(name):
    for n in (1, 2, 3, 10, 37, 400):
        assert all(0.0 < SCHEDULES[name](k, n) <= 1.0 for k in range(n))


def _trial(method, schedule, steps=10, **point):
    return run_trial(Setting("tiny", "", None, method, tuple(point.items()), 3, steps, 1, schedule), tiny())


def test_the_rate_follows():
    """On |x|^2 / 2 without noise a step of plain descent scales x by 1 - rate."""
    task = tiny(loss=lambda model, batch: model.x.square().sum() / 2)
    trial = run_trial(Setting("tiny", "", None, "sgd", (("lr", 0.5),), 3, 10, 1, "step"), task)
    shares = [(b.value / a.value) ** 0.5 for a, b in zip(trial.evaluations, trial.evaluations[1:], strict=False)]
    assert shares == pytest.approx([0.5] * 5 + [0.95] * 3 + [0.995] * 2, rel=1e-9)


def test_a_method_of_two_gradients_a_step_has_the_schedule_of_its_gradients():
    if not catalogue()["sam"].available:
        pytest.skip("needs pytorch_optimizer")
    task = tiny(loss=lambda model, batch: model.x.square().sum() / 2)
    point = (("lr", 0.5), ("momentum", 0.0), ("rho", 1e-9))
    trial = run_trial(Setting("tiny", "", None, "sam", point, 3, 16, 2, "step"), task)
    shares = [(b.value / a.value) ** 0.5 for a, b in zip(trial.evaluations, trial.evaluations[1:], strict=False)]
    assert shares == pytest.approx([0.5] * 4 + [0.95] * 2 + [0.995] * 2, rel=1e-6)


@pytest.mark.parametrize("method", ["sgd", "adam", "lbfgs"])
def test_constant_changes_nothing(method):
    assert [e.value for e in _trial(method, "constant", lr=0.1).evaluations] == [
        e.value for e in run_trial(Setting("tiny", "", None, method, (("lr", 0.1),), 3, 10, 1), tiny()).evaluations
    ]
    if method != "lbfgs":
        assert _trial(method, "cosine", lr=0.1).final != _trial(method, "constant", lr=0.1).final
