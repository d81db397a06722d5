"""Local l2 constants of many inputs: above every Jacobian met, those of one ball at a time, below the bounds they replace."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from random_graphs import random_graph
from steepest.bounds import LinearJacobian, LipSDP, LocalLipSDP
from steepest.capture.builder import Builder
from steepest.errors import UsageError
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops import GroupSort
from steepest.ops.enclosures import Enclosures
from steepest.ops.lure import lure_system
from steepest.ops.region import enclose_domain
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain


def _network(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = Builder()
    x = b.input((1, 1, 5, 5))
    x = b.relu(b.conv(x, normal(4, 1, 3, 3) / 2, normal(4) / 2, (1, 1), ((1, 1), (1, 1)), (1, 1), 1))
    x = b.relu(b.conv(x, normal(4, 4, 3, 3) / 4, normal(4) / 2, (2, 2), ((1, 1), (1, 1)), (1, 1), 1))
    x = b.relu(b.dense(b.reshape(x, (1, 36)), normal(8, 36) / 6, normal(8) / 2 + 0.5))
    return b.finish(b.dense(x, normal(3, 8) / 3))


def _jacobians(graph, x):
    found = torch.func.vmap(torch.func.jacrev(graph.evaluate))(x)
    return found.reshape(len(x), math.prod(graph.shape), -1)


def _around(x, radius, count, generator):
    """Points of the balls, a third of them on their surface."""
    noise = torch.randn(len(x), count, x[0].numel(), generator=generator, dtype=torch.float64)
    share = torch.rand(len(x), count, 1, generator=generator, dtype=torch.float64) ** (1 / x[0].numel())
    share[:, ::3] = 1.0 - 1e-12
    noise *= share * radius / noise.norm(dim=2, keepdim=True)
    return (x[:, None].flatten(2) + noise).reshape(-1, *x.shape[1:])


@pytest.mark.parametrize("radius", [1e-6, 0.1, 0.6])
def test_above_every_jacobian_and_rows(radius):
    graph, generator = _network(), torch.Generator().manual_seed(1)
    x = torch.rand(3, *graph.input_shape, generator=generator, dtype=torch.float64)
    found = LocalLipSDP().constants(graph, x, radius)
    jacobians = _jacobians(graph, _around(x, radius, 1500, generator)).reshape(3, 1500, 3, 25)
    seen = torch.linalg.matrix_norm(jacobians, 2).amax(1)
    assert (found >= seen * (1 - 1e-9)).all()
    if radius == 1e-6:
        # One linear region: the norm of its matrix.
        torch.testing.assert_close(found, seen, rtol=1e-5, atol=0)
    rows = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64).reshape(1, 2, 1, 3)
    margins = LocalLipSDP().constants(graph, x, radius, rows)
    assert margins.shape == (3, 2) and (margins <= found[:, None] * rows.reshape(2, 3).norm(dim=1) * (1 + 2e-3)).all()
    seen = (jacobians.mT @ rows.reshape(2, 3).mT).norm(dim=2).amax(1)
    assert (margins >= seen * (1 - 1e-9)).all()


def test_a_batch_is_its_balls_one_at_a_time_and_much_below_intervals():
    graph, generator = _network(1), torch.Generator().manual_seed(2)
    x = torch.rand(5, *graph.input_shape, generator=generator, dtype=torch.float64)
    radius = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    done = []
    found = LocalLipSDP(together=2, progress=done.append).constants(graph, x, radius)
    assert done == [2, 4, 5]
    with ThreadPoolExecutor(2) as pool:
        torch.testing.assert_close(LocalLipSDP(together=2).constants(graph, x, radius, executor=pool), found, rtol=2e-3, atol=0)
    for i in range(5):
        domain = Domain("ball", centre=x[i].numpy(), radius=radius[i].item(), norm=2.0)
        alone = LipSDP(deadline=Deadline()).bound(graph, domain, 2.0)
        assert alone.gap is not None and alone.gap < 1e-4
        assert found[i].item() == pytest.approx(alone.value, rel=2e-3)
        plain = LipSDP(deadline=Deadline(), enclosures=Enclosures(enclose_domain(graph, domain))).bound(graph, domain, 2.0)
        assert alone.value <= plain.value * (1 + 1e-4)
        assert alone.value <= LinearJacobian().bound(graph, domain, 2.0).value * (1 + 1e-4)
        if i == 2:
            assert alone.value <= 0.9 * plain.value
    within = Interval(x[4] - 0.02, x[4] + 0.02)
    assert LocalLipSDP().constants(graph, x[4:], 0.4, within=within).item() <= found[4].item()


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_are_proven_with_slopes_from_linear_bounds(seed):
    graph, domain = random_graph(seed)
    if domain.kind == "all":
        pytest.skip("unbounded")
    upper = LipSDP(deadline=Deadline.after(20.0), steps=10, exact=150).bound(graph, domain, 2.0)
    if upper.value == math.inf:
        pytest.skip("a product, or an unbounded slope")
    record = graph.record()
    assert check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record).holds


def _pooled():
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = Builder()
    x = b.input((1, 1, 6, 6))
    x = b.conv(x, normal(3, 1, 3, 3) / 2, normal(3) / 2, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x = b.max_pool(x, (3, 2), (2, 2), ((1, 0), (1, 0)), (1, 1))
    x = b.append(
        GroupSort(((1, 27, 2),)), b.reshape(b.conv(x, normal(6, 3, 1, 1) / 2, normal(6), (1, 1), ((0, 0), (0, 0)), (1, 1), 1), (1, 27, 2))
    )
    return b.finish(b.dense(b.reshape(x, (1, 54)), normal(3, 54) / 6))


@pytest.mark.parametrize("radius", [1e-6, 0.05, 0.4, 3.0])
def test_maxima_and_sorts_that_a_region_decides_are_linear(radius):
    graph, generator = _pooled(), torch.Generator().manual_seed(3)
    x = torch.randn(2, *graph.input_shape, generator=generator, dtype=torch.float64)
    found = LocalLipSDP().constants(graph, x, radius)
    seen = torch.linalg.matrix_norm(_jacobians(graph, _around(x, radius, 400, generator)).reshape(2, 400, 3, 36), 2).amax(1)
    assert (found >= seen * (1 - 1e-9)).all()
    record = graph.record()
    for i in range(2):
        domain = Domain("ball", centre=x[i].numpy(), radius=radius, norm=2.0)
        known = Enclosures.over(graph, domain)
        system = lure_system(graph, known.values)
        if radius == 1e-6:
            assert system.multipliers == 0 and found[i].item() == pytest.approx(seen[i].item(), rel=1e-5)
        if radius == 0.05:
            whole = lure_system(graph, enclose_domain(graph, Domain("all")))
            assert 0 < system.multipliers < 0.6 * whole.multipliers
        upper = LipSDP(deadline=Deadline(), steps=12).bound(graph, domain, 2.0)
        made = write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None)
        assert check(made, record).holds
        if radius == 0.05:
            # Over a larger ball more is undecided, and there are no multipliers for it.
            made["domain"]["radius"] = 0.4
            assert not check(made, record).holds


def test_a_dead_region_has_a_constant_of_about_zero():
    b = Builder()
    x = b.relu(b.dense(b.input((1, 2)), torch.eye(2, dtype=torch.float64), torch.tensor([-1.0, -1.0], dtype=torch.float64)))
    graph = b.finish(b.dense(x, torch.ones(1, 2, dtype=torch.float64)))
    assert (LocalLipSDP().constants(graph, torch.zeros(2, 1, 2), torch.tensor([0.5, 0.9])) < 1e-100).all()
    domain = Domain("ball", centre=np.zeros((1, 2)), radius=0.5, norm=2.0)
    upper = LipSDP().bound(graph, domain, 2.0)
    record = graph.record()
    assert check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record).holds


def test_what_has_no_constant_is_infinite():
    b = Builder()
    x = b.input((1, 2))
    graph = b.finish(b.multiply(x, b.dense(x, torch.eye(2, dtype=torch.float64))))
    assert LocalLipSDP().constants(graph, torch.ones(2, 1, 2), 0.1).tolist() == [math.inf, math.inf]


def test_bad_input_is_refused():
    graph = _network()
    x, local = torch.zeros(2, *graph.input_shape), LocalLipSDP()
    for bad in (x[:, 0], x * math.nan):
        with pytest.raises(UsageError, match="x is"):
            local.constants(graph, bad, 0.1)
    for radius in (-1.0, math.inf, torch.ones(3), math.nan):
        with pytest.raises(UsageError, match="radius"):
            local.constants(graph, x, radius)
    for shape in ((3, 2, 1, 3), (2, 1, 4), (1, 3)):
        with pytest.raises(UsageError, match="rows"):
            local.constants(graph, x, 0.1, torch.ones(shape))
    assert local.constants(graph, x[:0], 0.1).shape == (0,)
    assert local.constants(graph, x[:0], 0.1, torch.ones(1, 2, 1, 3)).shape == (0, 2)
    assert np.isfinite(local.constants(graph, x, 0.0).numpy()).all()
