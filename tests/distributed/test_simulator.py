"""The simulator against serial training, against slow references, and against itself."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import distributed_cases as tasks
from steepest.distributed import (
    EASGD,
    BackupWorkers,
    Constant,
    DelayCompensated,
    Downpour,
    Exponential,
    Geometric,
    Heterogeneous,
    Hogwild,
    LocalSGD,
    Stragglers,
    SynchronousEASGD,
    Uniform,
    delay,
    delayed_descent,
    simulate,
)
from steepest.distributed.flat import gather
from steepest.errors import UsageError

WAYS = {
    "downpour": (Downpour(tasks.sgd), None),
    "downpour, rare exchanges": (Downpour(tasks.adagrad, push=2, fetch=3), tasks.sgd),
    "compensated": (DelayCompensated(tasks.sgd, strength=0.5), None),
    "compensated, adaptive": (DelayCompensated(tasks.sgd, strength=0.5, momentum=0.9), None),
    "elastic": (EASGD(0.2, tau=2), tasks.sgd),
    "synchronous elastic": (SynchronousEASGD(0.1, 0.5, tau=2), tasks.sgd),
    "local": (LocalSGD(3), tasks.sgd),
    "backup": (BackupWorkers(tasks.sgd, 2), None),
    "hogwild": (Hogwild(0.1, 3), None),
}
ways = pytest.mark.parametrize("way", WAYS)


@pytest.mark.parametrize(
    "method, optimizer, reference",
    [
        (Downpour(tasks.sgd), None, tasks.sgd),
        (Downpour(tasks.adagrad), None, tasks.adagrad),
        (DelayCompensated(tasks.sgd, strength=3.0), None, tasks.sgd),
        (BackupWorkers(tasks.sgd), None, tasks.sgd),
        (LocalSGD(1), tasks.sgd, tasks.sgd),
        (Hogwild(0.1, 5), None, tasks.plain),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_worker_is_the_serial_method_bit_for_bit(method, optimizer, reference, dtype):
    run = simulate(tasks.problem(dtype), method, 1, steps=30, optimizer=optimizer, vectorise=False)
    assert torch.equal(run.parameters, tasks.serial(reference, 30, dtype))
    assert set(run.staleness) == {0}


def test_without_a_spring_a_worker_runs_alone():
    run = simulate(tasks.problem(), EASGD(0.0, tau=1), 1, steps=30, optimizer=tasks.sgd, vectorise=False)
    assert torch.equal(run.locals[0], tasks.serial(tasks.sgd, 30))
    assert torch.equal(run.parameters, gather(list(tasks.network().parameters())))


@ways
def test_vectorised_gradients_give_the_same_run(way):
    method, optimizer = WAYS[way]
    runs = [
        simulate(tasks.problem(), method, 7, steps=150, optimizer=optimizer, latency=Uniform(0.0, 0.3), vectorise=v, chunk=4, seed=2)
        for v in (False, True)
    ]
    assert runs[0].schedule == runs[1].schedule
    assert torch.allclose(runs[0].parameters, runs[1].parameters, rtol=1e-10, atol=1e-11)


@ways
def test_the_same_seed_gives_the_same_run_and_another_does_not(way):
    method, optimizer = WAYS[way]
    a, b, c = (simulate(tasks.problem(), method, 5, steps=80, optimizer=optimizer, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.parameters, b.parameters) and a.schedule == b.schedule and a.time == b.time
    assert a.schedule != c.schedule


@ways
def test_a_run_replays_from_its_schedule_bit_for_bit(way):
    method, optimizer = WAYS[way]
    run = simulate(tasks.problem(), method, 5, steps=90, optimizer=optimizer, latency=Exponential(0.1), vectorise=False)
    again = simulate(tasks.problem(), method, 5, optimizer=optimizer, schedule=run.schedule, vectorise=False)
    assert torch.equal(run.parameters, again.parameters) and run.staleness == again.staleness


def _gradient(model, point, batch):
    torch.nn.utils.vector_to_parameters(point, model.parameters())
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_late_gradients_against_a_loop(strength):
    """Workers of the same constant speed take turns: the gradient is of the parameters p - 1 updates ago."""
    workers, steps = 4, 40
    run = simulate(tasks.problem(), DelayCompensated(tasks.plain, strength=strength), workers, steps=steps, service=Constant(1.0))
    model, source = tasks.network(), tasks.batches()
    x = [gather(list(model.parameters()))]
    for t in range(steps):
        seen = x[max(t - workers + 1, 0)]
        g = _gradient(model, seen, source(t % workers, t // workers))
        x.append(x[-1] - 0.1 * (g + strength * g * g * (x[-1] - seen)))
    assert torch.allclose(run.parameters, x[-1], rtol=0, atol=1e-12)
    assert run.staleness[workers:] == (workers - 1,) * (steps - workers)


def test_elastic_averaging_against_a_loop():
    workers, rounds, alpha, tau = 3, 12, 0.3, 2
    run = simulate(tasks.problem(), EASGD(alpha, tau), workers, steps=workers * rounds, optimizer=tasks.plain, service=Constant(1.0))
    model, source = tasks.network(), tasks.batches()
    centre = gather(list(model.parameters()))
    own = [centre.clone() for _ in range(workers)]
    for t, w in itertools.product(range(rounds), range(workers)):
        g = _gradient(model, own[w], source(w, t))
        if t % tau == 0:
            pull = alpha * (own[w] - centre)
            own[w], centre = own[w] - pull, centre + pull
        own[w] = own[w] - 0.1 * g
    assert torch.allclose(run.parameters, centre, rtol=0, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(run.locals, own, strict=True))


def test_synchronous_elastic_averaging_against_a_loop():
    workers, rounds, alpha, beta = 3, 10, 0.2, 0.6
    run = simulate(tasks.problem(), SynchronousEASGD(alpha, beta), workers, steps=workers * rounds, optimizer=tasks.plain)
    model, source = tasks.network(), tasks.batches()
    centre = gather(list(model.parameters()))
    own = [centre.clone() for _ in range(workers)]
    for t in range(rounds):
        gradients = [_gradient(model, own[w], source(w, t)) for w in range(workers)]
        mean = torch.stack(own).mean(0)
        own = [x - alpha * (x - centre) - 0.1 * g for x, g in zip(own, gradients, strict=True)]
        centre = centre + beta * (mean - centre)
    # The run ends when the last worker has its gradient: the last round's exchange may be open.
    assert torch.allclose(run.parameters, centre, rtol=0, atol=1e-12)


def test_without_stragglers_backup_zero_is_the_large_batch():
    workers, rounds = 4, 8
    run = simulate(tasks.problem(), BackupWorkers(tasks.plain), workers, steps=workers * rounds, service=Heterogeneous())
    model, source = tasks.network(), tasks.batches()
    x = gather(list(model.parameters()))
    for t in range(rounds):
        x = x - 0.1 * torch.stack([_gradient(model, x, source(w, t)) for w in range(workers)]).mean(0)
    assert torch.allclose(run.parameters, x, rtol=0, atol=1e-12)


def test_backup_workers_are_not_waited_for():
    slow = Stragglers(Constant(1.0), share=0.02, factor=20.0)
    without, with_backup = (simulate(tasks.problem(), BackupWorkers(tasks.plain, b), 10, steps=400, service=slow, seed=4) for b in (0, 4))
    assert len(with_backup.staleness) / with_backup.time > 2 * len(without.staleness) / without.time


def test_delayed_descent_against_a_loop_and_serial():
    x, delays = delayed_descent(tasks.problem(), tasks.plain, Geometric(0.3), 50, seed=1)
    assert max(delays) > 2
    model, source = tasks.network(), tasks.batches()
    path = [gather(list(model.parameters()))]
    for t, tau in enumerate(delays):
        path.append(path[-1] - 0.1 * _gradient(model, path[t - tau], source(0, t)))
    assert torch.allclose(x, path[-1], rtol=0, atol=1e-12)
    assert torch.equal(delayed_descent(tasks.problem(), tasks.sgd, Constant(0.0), 50)[0], tasks.serial(tasks.sgd, 50))


def test_an_optimizer_that_asks_is_told_the_delay():
    told = []

    class Listening(torch.optim.SGD):
        def step(self, closure=None, *, delay=0):
            told.append(delay)
            return super().step(closure)

    run = simulate(tasks.problem(), Downpour(lambda p: Listening(p, lr=0.1)), 6, steps=100)
    assert tuple(told) == run.staleness and max(told) > 3
    told.clear()
    _, delays = delayed_descent(tasks.problem(), lambda p: Listening(p, lr=0.1), Uniform(0, 5), 20)
    assert told == delays


def test_adadelay_serves():
    optim = pytest.importorskip("steepest.optim")
    run = simulate(tasks.problem(), Downpour(lambda p: optim.AdaDelay(p, lr=0.1)), 6, steps=60)
    assert torch.isfinite(run.parameters).all()


def test_the_run_ends_where_it_is_told_to():
    seen = []

    def loss(model):
        x, y = tasks.batches().x, tasks.batches().y
        seen.append(float(nn.functional.cross_entropy(model(x), y)))
        return seen[-1]

    run = simulate(tasks.problem(), Downpour(tasks.plain), 4, steps=2000, evaluate=loss, every=10, until=lambda v: v < 0.8 * seen[0])
    assert run.steps < 2000 and run.moments[-1].value < 0.8 * seen[0] <= run.moments[-2].value
    assert [m.steps for m in run.moments] == list(range(0, run.steps + 1, 10))


@pytest.mark.parametrize(
    "name, options, mean",
    [
        ("constant", {"value": 3.0}, 3.0),
        ("uniform", {"low": 1.0, "high": 2.0}, 1.5),
        ("geometric", {"p": 0.25}, 3.0),
        ("exponential", {"mean": 2.0}, 2.0),
        ("stragglers", {"base": Constant(1.0), "share": 0.5, "factor": 3.0}, 2.0),
        ("heterogeneous", {"base": Constant(1.0), "spread": 0.0}, 1.0),
    ],
)
def test_distributions_have_their_mean(name, options, mean):
    draw = delay(name, **options).draws(np.random.default_rng(0))
    values = [draw() for _ in range(4000)]
    assert min(values) >= 0 and np.mean(values) == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize(
    "bad, word",
    [
        (lambda: Downpour(tasks.sgd, push=0), "push"),
        (lambda: Downpour(tasks.sgd, fetch=1.5), "fetch"),
        (lambda: EASGD(-0.1), "alpha"),
        (lambda: EASGD(0.1, tau=0), "tau"),
        (lambda: SynchronousEASGD(0.1, 1.5), "beta"),
        (lambda: LocalSGD(0), "period"),
        (lambda: DelayCompensated(tasks.sgd, strength=-1.0), "strength"),
        (lambda: DelayCompensated(tasks.sgd, momentum=1.0), "momentum"),
        (lambda: Hogwild(-0.1), "lr"),
        (lambda: BackupWorkers(tasks.sgd, -1), "backup"),
        (lambda: simulate(tasks.problem(), BackupWorkers(tasks.sgd, 3), 3, steps=3), "backup"),
        (lambda: delay("weibull"), "known are constant, exponential, geometric"),
        (lambda: delay("constant", mean=1.0), "constant"),
        (lambda: Exponential(-1.0), "mean"),
        (lambda: Uniform(2.0, 1.0), "high"),
        (lambda: Geometric(0.0), "probability"),
        (lambda: simulate(tasks.problem(), Downpour(tasks.sgd), 0, steps=3), "workers"),
        (lambda: simulate(tasks.problem(), Downpour(tasks.sgd), 2), "steps"),
        (lambda: simulate(tasks.problem(), Downpour(tasks.sgd), 2, schedule=[0, 2]), "schedule"),
        (lambda: simulate(tasks.problem(), EASGD(0.1), 2, steps=3), "optimizer"),
        (lambda: delayed_descent(tasks.problem(), tasks.sgd, Constant(), 0), "steps"),
        (lambda: tasks.batches(size=0), "batch size"),
    ],
)
def test_bad_input_is_refused_with_its_name(bad, word):
    with pytest.raises(UsageError, match=word):
        bad()


def test_a_thousand_workers_hold_no_more_than_their_own_parameters():
    run = simulate(tasks.problem(), Downpour(lambda p: torch.optim.SGD(p, lr=1e-3)), 1000, steps=2500)
    assert 500 < np.mean(run.staleness[1500:]) < 1500
