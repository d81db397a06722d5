"""Networks trained side by side against each trained on its own with torch.optim."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from steepest.studies.deep import FixupStack, Plain, Residual, dense
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import geometric, he_


def _network():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), nn.Linear(6, 4)).double()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_member_trains_as_it_would_alone(momentum):
    modules = [_network() for _ in range(3)]
    alone = copy.deepcopy(modules)
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randint(0, 4, (24,))
    order, rates = orders([0, 1, 2], 24, 8, 5), (0.01, 0.1, 0.5)
    members = Replicas(modules)
    losses = members.train(x, y, order, torch.tensor(rates, dtype=torch.float64), momentum)
    for k, (module, rate) in enumerate(zip(alone, rates, strict=True)):
        optimizer = torch.optim.SGD(module.parameters(), rate, momentum=momentum)
        for step in range(5):
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(x[order[k, step]]), y[order[k, step]])
            assert losses[k, step].item() == pytest.approx(loss.item(), rel=1e-5)
            loss.backward()
            optimizer.step()
        for name, p in module.named_parameters():
            torch.testing.assert_close(members.parameters[name][k], p.detach())
        torch.testing.assert_close(members.losses(x, y)[k], functional.cross_entropy(module(x), y).detach())


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.01)])
def test_an_optimizer_over_the_stack_is_one_for_each(make):
    modules = [_network() for _ in range(3)]
    alone = copy.deepcopy(modules)
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randint(0, 4, (24,))
    order, seen = orders([0, 1, 2], 24, 8, 5), []
    members = Replicas(modules)
    losses = members.descend(x, y, order, make, seen.append)
    assert seen == list(range(5)) and losses.dtype == torch.float64
    for k, module in enumerate(alone):
        optimizer = make(module.parameters())
        for step in range(5):
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(x[order[k, step]]), y[order[k, step]])
            loss.backward()
            optimizer.step()
            assert torch.allclose(loss, losses[k, step], atol=1e-10)
        for name, p in module.named_parameters():
            assert torch.allclose(p, members.parameters[name][k], atol=1e-10)


def test_orders_are_epochs_without_replacement():
    order = orders([3, 3, 4], 20, 8, 6)
    assert order.shape == (3, 6, 8)
    assert torch.equal(order[0], order[1]) and not torch.equal(order[0], order[2])
    for epoch in range(3):
        assert len(order[0, 2 * epoch : 2 * epoch + 2].flatten().unique()) == 16


def test_stacks_are_the_layers_they_stack():
    layers = dense(4, 5)
    x = torch.randn(7, 5)
    h = x
    for layer in layers:
        h = torch.tanh(layer(h))
    torch.testing.assert_close(Plain(layers, torch.tanh)(x), h)
    h = x
    for k in (0, 2):
        h = h + layers[k + 1](torch.relu(layers[k](h)))
    torch.testing.assert_close(Residual(layers)(x), h)
    for layer in layers:
        nn.init.zeros_(layer.bias)
    torch.testing.assert_close(FixupStack(layers)(x), Residual(layers)(x))
    assert torch.equal(Residual(layers, normalised=True)(x), x)
    norm, h = nn.BatchNorm1d(5), x
    for layer in layers:
        h = torch.relu(norm(layer(h)))
    torch.testing.assert_close(Plain(layers, normalised=True)(x), h)


def test_helpers():
    assert geometric(1.0, 8.0, 2.0) == (1.0, 2.0, 4.0, 8.0)
    model = he_(nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200)))
    assert model[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert model[2].weight.std().item() == pytest.approx((1 / 300) ** 0.5, rel=0.02)
