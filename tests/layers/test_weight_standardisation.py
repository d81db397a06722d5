"""Standardised weights against the formula entry by entry."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import steepest
from steepest.layers import weight_standardise


@pytest.mark.parametrize(
    ("layer", "axis"),
    [
        (nn.Linear(5, 3), 0),
        (nn.Conv1d(4, 6, 3, groups=2), 0),
        (nn.Conv2d(2, 3, 3), 0),
        (nn.ConvTranspose2d(2, 3, 3), 1),
    ],
    ids=["dense", "grouped", "conv", "transposed"],
)
def test_each_output_has_mean_zero_and_variance_one(layer, axis):
    original = layer.weight.detach().double()
    layer = weight_standardise(layer.double())
    for k in range(original.shape[axis]):
        row = original.select(axis, k)
        mean = row.mean()
        expected = (row - mean) / ((row - mean).square().mean() + 1e-5).sqrt()
        torch.testing.assert_close(layer.weight.select(axis, k), expected)


def test_gradients_are_orthogonal_to_mean_and_weight():
    layer = weight_standardise(nn.Linear(6, 2).double(), eps=1e-12)
    layer(torch.randn(4, 6).double()).square().sum().backward()
    stored = layer.parametrizations.weight.original
    torch.testing.assert_close(stored.grad.sum(1), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close((stored.grad * stored).sum(1), torch.zeros(2).double(), atol=1e-8, rtol=0)


def test_it_comes_off_and_a_network_with_it_is_captured():
    model = nn.Sequential(weight_standardise(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    used = model[0].weight.detach().clone()
    assert steepest.bound(model, sample=torch.randn(1, 3), effort="fast", time_limit=2).upper < float("inf")
    parametrize.remove_parametrizations(model[0], "weight")
    assert torch.equal(model[0].weight, used)


def test_bad_input():
    with pytest.raises(ValueError, match="no weight"):
        weight_standardise(nn.ReLU())
    with pytest.raises(ValueError, match="single weight"):
        weight_standardise(nn.Linear(1, 3))
    with pytest.raises(ValueError, match="groups"):
        weight_standardise(nn.ConvTranspose2d(4, 4, 3, groups=2))
