"""Masks: which weights go, what shuffling keeps, and that a pruned weight takes no part."""

import torch

from steepest.studies.lottery_tickets import MaskedLinear, pruned, scattered, shuffled


def _masks():
    return {"a": torch.ones(2, 3), "b": torch.ones(4)}


def test_the_smallest_of_all_layers_go_and_never_come_back():
    weights = {"a": torch.tensor([[5.0, -0.1, 4.0], [0.2, -6.0, 3.0]]), "b": torch.tensor([0.3, -2.0, 7.0, 0.4])}
    once = pruned(weights, _masks(), 0.6)
    assert torch.equal(once["a"], torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])) and torch.equal(
        once["b"], torch.tensor([0.0, 1.0, 1.0, 0.0])
    )
    grown = {n: w + 100.0 * (1.0 - once[n]) for n, w in weights.items()}
    twice = pruned(grown, once, 0.5)
    assert torch.equal(twice["a"], torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])) and torch.equal(
        twice["b"], torch.tensor([0.0, 0.0, 1.0, 0.0])
    )


def test_controls_keep_as_many():
    generator = torch.Generator().manual_seed(0)
    masks = {"a": (torch.rand(20, 30, generator=generator) < 0.1).float(), "b": (torch.rand(50, generator=generator) < 0.8).float()}
    within, anywhere = shuffled(masks, generator), scattered(masks, generator)
    assert all(within[n].sum() == m.sum() and not torch.equal(within[n], m) for n, m in masks.items())
    assert sum(m.sum() for m in anywhere.values()) == sum(m.sum() for m in masks.values())
    assert anywhere["b"].mean() < 0.5
    assert {n: m.shape for n, m in anywhere.items()} == {n: m.shape for n, m in masks.items()}


def test_a_pruned_weight_takes_no_part_and_stays():
    layer = MaskedLinear(3, 2)
    layer.mask[0, 1] = 0.0
    x = torch.randn(5, 3)
    out = layer(x)
    torch.testing.assert_close(out, x @ (layer.weight * layer.mask).T + layer.bias)
    out.square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad[0, 1] == 0.0
