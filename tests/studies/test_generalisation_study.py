"""Rank correlation, comparison of distributions, noisy labels, and dense networks as graphs."""

import itertools

import pytest
import torch

from steepest.studies.bounded import proven_constant, relu_graph
from steepest.studies.generalisation import exceeds, kendall, network, noisy_labels


def test_rank_correlation():
    assert kendall([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]) == 1.0
    assert kendall([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1.0
    assert kendall([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(4 / 6)
    assert kendall([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == pytest.approx(2 / 3)


def test_one_distribution_over_another():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 2.5, 4.0])
    slow = [1.0 if p > q else 0.5 if p == q else 0.0 for p, q in itertools.product(a.tolist(), b.tolist())]
    assert exceeds(a, b) == pytest.approx(sum(slow) / len(slow))
    assert exceeds(a, a) == 0.5 and exceeds(a + 5, b) == 1.0


def test_noise_in_labels():
    labels = torch.arange(10000) % 10
    assert torch.equal(noisy_labels(labels, 0.0, 3), labels)
    half = noisy_labels(labels, 0.5, 3)
    # A tenth of the labels drawn anew are the old ones.
    assert (half != labels).double().mean().item() == pytest.approx(0.45, abs=0.02)
    assert torch.equal(half, noisy_labels(labels, 0.5, 3)) and not torch.equal(half, noisy_labels(labels, 0.5, 4))


def test_networks_as_graphs():
    torch.manual_seed(0)
    model = network(6)
    weights, x = list(model.parameters()), torch.randn(5, 1, 64)
    torch.testing.assert_close(relu_graph(weights).evaluate(x.double()).float(), model(x))
    biases = [torch.randn(len(w)) for w in weights]
    with torch.no_grad():
        y = x
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            y = (y.relu() if k else y) @ w.T + b
    torch.testing.assert_close(relu_graph(weights, biases).evaluate(x.double()).float(), y)
    one = torch.diag(torch.tensor([3.0, 1.0]))
    assert proven_constant(relu_graph([one, torch.eye(2)])) == pytest.approx(3.0, rel=1e-4)
