"""Linear bounds propagated backwards hold every value, are never wider than intervals, and are what CROWN says they are."""

import itertools
import math

import numpy as np
import pytest
import torch

from random_graphs import random_graph
from steepest import ops
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops.backward import BackwardBounds, Region, tighten_ball, tighten_domain
from steepest.ops.region import enclose_ball, enclose_domain
from steepest.results import Domain


def _values(graph, x):
    found = [x]
    for node in graph.nodes[1:]:
        found.append(node.op.evaluate(*(found[i] for i in node.inputs)))
    return found


def _inside(domain, shape, count, generator):
    """Points of the domain, half of them on its edge."""
    if domain.kind == "box":
        lo, hi = (torch.from_numpy(e) for e in domain.bounds(shape))
        share = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        share[::2] = share[::2].round()
        return lo + (hi - lo) * share
    noise = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    noise[::4] = noise[::4].sign()
    length = torch.linalg.vector_norm(noise.flatten(1), domain.norm, dim=1)
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    share[::2] = 1.0 - 1e-12
    return torch.from_numpy(domain.centre) + noise * (share * domain.radius / length).reshape(-1, *[1] * len(shape))


def _mlp(sizes, activation, seed):
    torch.manual_seed(seed)
    b = Builder()
    x = b.input((1, sizes[0]))
    for n, m in itertools.pairwise(sizes):
        if n != sizes[0]:
            x = b.unary(activation, x) if activation is not ops.LeakyRelu else b.relu(x)
        x = b.dense(x, torch.randn(m, n) / n**0.5, torch.randn(m))
    return b.finish(x)


@pytest.mark.parametrize("seed", range(80))
def test_values_of_random_networks_lie_within(seed):
    graph, domain = random_graph(seed)
    if domain.kind == "all":
        pytest.skip("unbounded")
    plain, tight = enclose_domain(graph, domain), tighten_domain(graph, domain)
    values = _values(graph, _inside(domain, graph.input_shape, 400, torch.Generator().manual_seed(seed)))
    for value, before, after in zip(values, plain, tight, strict=True):
        slack = 1e-12 * (1 + value.abs())
        assert ((value >= after.lo - slack) & (value <= after.hi + slack)).all()
        assert ((after.lo >= before.lo) & (after.hi <= before.hi)).all()


def _crown(weights, biases, lo, hi):
    """The same for a ReLU network over a box, written densely, neuron by neuron."""
    pre = []
    for k in range(len(weights)):
        ends = []
        for row in range(len(weights[k])):
            for sign in (1.0, -1.0):
                a, c = sign * weights[k][row], sign * biases[k][row]
                for j in range(k - 1, -1, -1):
                    new = np.zeros(len(a))
                    for i in range(len(a)):
                        low, high = pre[j][i]
                        if low >= 0:
                            new[i] = a[i]
                        elif high > 0:
                            if a[i] >= 0:
                                new[i] = a[i] if high > -low else 0.0
                            else:
                                new[i], c = a[i] * high / (high - low), c - a[i] * high * low / (high - low)
                    a, c = new @ weights[j], c + new @ biases[j]
                ends.append(c + np.minimum(a * lo, a * hi).sum())
        pre.append([(ends[2 * i], -ends[2 * i + 1]) for i in range(len(weights[k]))])
    return pre


def test_a_relu_network_has_the_bounds_of_crown():
    graph = _mlp((4, 7, 6, 5, 3), ops.LeakyRelu, 3)
    weights = [n.op.weight.numpy() for n in graph.nodes if isinstance(n.op, ops.Dense)]
    biases = [n.op.bias.numpy() for n in graph.nodes if isinstance(n.op, ops.Dense)]
    x = np.random.default_rng(0).normal(size=(1, 4))
    expected = _crown(weights, biases, x[0] - 0.3, x[0] + 0.3)
    found = tighten_domain(graph, Domain("ball", centre=x, radius=0.3, norm=math.inf))
    layers = [f for f, n in zip(found, graph.nodes, strict=True) if isinstance(n.op, ops.Dense)]
    # Stable neurons keep their intervals, which may be the better ones; the output is bounded backwards whole.
    assert (layers[-1].lo[0].numpy() >= [low - 1e-9 for low, _ in expected[-1]]).all()
    assert (layers[-1].hi[0].numpy() <= [high + 1e-9 for _, high in expected[-1]]).all()
    np.testing.assert_allclose(layers[-1].lo[0], [low for low, _ in expected[-1]], rtol=0.02)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_affine_networks_are_bounded_exactly(p):
    torch.manual_seed(5)
    b = Builder()
    x = b.input((1, 6))
    y = b.dense(x, torch.randn(6, 6), torch.randn(6))
    y = b.add(x, b.dense(y, torch.randn(6, 6), torch.randn(6)))
    graph = b.finish(b.dense(y, torch.randn(3, 6), torch.randn(3)))
    centre = torch.randn(1, 6, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda t: graph.evaluate(t))(centre).reshape(3, 6)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    reach = 0.7 * torch.linalg.vector_norm(jacobian, dual, dim=1)
    found = tighten_domain(graph, Domain("ball", centre=centre.numpy(), radius=0.7, norm=p))[-1]
    torch.testing.assert_close(found.lo[0], graph.evaluate(centre)[0] - reach, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.hi[0], graph.evaluate(centre)[0] + reach, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_batch_is_its_samples(p):
    graph = _mlp((6, 8, 8, 3), ops.Tanh, 1)
    x = torch.randn(5, 1, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    radius = torch.tensor([0.0, 0.01, 0.1, 1.0, 10.0], dtype=torch.float64)
    whole = tighten_ball(graph, x, radius, p, bounds=BackwardBounds(entries=512))
    for i in range(5):
        alone = tighten_ball(graph, x[i], radius[i], p)
        for a, b in zip(whole, alone, strict=True):
            torch.testing.assert_close(a.lo[i], b.lo, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(a.hi[i], b.hi, rtol=1e-9, atol=1e-11)


def test_a_box_cuts_the_ball():
    graph = _mlp((6, 8, 8, 3), ops.LeakyRelu, 4)
    x, radius = torch.zeros(1, 6, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    pixels = Interval(torch.zeros(1, 6, dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64))
    free, cut = tighten_ball(graph, x, radius, math.inf), tighten_ball(graph, x, radius, math.inf, pixels)
    half = tighten_domain(graph, Domain("box", lo=np.zeros((1, 6)), hi=np.full((1, 6), 0.5)))
    assert (cut[-1].hi - cut[-1].lo < free[-1].hi - free[-1].lo).all()
    torch.testing.assert_close(cut[-1].lo, half[-1].lo)


def test_signs_that_are_assumed_cut_further_and_may_leave_nothing():
    graph = _mlp((2, 4, 2), ops.LeakyRelu, 0)
    region = Region.of_ball(torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64), math.inf)
    free = BackwardBounds().over(graph, region)
    known = [x.map(torch.clone) for x in free]
    known[1].lo[0, 0, :] = known[1].lo[0, 0, :].clamp(min=0.0)
    cut = BackwardBounds().over(graph, region, known)
    assert (cut[-1].hi - cut[-1].lo <= free[-1].hi - free[-1].lo + 1e-12).all()
    known[1].lo[0, 0, 0] = free[1].hi[0, 0, 0] + 1.0
    assert (BackwardBounds().over(graph, region, known)[1].lo[0, 0, 0] > known[1].hi[0, 0, 0]).all()


def test_order_of_neurons_and_scale_of_layers_do_not_matter():
    graph = _mlp((5, 9, 4), ops.LeakyRelu, 6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    first, second = (n.op for n in graph.nodes if isinstance(n.op, ops.Dense))
    b = Builder()
    x = b.relu(b.dense(b.input((1, 5)), 4.0 * first.weight[order], 4.0 * first.bias[order]))
    other = b.finish(b.dense(x, second.weight[:, order] / 4.0, second.bias))
    x, radius = torch.ones(1, 5, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    a, c = (tighten_ball(g, x, radius, 2.0)[-1] for g in (graph, other))
    torch.testing.assert_close(a.lo, c.lo, rtol=1e-11, atol=1e-11)


def test_past_its_deadline_or_without_work_it_gives_intervals():
    graph = _mlp((5, 9, 9, 4), ops.LeakyRelu, 6)
    x, radius = torch.ones(1, 5, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    plain = enclose_ball(graph, x, radius, 2.0)[-1]
    for bounds in (BackwardBounds(work=1.0), BackwardBounds(deadline=Deadline.after(-1.0))):
        found = tighten_ball(graph, x, radius, 2.0, bounds=bounds)[-1]
        torch.testing.assert_close(found.lo, plain.lo, rtol=1e-12, atol=1e-12)
