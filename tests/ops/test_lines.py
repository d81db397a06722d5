"""Every line lies on its side of the function, and is as near to it as a line can be."""

import inspect

import pytest
import torch

from steepest import ops
from steepest.numerics.interval import Interval
from steepest.ops.lines import lines

S = (12,)
ONES = torch.ones(1, dtype=torch.float64)
FUNCTIONS = {
    "relu": ops.LeakyRelu((S,), 0.0 * ONES),
    "leaky": ops.LeakyRelu((S,), torch.linspace(-2.0, 2.0, 12, dtype=torch.float64)),
    "absolute": ops.LeakyRelu((S,), -ONES),
    "clamp": ops.Clamp((S,), -0.5, 1.0),
    "clamp-above": ops.Clamp((S,), None, 0.2),
    "hard_swish": ops.HardSwish((S,)),
    "steep elu": ops.Elu((S,), 2.5),
    "square": ops.Power((S,), 2),
    "cube": ops.Power((S,), 3),
    **{
        c.__name__.lower(): c((S,))
        for c in vars(ops).values()
        if inspect.isclass(c) and issubclass(c, ops.Smooth) and not inspect.isabstract(c)
    },
    **{c.__name__.lower(): c((S,)) for c in (ops.Sin, ops.Cos, ops.Log, ops.Sqrt, ops.Reciprocal)},
}
LEAPS = {"hard_swish", "elu", "steep elu"}
"""Of slopes that leap between points of the grid."""
POSITIVE = {"log", "sqrt", "reciprocal"}
ALL = pytest.mark.parametrize("name", FUNCTIONS)


def _intervals(name, width, generator):
    middle = 2.5 * torch.randn(12, *S, generator=generator, dtype=torch.float64)
    radius = width * torch.rand(12, *S, generator=generator, dtype=torch.float64)
    if name in POSITIVE:
        middle = middle.abs() + 1.1 * radius + 1e-3
    return Interval(middle - radius, middle + radius)


def _points(x, count):
    share = torch.linspace(0.0, 1.0, count, dtype=torch.float64).reshape(-1, 1, 1)
    return torch.minimum(torch.maximum(x.lo + share * (x.hi - x.lo), x.lo), x.hi)


@ALL
@pytest.mark.parametrize("width", [0.0, 1e-14, 1e-6, 0.1, 1.0, 10.0, 300.0])
def test_lines_lie_on_their_side(name, width):
    op, x = FUNCTIONS[name], _intervals(name, width, torch.Generator().manual_seed(1))
    found, t = lines(op, x), _points(x, 401)
    f = op.evaluate(t)
    low, high = found.lower_slope * t + found.lower_offset, found.upper_slope * t + found.upper_offset
    slack = 1e-13 * (1 + f.abs() + (found.lower_slope * t).abs() + (found.upper_slope * t).abs())
    assert (low <= f + slack).all()
    assert (high >= f - slack).all()
    assert torch.isfinite(found.lower_slope).all()
    assert torch.isfinite(found.upper_slope).all()


@ALL
@pytest.mark.parametrize("width", [0.1, 1.0, 4.0])
def test_no_line_leaves_a_smaller_area(name, width):
    op, x = FUNCTIONS[name], _intervals(name, width, torch.Generator().manual_seed(2))
    if name == "reciprocal":
        x = Interval(x.lo + 0.5, x.hi + 0.5)
    found, t = lines(op, x), _points(x, 201)
    f, middle = op.evaluate(t), 0.5 * (x.lo + x.hi)
    # A slow reference: the highest of the lines of two hundred slopes at the middle.
    for sign, slope, offset in ((1.0, found.lower_slope, found.lower_offset), (-1.0, found.upper_slope, found.upper_offset)):
        range_ = op.slopes(x)
        best = torch.full_like(middle, -torch.inf)
        for share in torch.linspace(0.0, 1.0, 201, dtype=torch.float64):
            tried = sign * (range_.lo + share * (range_.hi - range_.lo))
            best = torch.maximum(best, (sign * f - tried * (t - middle)).amin(0))
        reached = sign * (slope * middle + offset)
        spread = (f - f[0] - (f[-1] - f[0]) * torch.linspace(0.0, 1.0, 201, dtype=torch.float64).reshape(-1, 1, 1)).abs().amax(0)
        assert (reached >= best - (0.2 if name in LEAPS else 0.05) * spread - 1e-9).all()


@ALL
def test_where_the_slope_is_one_number_both_lines_are_the_function(name):
    op = FUNCTIONS[name]
    if op.kinks is None:
        pytest.skip("it bends everywhere")
    lo = torch.tensor([[-3.0], [2.0], [-0.4]], dtype=torch.float64).expand(3, *S)
    found = lines(op, Interval(lo, lo + 0.1))
    straight = op.slopes(Interval(lo, lo + 0.1))
    fixed = straight.lo == straight.hi
    t = lo + 0.05
    for slope, offset in ((found.lower_slope, found.lower_offset), (found.upper_slope, found.upper_offset)):
        torch.testing.assert_close((slope * t + offset)[fixed], op.evaluate(t)[fixed], rtol=1e-14, atol=1e-14)


def test_over_unbounded_sets_they_are_flat():
    whole = Interval.whole((2, *S))
    found = lines(FUNCTIONS["tanh"], whole)
    assert (found.lower_slope == 0).all()
    assert ((found.lower_offset <= -1.0) & (found.lower_offset >= -1.0 - 1e-12)).all()
    assert (lines(FUNCTIONS["relu"], whole).upper_offset == torch.inf).all()


def test_a_relu_has_the_chord_above_and_the_nearer_side_below():
    x = Interval(torch.tensor([[-1.0] * 12, [-3.0] * 12]).double(), torch.tensor([[2.0] * 12, [1.0] * 12]).double())
    found = lines(FUNCTIONS["relu"], x)
    torch.testing.assert_close(found.lower_slope[:, 0], torch.tensor([1.0, 0.0]).double())
    torch.testing.assert_close(found.upper_slope[:, 0], torch.tensor([2 / 3, 1 / 4]).double())
    torch.testing.assert_close(found.upper_offset[:, 0], torch.tensor([2 / 3, 3 / 4]).double())
