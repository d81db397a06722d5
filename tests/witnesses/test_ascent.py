import itertools
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import absolute, affine, mixed, mlp, rand, unary

from steepest import ops
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.results import Domain
from steepest.witnesses.ascent import GradientAscent
from steepest.witnesses.secant import inside, slopes_below

NORMS = [1.0, 2.0, math.inf]
QUICK = GradientAscent(seconds=60.0, starts=8, steps=60)
ALL = Domain("all")


def box(lo, hi):
    return Domain("box", lo=np.asarray(lo, dtype=np.float64), hi=np.asarray(hi, dtype=np.float64))


def ball(centre, radius, norm):
    return Domain("ball", centre=np.asarray(centre, dtype=np.float64), radius=radius, norm=norm)


def verified(graph, domain, norm, found):
    """The claim, evaluated again from the stored pair alone."""
    pair = torch.from_numpy(np.stack([found.x, found.y]))
    assert found.x.shape == found.y.shape == graph.input_shape
    assert found.x.dtype == found.y.dtype == np.float64
    assert not np.array_equal(found.x, found.y)
    assert inside(domain, pair).all()
    assert found.value == pytest.approx(slopes_below(graph, pair[:1], pair[1:], norm).item(), rel=1e-9)
    return found.value


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 6), (80, 70)])
def test_linear_maps_are_exact(norm, shape):
    weight = rand(*shape)
    true = torch.linalg.matrix_norm(weight, norm).item()
    graph = affine(weight, rand(shape[0], seed=1))
    for domain in (ALL, box(np.zeros(shape[1]), np.ones(shape[1])), ball(np.ones(shape[1]), 0.1, 2.0)):
        value = verified(graph, domain, norm, QUICK.search(graph, domain, norm))
        assert true * (1 - 1e-6) <= value <= true * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_absolute_values_reach_the_known_constant(norm):
    weight = torch.tensor([[1.0, 2.0, -1.0], [3.0, -1.0, 0.5]], dtype=torch.float64)
    # With two independent rows every pattern of signs occurs.
    gradients = torch.stack([weight[0] + weight[1], weight[0] - weight[1]])
    true = gradients.norm(dim=1, p={1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]).max().item()
    graph = absolute(weight)
    value = verified(graph, ALL, norm, QUICK.search(graph, ALL, norm))
    assert true * (1 - 1e-9) <= value <= true * (1 + 1e-12)


def test_the_steep_part_is_outside_of_a_region():
    # relu(x - 3): slope one only beyond three.
    b = Builder()
    graph = b.finish(b.relu(b.scale(b.input((1,)), 1.0, -3.0)))
    assert verified(graph, ALL, 2.0, QUICK.search(graph, ALL, 2.0)) == pytest.approx(1.0, rel=1e-9)
    assert verified(graph, box([0.0], [2.0]), 2.0, QUICK.search(graph, box([0.0], [2.0]), 2.0)) == 0.0
    assert verified(graph, box([0.0], [4.0]), 2.0, QUICK.search(graph, box([0.0], [4.0]), 2.0)) == pytest.approx(1.0, rel=1e-9)


DOMAINS = [
    box([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    box([-np.inf, 0.2, 0.0], [1.0, 0.2, np.inf]),
    box([-np.inf, -np.inf, 5.0], [np.inf, np.inf, np.nextafter(5.0, 6.0)]),
    box([1e3, 1e-9, -5.0], [1e3 + 1e-3, 1e-8, 5.0]),
    ball([100.0, 0.0, 1.0], 0.5, 1.0),
    ball([100.0, 0.0, 1.0], 0.5, 2.0),
    ball([100.0, 0.0, 1.0], 1e-7, math.inf),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=range(len(DOMAINS)))
@pytest.mark.parametrize("norm", NORMS)
def test_pairs_lie_in_the_domain(domain, norm):
    graph = mlp(3, 12, 2)
    found = replace(QUICK, steps=16).search(graph, domain, norm)
    assert found is not None
    value = verified(graph, domain, norm, found)
    assert value > 0
    assert found.jacobian_norm is not None and found.jacobian_norm >= 0.5 * value


def test_fixed_coordinates_do_not_count():
    graph = affine(torch.tensor([[1.0, 50.0]], dtype=torch.float64))
    domain = box([0.0, 1.0], [1.0, 1.0])
    found = QUICK.search(graph, domain, 2.0)
    assert verified(graph, domain, 2.0, found) == pytest.approx(1.0, rel=1e-9)
    assert found.jacobian_norm == pytest.approx(1.0)


def test_degenerate_domains_have_no_pair():
    graph = mlp(2, 3, 1)
    assert QUICK.search(graph, box([0.5, 1.0], [0.5, 1.0]), 2.0) is None
    assert QUICK.search(graph, ball([0.5, 1.0], 0.0, 2.0), 2.0) is None
    # No float64 but the centre lies within.
    assert QUICK.search(graph, ball([1e9, 1e9], 1e-9, 2.0), 2.0) is None


def test_a_domain_of_two_neighbouring_numbers():
    graph = affine(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    domain = box([1.0, 0.0], [np.nextafter(1.0, 2.0), 0.0])
    found = QUICK.search(graph, domain, 2.0)
    assert found is not None and found.value >= 0
    verified(graph, domain, 2.0, found)


def test_constant_networks_have_slope_zero():
    b = Builder()
    x = b.input((3,))
    graph = b.finish(b.relu(b.scale(x, 0.0, -1.0)))
    for domain in (ALL, DOMAINS[0], DOMAINS[4]):
        found = QUICK.search(graph, domain, 2.0)
        assert found is not None and verified(graph, domain, 2.0, found) == 0.0


@pytest.mark.parametrize("domain", [ALL, DOMAINS[0]], ids=["all", "box"])
def test_a_seed_determines_the_result(domain):
    graph = mlp(3, 10, 10, 2)
    first, second = (replace(QUICK, seed=5).search(graph, domain, 2.0) for _ in range(2))
    assert first.value == second.value
    assert np.array_equal(first.x, second.x) and np.array_equal(first.y, second.y)


@pytest.mark.parametrize("kind", [ops.Reciprocal, ops.Exp, ops.Log, ops.Sqrt])
def test_values_that_are_not_finite_are_survived(kind):
    graph = unary(kind, scale=100.0)
    for domain in (ALL, box([-1.0, -1.0], [1.0, 1.0]), box([1.0, 1.0], [2.0, 2.0])):
        found = QUICK.search(graph, domain, 2.0)
        assert found is not None and math.isfinite(found.value)
        verified(graph, domain, 2.0, found)
    # The slope of each is largest at one of the ends.
    ends = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(graph.evaluate(ends).sum(), ends)[0].abs()
    assert found.value == pytest.approx(slopes.max().item(), rel=0.05)


def test_every_kind_of_operator_can_be_searched():
    graph = mixed()
    for norm in NORMS:
        found = replace(QUICK, steps=30).search(graph, ALL, norm)
        plain = replace(QUICK, steps=1, starts=1).search(graph, ALL, norm)
        assert verified(graph, ALL, norm, found) > verified(graph, ALL, norm, plain) > 0


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_scale_of_the_inputs_does_not_matter(size):
    b = Builder()
    x = b.scale(b.input((20,)), 1.0 / size)
    x = b.relu(b.dense(x, rand(30, 20), rand(30, seed=1)))
    graph = b.finish(b.dense(x, rand(3, 30, seed=2)))
    unit = mlp_like()
    data = size * rand(50, 20, seed=3)
    reference = QUICK.search(unit, ALL, 2.0, data / size).value
    assert size * verified(graph, ALL, 2.0, QUICK.search(graph, ALL, 2.0, data)) >= 0.8 * reference


def mlp_like():
    b = Builder()
    x = b.relu(b.dense(b.input((20,)), rand(30, 20), rand(30, seed=1)))
    return b.finish(b.dense(x, rand(3, 30, seed=2)))


def test_finds_more_than_sampling():
    graph = mlp(20, 40, 40, 3, seed=7)
    x = rand(3000, 20, seed=1)
    moved = x + 1e-4 * torch.nn.functional.normalize(rand(3000, 20, seed=2), dim=1)
    sampled = slopes_below(graph, x, moved, 2.0).max().item()
    assert verified(graph, ALL, 2.0, replace(QUICK, steps=200).search(graph, ALL, 2.0)) > 2.2 * sampled


def norms_over_gates(graph, norm):
    """The largest norm of ``W_2 D W_1`` over all patterns of gates: every one occurs where the rows of W_1 are independent."""
    first, second = (node.op.weight for node in graph.nodes if isinstance(node.op, ops.Dense))
    gates = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(first))), dtype=torch.float64)
    return torch.linalg.matrix_norm(second @ (gates[:, :, None] * first), norm).max().item()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(12, 10, 3), (30, 10, 8), (11, 11, 1)])
def test_reaches_the_maximum_over_all_gates(shape, norm):
    graph = mlp(*shape, seed=sum(shape))
    true = norms_over_gates(graph, norm)
    value = verified(graph, ALL, norm, replace(QUICK, starts=32, steps=400).search(graph, ALL, norm))
    assert 0.99 * true <= value <= true * (1 + 1e-12)


@pytest.mark.parametrize("domain", [box([-1.0, 0.0], [1.0, 0.5]), ball([0.5, 0.0], 0.7, 2.0)], ids=["box", "ball"])
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_maximum_over_a_grid(domain, norm):
    graph = mlp(2, 14, 14, 2, seed=11)
    line = torch.linspace(-1.2, 1.2, 241, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    x = x[inside(domain, x)]
    weights = [node.op for node in graph.nodes if isinstance(node.op, ops.Dense)]
    slope, z = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2), x
    for op in weights[:-1]:
        z = z @ op.weight.mT + op.bias
        slope, z = (op.weight @ slope) * (z > 0)[..., None], z.clamp(min=0)
    most = torch.linalg.matrix_norm(weights[-1].weight @ slope, norm).max().item()
    value = verified(graph, domain, norm, replace(QUICK, steps=600).search(graph, domain, norm))
    assert value >= 0.99 * most


def test_a_request_to_stop_ends_the_search_with_what_it_has():
    graph, stop = mlp(100, 200, 200, 10), Deadline()
    timer = threading.Timer(0.6, stop.stop, ["enough"])
    timer.start()
    found = GradientAscent(seconds=600.0, stop=stop).search(graph, ALL, 2.0)
    timer.join()
    assert found is not None and found.seconds < 30.0
    assert verified(graph, ALL, 2.0, found) > 0


def test_the_wall_clock_ends_the_search_too():
    found = GradientAscent(seconds=600.0, stop=Deadline.after(0.5)).search(mlp(100, 200, 200, 10), ALL, 2.0)
    assert found is not None and 0 < found.value and found.seconds < 30.0


def test_time_limit_is_kept():
    graph, began = mlp(200, 500, 500, 10), time.thread_time()
    found = GradientAscent(seconds=0.5).search(graph, ALL, 2.0)
    assert found is not None and found.value > 0
    # Of computing: whatever else runs on the machine.
    assert time.thread_time() - began < 1.5


def test_data_outside_of_the_domain_are_drawn_in():
    graph = mlp(3, 12, 2)
    data = 100.0 * rand(10, 3)
    verified(graph, DOMAINS[0], 2.0, QUICK.search(graph, DOMAINS[0], 2.0, data))
