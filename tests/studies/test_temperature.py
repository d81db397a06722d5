"""The network of orthogonal layers as a graph, and shares of radii."""

import math

import pytest
import torch

from steepest.bounds import Product
from steepest.results import Domain
from steepest.studies.temperature import LipschitzNetwork, _Seen


def test_the_graph_is_the_network_without_its_temperature():
    torch.manual_seed(0)
    network = LipschitzNetwork((8, 8, 4, 3), 7.0)
    x = torch.randn(20, 8)
    graph = network.graph()
    torch.testing.assert_close(7.0 * graph.evaluate(x[:, None].double())[:, 0].float(), network(x), atol=1e-4, rtol=1e-4)
    # Orthogonal only as far as float32 goes; what is used is what is proven.
    assert Product().bound(graph, Domain("all"), 2.0).value == pytest.approx(1.0, abs=1e-5)
    # No layer widens, and MaxMin keeps norms: the rows of the Jacobian are orthonormal.
    jacobian = torch.func.jacrev(lambda z: network(z[None])[0] / 7.0)(x[0])
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(3), atol=1e-5, rtol=0)


def test_shares_and_medians_of_radii():
    seen = _Seen(0.0, 0.5, torch.tensor([0.0, 0.1, 0.3, 0.5]), torch.tensor([0.0, 0.2, 0.4, math.inf]), 1.0)
    assert seen.within(0.25, True) == 0.5 and seen.within(0.25, False) == 0.5 and seen.within(0.15, False) == 0.75
    assert seen.median(True) == pytest.approx(0.3) and seen.median(False) == pytest.approx(0.4)
