"""Real processes on gloo: equal to the simulator for the same order, and what happens when one is killed."""

import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import HierarchicalModelAverager

import distributed_cases as tasks
from processes import die, run
from steepest.distributed import (
    EASGD,
    Averaged,
    BackupWorkers,
    Checkpoints,
    DelayCompensated,
    Downpour,
    ElasticAverager,
    LocalSGD,
    LostPeerError,
    SynchronousEASGD,
    join,
    share,
    simulate,
)
from steepest.distributed.flat import gather, trainable
from steepest.errors import UsageError

METHODS = {
    "downpour": (Downpour(tasks.adagrad, push=2, fetch=3), tasks.sgd),
    "compensated": (DelayCompensated(tasks.sgd, strength=0.5, momentum=0.9), None),
    "elastic": (EASGD(0.2, tau=2), tasks.sgd),
    "backup": (BackupWorkers(tasks.sgd, 1), None),
}


def _parameters(model):
    return gather(list(model.parameters()))


def _served(rank, name, steps, victim=None, at=0, pause=0.0):
    """What every rank does under a parameter server; the centre's parameters and its record, or the worker's parameters."""
    method, optimizer = METHODS[name]
    model, source = tasks.network(), tasks.batches()
    made = None if optimizer is None else optimizer(list(model.parameters()))
    member = join(method, model, made, patience=150.0)
    if member.serving:
        served = member.serve()
        return _parameters(model), served
    with member:
        for step in range(steps):
            if rank == victim and step == at:
                die()
            time.sleep(pause)
            tasks.backward(model, made or torch.optim.SGD(model.parameters()), source(rank - 1, step))
            member.step()
    return _parameters(model)


@pytest.mark.parametrize("name", METHODS)
def test_a_real_run_replays_in_the_simulator(name):
    found = run(_served, 4, name, tasks.STEPS)
    parameters, served = found[0]
    assert served.lost == ()
    method, optimizer = METHODS[name]
    for vectorise in (False, True):
        again = simulate(tasks.problem(), method, 3, optimizer=optimizer, schedule=served.schedule, vectorise=vectorise)
        assert again.staleness == served.staleness
        if vectorise:
            assert torch.allclose(again.parameters, parameters, rtol=1e-10, atol=1e-12)
        else:
            assert torch.equal(again.parameters, parameters)


@pytest.mark.parametrize("name", ["downpour", "elastic"])
def test_asynchronous_methods_go_on_without_a_killed_worker(name):
    found = run(_served, 4, name, 20, 2, 9, 0.01, killed=(2,))
    parameters, served = found[0]
    assert served.lost == (1,)
    assert not isinstance(found[1], Exception) and not isinstance(found[3], Exception)
    # What the lost worker sent before still counts, and the run replays with it.
    method, optimizer = METHODS[name]
    again = simulate(tasks.problem(), method, 3, optimizer=optimizer, schedule=served.schedule, vectorise=False)
    assert torch.allclose(again.parameters, parameters, rtol=1e-10, atol=1e-12)
    assert 0 < served.schedule.count(1) < served.schedule.count(0)


def test_a_spare_worker_may_be_lost():
    found = run(_served, 4, "backup", 10, 3, 4, killed=(3,))
    assert found[0][1].lost == (2,)


def _without_spare(rank):
    METHODS["strict"] = (BackupWorkers(tasks.plain, 0), None)
    return _served(rank, "strict", 10, 2, 4)


def test_a_needed_worker_may_not():
    found = run(_without_spare, 3, killed=(2,))
    assert isinstance(found[0], LostPeerError) and "each round needs 2" in str(found[0])
    assert isinstance(found[1], LostPeerError) and "ended the run" in str(found[1])


def _server_dies(rank):
    if rank:
        return _served(rank, "elastic", 500, None, 0, 0.01)
    member = join(METHODS["elastic"][0], tasks.network())
    member._centre.leave = member._centre.exchange = lambda *_: die()
    return member.serve()


def test_workers_notice_a_killed_server():
    found = run(_server_dies, 2, killed=(0,))
    assert isinstance(found[1], LostPeerError) and "parameter server" in str(found[1])


def _averager(name, model):
    if name == "local":
        return PeriodicModelAverager(period=3)
    if name == "hierarchical":
        return HierarchicalModelAverager({2: 2, 4: 4})
    return ElasticAverager(model.parameters(), alpha=0.2, beta=0.5, tau=2)


def _averaged(rank, name, steps, folder=None, victim=None, at=0):
    model, source = tasks.network(), tasks.batches()
    optimizer = tasks.sgd(list(model.parameters()))
    averager = _averager(name, model)
    descent = Averaged(model, optimizer, averager, Checkpoints(folder, every=4) if folder else None)
    first = descent.steps
    for step in range(first, steps):
        if rank == victim and step == at:
            die()
        tasks.backward(model, optimizer, source(rank, step))
        # Random numbers are part of what a checkpoint holds.
        with torch.no_grad():
            model[0].weight.grad += 1e-3 * torch.randn_like(model[0].weight) * (folder is not None)
        descent.step()
    return first, _parameters(model), averager.centre if name == "elastic" else None


@pytest.mark.parametrize("name, method", [("local", LocalSGD(3)), ("elastic", SynchronousEASGD(0.2, 0.5, tau=2))])
def test_averaging_between_processes_is_that_of_the_simulator(name, method):
    found = run(_averaged, 3, name, tasks.STEPS if name == "elastic" else tasks.STEPS - 2)
    # A first message, then the exchanges of steps 0, 3, 6, 9 or 0, 2, ..., 10; local SGD ends right after one.
    schedule = [0, 1, 2] * (5 if name == "local" else 7)
    again = simulate(tasks.problem(), method, 3, optimizer=tasks.sgd, schedule=schedule)
    for rank in range(3):
        assert torch.allclose(found[rank][1 if name == "local" else 2], again.parameters, rtol=1e-10, atol=1e-12)


def test_hierarchical_averaging_is_torchs():
    found = run(_averaged, 4, "hierarchical", 9)
    # Step 8 averages over all four, counted from 0.
    assert all(torch.equal(found[r][1], found[0][1]) for r in range(1, 4))


@pytest.mark.parametrize("name", ["local", "elastic"])
def test_synchronous_runs_stop_and_resume_bit_for_bit(name, tmp_path):
    whole = run(_averaged, 2, name, 15, str(tmp_path / "whole"))
    broken = run(_averaged, 2, name, 15, str(tmp_path / "broken"), 1, 10, killed=(1,))
    assert isinstance(broken[0], LostPeerError)
    assert "rank 1" in str(broken[0]) and "broken" in str(broken[0])
    resumed = run(_averaged, 2, name, 15, str(tmp_path / "broken"))
    for rank in range(2):
        assert resumed[rank][0] == 8
        assert torch.equal(resumed[rank][1], whole[rank][1])
    assert [isinstance(v, UsageError) for v in run(_averaged, 3, name, 15, str(tmp_path / "broken")).values()] == [True] * 3


def _shared(rank, victim):
    model, source = tasks.network(), tasks.batches()
    optimizer = tasks.plain(list(model.parameters()))
    share(model)
    for step in range(40):
        if rank == victim and step == 5:
            die()
        tasks.backward(model, optimizer, source(rank, step))
        optimizer.step()
        time.sleep(0.002)
    store = dist.distributed_c10d._get_default_store()
    left = dist.get_world_size() - (victim is not None)
    store.add("done", 1)
    while int(store.add("done", 0)) < left:
        time.sleep(0.01)
    # Rank 0 holds the store.
    store.add("seen", 1)
    while rank == 0 and int(store.add("seen", 0)) < left:
        time.sleep(0.01)
    return _parameters(model), float(nn.functional.cross_entropy(model(source.x), source.y).detach())


@pytest.mark.parametrize("victim", [None, 1])
def test_hogwild_shares_memory_and_survives(victim):
    found = run(_shared, 3, victim, killed=() if victim is None else (victim,))
    values = list(found.values())
    assert all(torch.equal(v[0], values[0][0]) for v in values)
    model, source = tasks.network(), tasks.batches()
    start = float(nn.functional.cross_entropy(model(source.x), source.y).detach())
    alone = tasks.serial(tasks.plain, 40)
    torch.nn.utils.vector_to_parameters(alone, model.parameters())
    assert values[0][1] < float(nn.functional.cross_entropy(model(source.x), source.y).detach()) < start


def _refused(_rank, what):
    model = tasks.network()
    optimizer = tasks.sgd(list(model.parameters()))
    if what == "averaged":
        return Averaged(model, optimizer, PeriodicModelAverager(period=2))
    return join(EASGD(0.1), model, optimizer)


@pytest.mark.parametrize("what", ["joined", "averaged"])
def test_a_single_process_is_refused(what):
    (error,) = run(_refused, 1, what).values()
    assert isinstance(error, UsageError) and "two or more" in str(error)


def test_without_a_group_nothing_starts():
    with pytest.raises(UsageError, match="init_process_group"):
        join(EASGD(0.1), tasks.network())
    with pytest.raises(UsageError, match="init_process_group"):
        share(tasks.network())
    mixed = nn.ModuleList([tasks.network(), tasks.network(torch.float32)])
    with pytest.raises(UsageError, match="several types"):
        trainable(mixed.parameters())
