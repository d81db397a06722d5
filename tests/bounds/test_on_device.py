"""First-order LipSDP on a device: every tensor is there, and the bound is the processor's."""

import pytest
import torch
from torch import nn

from emulated_device import EmulatedDevice
from steepest.bounds.lipsdp import ChannelLipSDP, LipSDP
from steepest.capture.load import load
from steepest.numerics.deadline import Deadline
from steepest.results import Domain


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.a(x))))


def _network():
    torch.manual_seed(0)
    head = nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.1), _Residual(), nn.MaxPool2d(2), *head).eval()


@pytest.mark.parametrize("method", [ChannelLipSDP, LipSDP])
def test_the_device_gives_the_same_bound(method):
    graph = load(_network(), sample=torch.zeros(1, 1, 6, 6)).graph
    # Without a deadline the number of steps alone decides.
    options = {"steps": 3, "deadline": Deadline()} | ({"exact": 0} if method is LipSDP else {})
    here = method(**options).bound(graph, Domain("all"), 2.0)
    with EmulatedDevice() as device:
        there = method(device="meta", **options).bound(graph, Domain("all"), 2.0)
    assert device.calls > 100
    assert there.value == pytest.approx(here.value, rel=1e-4)
