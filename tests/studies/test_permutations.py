"""Paths between networks; matching of units: the function stays, a known permutation is undone, and no other order of a layer is better."""

from itertools import pairwise, permutations

import pytest
import torch

from steepest.studies.mode_connectivity import barrier, bezier, straight
from steepest.studies.permutations import Dense, matched

pytest.importorskip("scipy")


def _network(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [Dense(torch.randn(m, n, generator=generator), torch.randn(m, generator=generator)) for n, m in pairwise(sizes)]


def _apply(layers, x):
    for k, layer in enumerate(layers):
        x = x @ layer.weight.T + layer.bias
        x = x.relu() if k < len(layers) - 1 else x
    return x


def test_the_function_stays():
    x = torch.randn(6, 3)
    model = _network((3, 8, 7, 2), 0)
    torch.testing.assert_close(_apply(matched(model, _network((3, 8, 7, 2), 1)), x), _apply(model, x))


def test_a_permutation_is_undone():
    model = _network((5, 16, 16, 3), 0)
    first, second = torch.randperm(16), torch.randperm(16)
    shuffled = [
        Dense(model[0].weight[first], model[0].bias[first]),
        Dense(model[1].weight[second][:, first], model[1].bias[second]),
        Dense(model[2].weight[:, second], model[2].bias),
    ]
    for found, wanted in zip(matched(shuffled, model), model, strict=True):
        torch.testing.assert_close(found.weight, wanted.weight)
        torch.testing.assert_close(found.bias, wanted.bias)


def test_of_one_hidden_layer_the_best_order_is_found():
    model, reference = _network((2, 5, 2), 0), _network((2, 5, 2), 1)

    def score(layers):
        return sum(float((a.weight * b.weight).sum() + (a.bias * b.bias).sum()) for a, b in zip(layers, reference, strict=True))

    orders = [torch.tensor(p) for p in permutations(range(5))]
    best = max(score([Dense(model[0].weight[p], model[0].bias[p]), Dense(model[1].weight[:, p], model[1].bias)]) for p in orders)
    assert score(matched(model, reference)) == pytest.approx(best, rel=1e-5)


def test_paths_and_their_barrier():
    start, bend, end = ({"w": torch.randn(3, 2)} for _ in range(3))
    t = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(straight(start, end, t)["w"], torch.stack([start["w"], 0.5 * (start["w"] + end["w"]), end["w"]]))
    curve = bezier(start, bend, end, t)["w"]
    torch.testing.assert_close(curve, torch.stack([start["w"], 0.25 * (start["w"] + end["w"]) + 0.5 * bend["w"], end["w"]]))
    torch.testing.assert_close(bezier(start, bend, end, t[1])["w"], curve[1])
    assert barrier([1.0, 5.0, 3.0]) == pytest.approx(3.0)
    assert barrier([1.0, 1.5, 3.0]) == 0.0
