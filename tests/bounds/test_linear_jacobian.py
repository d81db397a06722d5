"""Linear bounds of the Jacobian: never wider than intervals, exact where nothing is uncertain, finite for every operator."""

import math

import numpy as np
import pytest
import torch

from random_graphs import random_graph
from steepest.bounds import ClarkeJacobian, LinearJacobian, PieceLipSDP, Rowwise
from steepest.capture.builder import Builder
from steepest.capture.head import with_output
from steepest.capture.load import load
from steepest.errors import UnsupportedOperatorError
from steepest.ops.backward import tighten_domain
from steepest.results import Domain

NORMS = [1.0, 2.0, math.inf]


def _mlp():
    torch.manual_seed(2)
    b = Builder()
    x = b.input((1, 5))
    for n, m in ((5, 12), (12, 12)):
        x = b.relu(b.dense(x, torch.randn(m, n) / n**0.5, torch.randn(m)))
    return b.finish(b.dense(x, torch.randn(3, 12), torch.randn(3)))


def _ball(radius):
    return Domain("ball", centre=np.full((1, 5), 0.3), radius=radius, norm=math.inf)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_never_wider_than_intervals(seed, norm):
    graph, domain = random_graph(seed)
    bound = LinearJacobian()
    if not bound.applies(graph, domain):
        pytest.skip("unbounded")
    assert bound.bound(graph, domain, norm).value <= ClarkeJacobian().bound(graph, domain, norm).value * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_within_one_linear_region_it_is_the_norm_of_the_jacobian(norm):
    graph = _mlp()
    x = torch.full((1, 5), 0.3, dtype=torch.float64)
    jacobian = torch.func.jacrev(graph.evaluate)(x).reshape(3, 5)
    assert LinearJacobian().bound(graph, _ball(1e-6), norm).value == pytest.approx(
        torch.linalg.matrix_norm(jacobian, norm).item(), rel=1e-9
    )


def test_it_holds_every_jacobian_and_is_much_less_than_intervals():
    graph, domain = _mlp(), _ball(0.2)
    values = [x.map(lambda t: t[None]) for x in tighten_domain(graph, domain)]
    rows = torch.eye(3, dtype=torch.float64).reshape(1, 3, 1, 3)
    held = LinearJacobian().rows(graph, values, rows).map(lambda t: t.reshape(3, 5))
    x = 0.3 + 0.2 * (2 * torch.rand(2000, 1, 5, dtype=torch.float64) - 1)
    jacobians = torch.func.vmap(torch.func.jacrev(graph.evaluate))(x).reshape(-1, 3, 5)
    assert ((jacobians >= held.lo - 1e-12) & (jacobians <= held.hi + 1e-12)).all()
    steepest = torch.linalg.matrix_norm(jacobians, math.inf).max().item()
    linear, plain = (bound.bound(graph, domain, math.inf).value for bound in (LinearJacobian(), ClarkeJacobian()))
    assert steepest <= linear < 0.8 * plain


def test_a_batch_is_its_samples():
    graph = _mlp()
    alone = [[x.map(lambda t: t[None]) for x in tighten_domain(graph, _ball(radius))] for radius in (0.01, 0.1, 0.5)]
    together = [type(xs[0])(torch.cat([x.lo for x in xs]), torch.cat([x.hi for x in xs])) for xs in zip(*alone, strict=True)]
    for norm in NORMS:
        found = LinearJacobian(entries=256).over(graph, together, norm)
        torch.testing.assert_close(
            found, torch.cat([LinearJacobian().over(graph, values, norm) for values in alone]), rtol=1e-9, atol=1e-12
        )


def test_multipliers_help_where_slopes_are_uncertain():
    graph = _mlp()
    for radius, helped in ((1e-4, False), (3.0, True)):
        linear = LinearJacobian().bound(graph, _ball(radius), math.inf).value
        found = Rowwise(LinearJacobian().row_sums, PieceLipSDP(first=20)).bound(graph, _ball(radius), math.inf)
        assert (found.value < 0.95 * linear) == helped
        assert any(found.rows) == helped


@pytest.mark.shared
def test_every_operator_of_real_networks_has_a_finite_bound(shared):
    paths = sorted((shared / "nets").glob("*.onnx"))
    assert len(paths) == 48
    refused = 0
    for path in paths:
        try:
            graph = with_output(load(str(path)).graph, (0,))
        except UnsupportedOperatorError:
            refused += 1
            continue
        centre = np.random.default_rng(0).uniform(0.0, 1.0, graph.input_shape)
        found = LinearJacobian(work=1e8).bound(graph, Domain("ball", centre=centre, radius=1e-3, norm=math.inf), math.inf)
        assert math.isfinite(found.value), path.stem
    # Sign and ArgMax leap: networks of them have no constant.
    assert refused == 2
