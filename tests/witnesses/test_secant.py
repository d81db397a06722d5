import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import mixed, mlp, rand, unary

from steepest import ops
from steepest.numerics.interval import Interval
from steepest.results import Domain
from steepest.witnesses.secant import inside, make_room, norm_above, norm_below, pull_inside, slopes_below

NORMS = [1.0, 2.0, math.inf]


def exact(tensor):
    return [Fraction(v) for v in tensor.flatten().tolist()]


def exact_relu_net(graph, x):
    """The network in rational arithmetic."""
    values = exact(x)
    for node in graph.nodes[1:]:
        if isinstance(node.op, ops.Dense):
            rows = [[Fraction(v) for v in row] for row in node.op.weight.tolist()]
            bias = exact(node.op.bias)
            values = [sum((w * v for w, v in zip(row, values, strict=True)), b) for row, b in zip(rows, bias, strict=True)]
        else:
            assert isinstance(node.op, ops.LeakyRelu)
            values = [max(v, Fraction(0)) for v in values]
    return values


def power_norm(values, p):
    """``|x|_p`` exactly, or its square for p = 2."""
    if p == 1:
        return sum((abs(v) for v in values), Fraction(0))
    if p == 2:
        return sum((v * v for v in values), Fraction(0))
    return max(abs(v) for v in values)


@pytest.mark.parametrize("p", NORMS)
def test_slope_is_below_the_exact_one_and_close(p):
    graph = mlp(3, 7, 6, 2)
    x = rand(30, 3, seed=1)
    y = x + 10.0 ** torch.linspace(-9, 1, 30, dtype=torch.float64)[:, None] * rand(30, 3, seed=2)
    slopes = slopes_below(graph, x, y, p)
    for a, b, slope in zip(x, y, slopes.tolist(), strict=True):
        rise = power_norm([u - v for u, v in zip(exact_relu_net(graph, a), exact_relu_net(graph, b), strict=True)], p)
        run = power_norm([u - v for u, v in zip(exact(a), exact(b), strict=True)], p)
        claimed = Fraction(slope) ** (2 if p == 2 else 1)
        assert claimed * run <= rise
        assert float(claimed) >= float(rise / run) * (1 - 1e-4) - 1e-4


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_norms_enclose(p, scale):
    x = scale * rand(20, 9)
    above, below = norm_above(Interval.point(x), p), norm_below(Interval.point(x), p)
    for row, high, low in zip(x, above.tolist(), below.tolist(), strict=True):
        true = power_norm(exact(row), p)
        power = 2 if p == 2 else 1
        assert Fraction(low) ** power <= true <= Fraction(high) ** power
        assert low >= high * (1 - 1e-13)


def test_norm_below_of_a_wide_set_is_its_least():
    x = Interval(torch.tensor([[-1.0, 2.0, -5.0]], dtype=torch.float64), torch.tensor([[1.0, 3.0, -4.0]], dtype=torch.float64))
    for p, least in ((1.0, 6.0), (2.0, 20**0.5), (math.inf, 4.0)):
        assert norm_below(x, p).item() == pytest.approx(least)


def test_equal_points_and_unknown_values_give_zero():
    graph = unary(ops.Reciprocal)
    x = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    slopes = slopes_below(graph, x, y, 2.0)
    assert slopes[0] == 0 and slopes[1] == 0 and slopes[2] == pytest.approx(0.5)


def test_batch_does_not_matter():
    graph = mixed()
    x, y = rand(6, *graph.input_shape, seed=1), rand(6, *graph.input_shape, seed=2)
    together = slopes_below(graph, x, y, 2.0)
    alone = torch.cat([slopes_below(graph, x[i : i + 1], y[i : i + 1], 2.0) for i in range(6)])
    assert torch.allclose(together, alone, rtol=1e-10)
    assert (together > 0).all()


DOMAINS = [
    Domain("all"),
    Domain("box", lo=np.array([-1.0, 0.1, 2.0]), hi=np.array([0.3, 0.1, 2.5])),
    Domain("box", lo=np.array([-np.inf, 0.1, 2.0]), hi=np.array([0.3, np.inf, np.nextafter(2.0, 3.0)])),
    *[Domain("ball", centre=np.array([0.1, 1e3, -7.7]), radius=radius, norm=q) for q in NORMS for radius in (0.3, 1e-6)],
]


def exactly_inside(domain, x):
    values = exact(x)
    if domain.kind == "all":
        return True
    if domain.kind == "box":
        lo, hi = domain.lo.tolist(), domain.hi.tolist()
        return all(
            (a == -math.inf or Fraction(a) <= v) and (b == math.inf or v <= Fraction(b)) for a, v, b in zip(lo, values, hi, strict=True)
        )
    offset = [v - Fraction(c) for v, c in zip(values, domain.centre.tolist(), strict=True)]
    return power_norm(offset, domain.norm) <= Fraction(domain.radius) ** (2 if domain.norm == 2 else 1)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: f"{d.kind}-{d.norm}-{d.radius}")
def test_points_pulled_inside_are_inside_exactly(domain):
    near = torch.from_numpy(domain.centre) if domain.kind == "ball" else torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    x = near + (domain.radius or 1.0) * 10.0 ** torch.linspace(-2, 3, 60, dtype=torch.float64)[:, None] * rand(60, 3)
    pulled = pull_inside(domain, x)
    accepted = inside(domain, pulled)
    assert all(exactly_inside(domain, p) for p in pulled[accepted])
    # Beside a centre of 1000, a radius of 1e-6 keeps seven digits: points at the surface may fail the margin, none may pass wrongly.
    assert accepted.all() or domain.radius == 1e-6
    assert not any(inside(domain, q[None]).item() for q in x if not exactly_inside(domain, q))


@pytest.mark.parametrize("domain", DOMAINS[1:], ids=lambda d: f"{d.kind}-{d.norm}-{d.radius}")
def test_room_is_made_for_both_ends(domain):
    near = torch.from_numpy(domain.centre) if domain.kind == "ball" else torch.tensor([0.3, 0.1, 2.0], dtype=torch.float64)
    x = pull_inside(domain, near + (domain.radius or 1.0) * rand(20, 3))
    move = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) * 0.2 * (domain.radius or 1.0)
    middle = make_room(domain, x, move.expand_as(x))
    for end in (middle - move, middle + move):
        assert torch.allclose(pull_inside(domain, end), end, rtol=0, atol=1e-12)
