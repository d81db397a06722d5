"""What the probes are told: each event against what the training is known to do."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import steepest
import trainings
from nosy import Nosy
from steepest.probes import Probe
from steepest.watch import Schedule
from steepest.watch.observer import Observer

ALWAYS = Schedule(spread=10**6, budget=10**6)


def watched(training, schedule=ALWAYS):
    probe = Nosy()
    with steepest.watch([probe], schedule=schedule) as run:
        training()
    assert run.notes == ()
    return run, probe


def test_a_plain_run():
    run, probe = watched(lambda: trainings.plain(steps=10))
    assert run.steps == run.backwards == len(run.losses) == 10
    assert [p.optimizer for p in run.losses] == [0] * 10 and [p.weight for p in run.losses] == [16] * 10
    forwards = probe.of("forward")
    assert [f["grad"] for f in forwards] == [True] * 10 + [False]
    assert [f["training"] for f in forwards] == [True] * 10 + [False]
    first = [m for m in probe.of("module") if m["step"] == 0]
    assert [m["name"] for m in first] == [f"Sequential.{k}" for k in range(4)] + ["Sequential"]
    assert [m["depth"] for m in first] == [1, 1, 1, 1, 0] and [m["leaf"] for m in first] == [True] * 4 + [False]
    assert [m["order"] for m in first] == [0, 1, 2, 3, 4]
    gradients = [g for g in probe.of("module_gradient") if g["step"] == 0]
    assert sorted(g["order"] for g in gradients) == [0, 1, 2, 3, 4]
    criteria = probe.of("criterion")
    assert {c["name"] for c in criteria} == {"cross_entropy"} and all(c["on_output"] and c["grad"] for c in criteria)
    assert [c["value"] for c in criteria] == [p.value for p in run.losses]
    assert [s["cleared"] for s in probe.of("after_step")] == [None] + [True] * 9
    assert all(s["backwards"] == 1 and s["rates"] == (0.1,) for s in probe.of("after_step"))
    (comparison,) = probe.of("comparison")
    assert comparison["name"] == "eq" and not comparison["grad"] and 0 <= comparison["mean"] <= 1
    assert probe.of("optimizer") == ["SGD"]


@pytest.mark.parametrize(
    ("name", "loss"),
    {
        "cross_entropy": lambda o, x, y: F.cross_entropy(o, y) / 2,
        "log_probability": lambda o, x, y: -o.log_softmax(1)[torch.arange(len(o)), y].mean(),
        "nll_loss": lambda o, x, y: nn.NLLLoss()(o.softmax(1).log(), y),
    }.items(),
)
def test_terms_of_classifiers(name, loss):
    x, y = trainings.data()
    net = nn.Linear(6, 3)
    _, probe = watched(lambda: loss(net(x), x, y).backward())
    ((found, _path, target),) = probe.of("terms")[0]["terms"]
    assert found == name and torch.equal(target, y)


@pytest.mark.parametrize(
    ("name", "loss"),
    {
        "mse_loss": lambda o, t: F.mse_loss(o, t),
        "squared_error": lambda o, t: ((t - o) ** 2).mean(),
        "squared_error ": lambda o, t: (o.squeeze(1) - t.squeeze(1)).square().sum(),
        "absolute_error": lambda o, t: (o - t).abs().mean(),
        "smooth_l1_loss": lambda o, t: nn.SmoothL1Loss()(o, t),
        "binary_cross_entropy_with_logits": lambda o, t: F.binary_cross_entropy_with_logits(o, t),
    }.items(),
)
def test_terms_of_regressions(name, loss):
    x, t = torch.randn(20, 6), torch.rand(20, 1)
    net = nn.Linear(6, 1)
    _, probe = watched(lambda: loss(net(x), t).backward())
    ((found, _path, target),) = probe.of("terms")[0]["terms"]
    assert found == name.strip()
    torch.testing.assert_close(target.reshape(20), t.reshape(20))


def test_a_broadcast_shows_in_shapes_and_the_warning_points_at_the_script():
    net = nn.Linear(6, 1)
    x, t = torch.randn(20, 6), torch.rand(20)
    with pytest.warns(UserWarning, match="different to the input size") as caught:
        _, probe = watched(lambda: F.mse_loss(net(x), t).backward())
    assert caught[0].filename == __file__
    (criterion,) = probe.of("criterion")
    assert criterion["input_shape"] == (20, 1) and criterion["target_shape"] == (20,)


def test_gradients_that_are_never_cleared():
    def train(clear_at):
        x, y = trainings.data()
        net = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for step in range(6):
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            if step == clear_at:
                optimizer.zero_grad(set_to_none=False)

    _, probe = watched(lambda: train(None))
    assert [s["cleared"] for s in probe.of("after_step")] == [None] + [False] * 5
    assert [s["backwards"] for s in probe.of("after_step")] == [1, 2, 3, 4, 5, 6]
    _, probe = watched(lambda: train(2))
    assert [s["cleared"] for s in probe.of("before_step")] == [None, False, False, True, False, False]
    assert [s["backwards"] for s in probe.of("before_step")] == [1, 2, 3, 1, 2, 3]


def test_micro_batches_are_counted():
    run, probe = watched(trainings.accumulation)
    assert run.steps == 6 and run.backwards == 24
    assert [s["backwards"] for s in probe.of("after_step")] == [4] * 6
    assert [s["cleared"] for s in probe.of("after_step")] == [None] + [True] * 5
    assert [b["number"] for b in probe.of("backward")] == [0, 1, 2, 3] * 6
    assert [len(s["losses"]) for s in probe.of("after_step")] == [4] * 6


def test_two_optimizers_clear_their_own_gradients():
    run, probe = watched(trainings.gan)
    steps = probe.of("after_step")
    assert [s["index"] for s in steps] == [1, 0] * 10 and run.steps == 20
    assert all(s["cleared"] for s in steps[2:])
    assert [p.optimizer for p in run.losses] == [1, 0] * 10
    assert {f["name"] for f in probe.of("forward")} == {"Sequential", "Sequential#2"}


def test_closures():
    run, probe = watched(trainings.closure)
    assert run.steps == 4 and run.backwards > 8
    assert [s["cleared"] for s in probe.of("after_step")] == [None, True, True, True]
    assert [s["cleared"] for s in probe.of("before_step")] == [None] * 4
    assert all(len(s["losses"]) > 1 for s in probe.of("after_step"))


def test_scaled_losses_are_told_unscaled():
    run, probe = watched(trainings.amp)
    assert all(0 < p.value < 5 for p in run.losses)
    assert all(b["scale"] == 1024.0 for b in probe.of("backward"))
    assert all(g["norm"] < 50 for g in probe.of("module_gradient"))


def test_updates_by_hand_are_steps():
    run, probe = watched(trainings.by_hand)
    assert run.by_hand and run.steps == 9
    assert all(s["by_hand"] for s in probe.of("after_step"))


def test_loaders():
    x, y = trainings.data()

    def read():
        for shuffle in (True, False):
            loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=shuffle)
            for _ in range(2):
                list(loader)

    _, probe = watched(read)
    assert [(e["number"], e["batches"], e["size"], e["shuffled"]) for e in probe.of("epoch")] == [
        (0, 3, 16, True),
        (1, 3, 16, True),
        (0, 3, 16, False),
        (1, 3, 16, False),
    ]


def test_evaluation_is_seen():
    x, y = trainings.data()
    net = nn.Linear(6, 3)

    def evaluate():
        with torch.no_grad():
            F.cross_entropy(net(x), y)
            (net(x).argmax(1) != y).float().mean()
            (net(x)[:, 0] - y).square().mean()
        (net(x).argmax(1) == y).sum()

    _, probe = watched(evaluate)
    (criterion,) = probe.of("criterion")
    assert not criterion["grad"] and criterion["on_output"]
    assert [c["name"] for c in probe.of("comparison")] == ["ne", "sub", "eq"]
    assert [c["grad"] for c in probe.of("comparison")] == [False, False, True]


def test_the_schedule_thins_out():
    run, probe = watched(lambda: trainings.plain(steps=200), Schedule(budget=10**6))
    sampled = [s["step"] for s in probe.of("after_step") if s["sampled"]]
    assert sampled[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15]
    assert 20 <= len(sampled) <= 30
    assert {m["step"] for m in probe.of("module")} <= set(sampled) | {run.steps}
    assert [s["step"] for s in probe.of("after_step")] == list(range(200))


def test_every_samples_fewer_windows():
    probe, sparse = Nosy(), Nosy()
    sparse.every = 4
    with steepest.watch([probe, sparse], schedule=ALWAYS):
        trainings.plain(steps=12)
    assert sorted({m["step"] for m in sparse.of("module")}) == [0, 4, 8, 12]
    assert [s["sampled"] for s in sparse.of("after_step")] == [True, False, False, False] * 3


def test_a_probe_too_slow_is_asked_less():
    class Slow(Nosy):
        def on_module(self, event):
            super().on_module(event)
            sum(range(20_000))

    probe = Slow()
    with steepest.watch([probe]):
        trainings.plain(steps=300)
    assert len({m["step"] for m in probe.of("module")}) < 20


@pytest.mark.parametrize("method", ["start", "on_forward", "on_module", "before_backward", "on_module_gradient", "after_step", "finish"])
def test_a_probe_that_raises_is_dropped(method):
    def fail(self, *args):
        raise ValueError("on purpose")

    broken = type("Broken", (Probe,), {method: fail})()
    other = Nosy()
    alone = trainings.seeded(trainings.plain)
    with steepest.watch([broken, other]) as run:
        observed = trainings.seeded(trainings.plain)
    assert all(torch.equal(a, b) for a, b in zip(alone, observed, strict=True))
    assert run.notes == (f"the probe Broken was dropped: {method} raised ValueError: on purpose",)
    assert len(other.of("after_step")) == 30


def test_an_observer_that_fails_goes_blind(monkeypatch):
    def fail(*args):
        raise ValueError("on purpose")

    monkeypatch.setattr(Observer, "_begin_backward", fail)
    alone = trainings.seeded(trainings.plain)
    with steepest.watch([Nosy()]) as run:
        observed = trainings.seeded(trainings.plain)
    assert all(torch.equal(a, b) for a, b in zip(alone, observed, strict=True))
    assert run.notes == ("the observer stopped watching after step 0: ValueError: on purpose",)
