"""Small models in float64 on random data."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block, with a projection where the dimensions differ."""

    def __init__(self, inside, out, stride=1):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, out, 3, stride, 1), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out)
        self.down = nn.Conv2d(inside, out, 1, stride) if inside != out else None
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x):
        return self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))

    def skip(self, x):
        return x if self.down is None else self.down(x)

    def forward(self, x):
        skip, out = self.skip(x), self.branch(x)
        out += skip
        return self.relu(out)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def convnet():
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).double()


def resnet():
    head = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*head, Block(4, 4), Block(4, 6, 2), Block(6, 6), nn.Flatten(), nn.Linear(24, 3)).double()


BUILD = {"mlp": mlp, "convnet": convnet, "resnet": resnet}


def case(name, count=24):
    """Model, loss and batch."""
    torch.manual_seed(0)
    model = BUILD[name]()
    x = torch.randn(count, *((4,) if name == "mlp" else (1, 4, 4)), dtype=torch.float64)
    return model, F.cross_entropy, (x, torch.randint(0, 3, (count,)))


@pytest.fixture
def cases():
    return case


class Untouched:
    """Fails unless a model, its gradients, its buffers and the random state are afterwards what they were."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        for p in self.model.parameters():
            p.grad = torch.randn_like(p)
        self.before = copy.deepcopy(self.model.state_dict())
        self.versions = [t._version for t in (*self.model.parameters(), *self.model.buffers())]
        self.gradients = [p.grad.clone() for p in self.model.parameters()]
        self.modes = [m.training for m in self.model.modules()]
        self.hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]
        self.random = torch.get_rng_state()

    def __exit__(self, *_):
        assert torch.equal(self.random, torch.get_rng_state())
        for name, value in self.model.state_dict().items():
            assert torch.equal(value, self.before[name]), name
        assert self.versions == [t._version for t in (*self.model.parameters(), *self.model.buffers())]
        assert all(torch.equal(g, p.grad) for g, p in zip(self.gradients, self.model.parameters(), strict=True))
        assert all(p.requires_grad for p in self.model.parameters())
        assert self.modes == [m.training for m in self.model.modules()]
        assert self.hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]


@pytest.fixture
def untouched():
    return Untouched
