"""Torch is left as it was; nothing of the script is kept alive; one watch at a time."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader

import steepest
import trainings
from nosy import Nosy
from steepest.errors import UsageError
from steepest.watch.hooks import CRITERIA
from steepest.watch.observer import OTHER_THREADS


def surface():
    tables = {n: dict(getattr(modules, n)) for n in dir(modules) if n.startswith("_global_") and isinstance(getattr(modules, n), dict)}
    steps = (dict(optimizers._global_optimizer_pre_hooks), dict(optimizers._global_optimizer_post_hooks))
    functions = [getattr(F, n) for n in CRITERIA]
    methods = [vars(torch.Tensor).get(n) for n in ("__eq__", "__ne__", "__sub__", "eq")]
    others = [torch.eq, torch.compile, torch.autograd.backward, torch.autograd.grad, modules._has_any_global_hook]
    classes = [vars(torch.optim.Optimizer)["__init__"], vars(torch.amp.GradScaler)["scale"], vars(DataLoader)["__iter__"]]
    return tables, steps, functions, methods, others, classes


@pytest.mark.parametrize("fails", [False, True])
def test_all_hooks_are_removed(fails):
    before = surface()
    try:
        with steepest.watch([Nosy()]):
            assert surface() != before
            trainings.plain(steps=3)
            if fails:
                raise KeyError("the block's own")
    except KeyError:
        assert fails
    assert surface() == before
    assert not hasattr(torch.Tensor([1.0]).__eq__, "__wrapped__")


def test_nested_watches_are_refused_and_the_outer_goes_on():
    with steepest.watch() as run:
        with pytest.raises(UsageError, match="watched already"), steepest.watch():
            pass
        trainings.plain(steps=3)
    assert run.steps == 3
    with steepest.watch() as again:
        trainings.plain(steps=2)
    assert again.steps == 2


def test_nothing_is_kept_alive():
    kept = []

    class Listening(Nosy):
        def on_module(self, event):
            kept.extend(weakref.ref(t) for t in (event.output, *event.args))

        def before_backward(self, event):
            kept.append(weakref.ref(event.loss))

    with steepest.watch([Listening()]) as run:
        trainings.plain(steps=5)
        gc.collect()
        assert kept and all(ref() is None for ref in kept)
        assert run.models == [] and run.optimizers == []


def test_a_module_that_raises_does_not_confuse_what_is_outermost():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("on purpose")

    net = nn.Sequential(nn.Linear(6, 6), Failing())
    sound = nn.Linear(6, 3)
    probe = Nosy()
    with steepest.watch([probe]) as run:
        with pytest.raises(ValueError, match="on purpose"):
            net(torch.randn(4, 6))
        sound(torch.randn(4, 6))
    assert run.notes == ()
    assert [f["name"] for f in probe.of("forward")] == ["Linear"]


def test_other_threads_are_seen():
    with steepest.watch([Nosy()]) as run:
        thread = threading.Thread(target=trainings.plain)
        thread.start()
        thread.join()
    assert run.steps == 30


def test_of_threads_that_train_at_once_one_is_seen():
    probe, met = Nosy(), threading.Barrier(2)

    def train():
        net = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(5):
            met.wait()
            net(torch.ones(4, 3)).square().mean().backward()
            met.wait()
            optimizer.step()
        met.wait()

    with steepest.watch([probe]) as run:
        workers = [threading.Thread(target=train) for _ in range(2)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    assert run.steps == 5 and len(probe.of("backward")) == 5
    assert run.notes == (OTHER_THREADS,)


def test_a_thread_that_trains_is_seen_beside_one_that_only_calls_models():
    with steepest.watch([Nosy()]) as run:
        torch.nn.Linear(2, 2)(torch.ones(1, 2))
        thread = threading.Thread(target=trainings.plain)
        thread.start()
        thread.join()
        trainings.plain()
    assert run.steps == 60 and run.notes == ()


def test_workers_of_a_loader():
    alone = trainings.seeded(lambda: trainings.loaders(workers=1))
    probe = Nosy()
    with steepest.watch([probe]) as run:
        observed = trainings.seeded(lambda: trainings.loaders(workers=1))
    assert all(torch.equal(a, b) for a, b in zip(alone, observed, strict=True))
    assert run.notes == () and len(probe.of("epoch")) == 3


@pytest.mark.parametrize("form", ["module", "method", "function"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_compute_the_same_and_a_note_says_what_is_hidden(form):
    def train():
        torch._dynamo.reset()
        x, y = trainings.data()
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        model, losses = net, []
        if form == "module":
            model = torch.compile(net, backend="aot_eager", fullgraph=True)
        if form == "method":
            net.compile(backend="aot_eager")

        def loss_of(x, y):
            return F.cross_entropy(model(x), y)

        if form == "function":
            loss_of = torch.compile(loss_of, backend="aot_eager", fullgraph=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return trainings.everything(losses, net)

    alone = trainings.seeded(train)
    probe = Nosy()
    with steepest.watch([probe]) as run:
        observed = trainings.seeded(train)
    assert all(torch.equal(a, b) for a, b in zip(alone, observed, strict=True))
    assert run.steps == 5 and len(run.losses) == 5
    assert len(run.notes) == 1 and run.notes[0].startswith("torch.compile was used")
    alone_again = trainings.seeded(train)
    assert all(torch.equal(a, b) for a, b in zip(alone, alone_again, strict=True))
