"""A small problem, as a real run and as the simulator see it."""

import torch
from torch import nn

from steepest.distributed import Problem, Shuffled
from steepest.distributed.flat import gather

STEPS = 12


def network(dtype=torch.float64):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batches(size=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 6, generator=generator, dtype=dtype)
    y = (x @ torch.randn(6, 3, generator=generator, dtype=dtype)).argmax(1)
    return Shuffled(x, y, size, seed=1)


def problem(dtype=torch.float64):
    return Problem(network(dtype), nn.functional.cross_entropy, batches(dtype=dtype))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def plain(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def adagrad(parameters):
    return torch.optim.Adagrad(parameters, lr=0.05)


def backward(model, optimizer, batch):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()


def serial(optimizer, steps, dtype=torch.float64):
    """Plain training on the batches of worker 0."""
    model, source = network(dtype), batches(dtype=dtype)
    made = optimizer(list(model.parameters()))
    for step in range(steps):
        backward(model, made, source(0, step))
        made.step()
    return gather(list(model.parameters()))
