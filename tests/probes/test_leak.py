"""Whether samples of a batch see each other: shown by models that do, that do not, and that draw random numbers."""

import torch
from torch import nn

import steepest
from steepest.probes.leak import Leak, LeakProbe


class _Sampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x):
        return self.lin(x) + torch.randn(len(x), 2)


class _Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x):
        y = self.lin(x)
        return y - y.mean(0)


def _change(model):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with steepest.watch(probes=(LeakProbe(),)) as run:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 3)).square().mean().backward()
            optimizer.step()
    found = run.get(Leak)
    assert found is not None
    return found.change


def test_samples_that_see_each_other():
    assert _change(_Centred()) > 0.05


def test_samples_apart():
    assert _change(nn.Linear(3, 2)) < 1e-5


def test_noise_of_the_model_itself_is_no_leak():
    assert _change(_Sampling()) < 1e-5
