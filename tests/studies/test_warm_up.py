"""The transformer against torch's, the variance against sampling, the largest usable rate, and rates of each member."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from steepest.studies.adaptive_variance import effective_length, predicted_variance, sampled_variance
from steepest.studies.replicas import Replicas, orders
from steepest.studies.transformer import Block, RowsTransformer
from steepest.studies.warm_up import _Runs


@pytest.mark.parametrize("first", [False, True])
def test_a_block_is_torchs_encoder_layer(first):
    torch.manual_seed(0)
    block = Block(6, 2, first).double()
    layer = nn.TransformerEncoderLayer(6, 2, 24, dropout=0.0, batch_first=True, norm_first=first, dtype=torch.float64)
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.split.weight)
        layer.self_attn.in_proj_bias.copy_(block.split.bias)
        for ours, theirs in (
            (block.join, layer.self_attn.out_proj),
            (block.dense[0], layer.linear1),
            (block.dense[2], layer.linear2),
            (block.norms[0], layer.norm1),
            (block.norms[1], layer.norm2),
        ):
            ours.weight.add_(0.1 * torch.randn_like(ours.weight))
            theirs.weight.copy_(ours.weight)
            theirs.bias.copy_(ours.bias)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), layer.train()(x))


def test_rows_are_tokens_and_their_order_matters():
    torch.manual_seed(0)
    model = RowsTransformer(2, 4, 2, False)
    x = torch.randn(3, 1, 8, 8)
    assert model(x).shape == (3, 10)
    assert not torch.allclose(model(x), model(x.flip(2)))


def test_the_variance_of_a_simple_average_is_exact():
    generator = np.random.default_rng(0)
    for n in (8, 20):
        inverse = 1.0 / np.sqrt((generator.standard_normal((200_000, n)) ** 2).mean(1))
        assert predicted_variance(n) == pytest.approx(float(inverse.var()), rel=0.05)
    assert predicted_variance(2.0) == math.inf
    # The first-order approximation of the paper, n / (2 (n - 2) (n - 4)).
    assert predicted_variance(200.0) == pytest.approx(200 / (2 * 198 * 196), rel=0.02)


def test_length_and_sampling():
    assert effective_length(0.9, 1) == pytest.approx(1.0)
    assert effective_length(0.9, 1000) == pytest.approx(19.0)
    # Nearly equal weights: the simple average again.
    assert sampled_variance(0.99999, (5, 12), 100_000, 0)[1] == pytest.approx(predicted_variance(12.0), rel=0.05)


def test_the_largest_usable_rate_is_interpolated():
    half = math.log(10) / 2
    runs = _Runs((0.1, 1.0, 10.0), [[half / 4, 2 * half, half / 2], [half / 2, 2 * half, half / 2], [2 * half, 2 * half, half / 2]])
    assert runs.usable(0) == pytest.approx(10**0.5)
    assert runs.usable(1) == 0.1 and runs.usable(2) == 10.0
    assert runs.best(0) == half / 4


def test_each_member_has_its_own_schedule():
    modules = [nn.Linear(3, 4).double() for _ in range(2)]
    alone = copy.deepcopy(modules)
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randint(0, 4, (24,))
    order = orders([0, 1], 24, 8, 5)
    rates = torch.tensor([[0.0, 0.01, 0.02, 0.02, 0.02], [0.1] * 5], dtype=torch.float64)
    members = Replicas(modules)
    members.descend(x, y, order, lambda p: torch.optim.Adam(p, 1.0), rates=rates)
    for k, module in enumerate(alone):
        optimizer = torch.optim.Adam(module.parameters(), 1.0)
        for step in range(5):
            optimizer.param_groups[0]["lr"] = rates[k, step].item()
            optimizer.zero_grad()
            functional.cross_entropy(module(x[order[k, step]]), y[order[k, step]]).backward()
            optimizer.step()
        for name, p in module.named_parameters():
            assert torch.allclose(p, members.parameters[name][k], atol=1e-12)
