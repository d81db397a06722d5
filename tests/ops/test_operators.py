"""Every operator: enclosures, pulled back cotangents, constants, adjoints, norms, dtypes and tangents against what it does at points."""

import inspect
import json
import math

import numpy as np
import pytest
import torch

from steepest import ops
from steepest.graph import Operator
from steepest.numerics.interval import Interval
from steepest.ops.kinds import Affine, Rearrangement

_random = torch.Generator().manual_seed(7)


def rand(*shape):
    return torch.randn(*shape, generator=_random, dtype=torch.float64)


def scalar(value):
    return torch.full((1, 1), value, dtype=torch.float64)


INDEX = torch.tensor([[0, 1, 2], [2, 3, -1]])
APART = torch.tensor([[0, 1], [2, 3]])
MASK = torch.tensor([[1, 0, 1, 1]])
S = ((1, 4),)

EXAMPLES = {
    "conv-1d": ops.Conv(((1, 2, 7),), rand(4, 1, 3), rand(4), (2,), ((1, 0),), (2,), 2),
    "conv-2d": ops.Conv(((1, 2, 5, 4),), rand(3, 2, 2, 3), rand(3), (1, 2), ((0, 1), (2, 1)), (2, 1), 1),
    "conv-3d": ops.Conv(((1, 1, 3, 3, 3),), rand(2, 1, 2, 2, 2), rand(2), (1, 1, 2), ((0, 0), (1, 0), (0, 1)), (1, 1, 1), 1),
    "conv-mirrored": ops.Conv(((1, 2, 5, 6),), rand(3, 2, 3, 3), rand(3), (1, 2), ((1, 1), (2, 1)), (1, 1), 1, ("replicate", "reflect")),
    "conv-circular": ops.Conv(((1, 2, 5, 6),), rand(2, 1, 3, 2), rand(2), (1, 1), ((1, 1), (1, 1)), (1, 1), 2, ("circular", "zeros")),
    "conv_transpose": ops.ConvTranspose(((1, 2, 3, 3),), rand(2, 3, 2, 2), rand(3), (2, 1), ((0, 1), (0, 0)), (1, 1), 1, (5, 4)),
    "dense": ops.Dense(((1, 5),), rand(3, 5), rand(3)),
    "scale": ops.Scale(((2, 3),), rand(1, 3), rand(2, 1)),
    "reshape": ops.Reshape(((2, 3),), (3, 2)),
    "permute": ops.Permute(((2, 3, 4),), (2, 0, 1)),
    "select": ops.Select(((1, 4),), torch.tensor([[0, 0, -1], [3, 1, 0]]), 0.5),
    "relu": ops.LeakyRelu(S, scalar(0.0)),
    "leaky": ops.LeakyRelu(S, rand(1, 4)),
    "absolute": ops.LeakyRelu(S, scalar(-1.0)),
    "clamp": ops.Clamp(S, -0.5, 1.0),
    "clamp-above": ops.Clamp(S, None, 0.2),
    "hard_swish": ops.HardSwish(S),
    **{
        c.__name__.lower(): c(S)
        for c in vars(ops).values()
        if inspect.isclass(c) and issubclass(c, ops.Smooth) and not inspect.isabstract(c)
    },
    "sin": ops.Sin(S),
    "cos": ops.Cos(S),
    "log": ops.Log(S),
    "sqrt": ops.Sqrt(S),
    "reciprocal": ops.Reciprocal(S),
    "square": ops.Power(S, 2),
    "cube": ops.Power(S, 3),
    "group_max": ops.GroupMax(S, INDEX),
    "group_max-apart": ops.GroupMax(S, APART),
    "group_sort": ops.GroupSort(S),
    "softmax": ops.Softmax(S, torch.ones(1, 4, dtype=torch.int64)),
    "softmax-masked": ops.Softmax(S, MASK),
    "log_softmax": ops.LogSoftmax(S),
    "normalize": ops.Normalize(S, True, 0.1),
    "normalize-uncentred": ops.Normalize(S, False, 0.1),
    "add": ops.Add(((2, 3), (2, 3)), (1, -1)),
    "concat": ops.Concat(((2, 3), (2, 2)), 1),
    "multiply": ops.Multiply(((2, 3), (2, 3))),
    "matmul": ops.MatMul(((2, 3), (3, 2))),
}
MEETING = {"conv-mirrored"}
"""Where two weights meet in one entry of the matrix, sums of magnitudes are upper bounds."""
POSITIVE = {"log", "sqrt", "reciprocal"}
ALL = pytest.mark.parametrize("name", EXAMPLES)
AFFINE = pytest.mark.parametrize("name", [n for n, op in EXAMPLES.items() if isinstance(op, Affine)])


def boxes(name, width, generator):
    """A box for each input."""
    found = []
    for shape in EXAMPLES[name].in_shapes:
        centre = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
        if name in POSITIVE:
            centre = centre.abs() + 1.1 * width + 0.05
        found.append(Interval(centre - width, centre + width))
    return found


def points(xs, count, generator):
    """Points of the boxes, a third of them corners."""
    drawn = []
    for x in xs:
        share = torch.rand(count, *x.shape, generator=generator, dtype=torch.float64)
        share[::3] = share[::3].round()
        drawn.append(torch.minimum(torch.maximum(x.lo + share * (x.hi - x.lo), x.lo), x.hi))
    return drawn


def test_every_operator_is_here():
    known = {c for c in vars(ops).values() if inspect.isclass(c) and issubclass(c, Operator) and not inspect.isabstract(c)}
    assert known == {type(op) for op in EXAMPLES.values()}


@ALL
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.3, 2.0])
def test_values_lie_in_the_enclosure(name, width):
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        xs = boxes(name, width, generator)
        image = EXAMPLES[name].enclose(*xs)
        values = EXAMPLES[name].evaluate(*points(xs, 200, generator))
        slack = 1e-12 * (1 + values.abs())
        assert ((values >= image.lo - slack) & (values <= image.hi + slack)).all()


@ALL
@pytest.mark.parametrize("width", [1e-6, 0.3, 2.0])
def test_gradients_lie_in_the_pullback(name, width):
    op, generator = EXAMPLES[name], torch.Generator().manual_seed(2)
    xs = boxes(name, width, generator)
    g = torch.randn(3, *op.shape, generator=generator, dtype=torch.float64)
    held = op.pullback(Interval.point(g), *xs)
    for _ in range(20):
        at = [(b.lo + torch.rand(b.shape, generator=generator, dtype=torch.float64) * (b.hi - b.lo)).requires_grad_(True) for b in xs]
        value = op.evaluate(*at)
        for row in range(3):
            for i, part in enumerate(torch.autograd.grad(value, at, g[row], retain_graph=True)):
                slack = 1e-11 * (1 + part.abs())
                assert ((part >= held[i].lo[row] - slack) & (part <= held[i].hi[row] + slack)).all()
    batch = op.pullback(Interval.point(torch.stack([g, g])), *(x.map(lambda t: torch.stack([t, t])) for x in xs))
    for one, both in zip(held, batch, strict=True):
        torch.testing.assert_close(both.lo[1], one.lo)


@ALL
@pytest.mark.parametrize("width", [1e-6, 0.3, 2.0])
def test_derivatives_along_directions_lie_in_the_push(name, width):
    op, generator = EXAMPLES[name], torch.Generator().manual_seed(4)
    xs = boxes(name, width, generator)
    ds = tuple(torch.randn(3, *x.shape, generator=generator, dtype=torch.float64) for x in xs)
    held = op.push(ds, *xs)
    for _ in range(20):
        at = tuple(b.lo + torch.rand(b.shape, generator=generator, dtype=torch.float64) * (b.hi - b.lo) for b in xs)
        for row in range(3):
            moved = torch.autograd.functional.jvp(op.evaluate, at, tuple(d[row] for d in ds))[1]
            slack = 1e-11 * (1 + moved.abs())
            assert ((moved >= held.lo[row] - slack) & (moved <= held.hi[row] + slack)).all()
    batch = op.push(tuple(torch.stack([d, d]) for d in ds), *(x.map(lambda t: torch.stack([t, t])) for x in xs))
    torch.testing.assert_close(batch.hi[1].expand(held.hi.shape), held.hi)


@ALL
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_secants_stay_below_the_constant(name, p):
    op, generator = EXAMPLES[name], torch.Generator().manual_seed(3)
    xs = boxes(name, 0.5, generator)
    for i in range(len(xs)):
        constants = tuple(1.0 if j == i else 0.0 for j in range(len(xs)))
        most = op.lipschitz(p, constants, tuple(xs))
        a, b = points(xs, 300, generator), points(xs, 300, generator)
        b = [q if j == i else o for j, (o, q) in enumerate(zip(a, b, strict=True))]
        moved = torch.linalg.vector_norm((op.evaluate(*a) - op.evaluate(*b)).flatten(1), p, dim=1)
        apart = torch.linalg.vector_norm((a[i] - b[i]).flatten(1), p, dim=1)
        assert (moved <= most * apart * (1 + 1e-10) + 1e-12).all()


@AFFINE
def test_adjoint_absolute_and_norms_against_the_matrix(name):
    op = EXAMPLES[name]
    n = math.prod(op.in_shapes[0])
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *op.in_shapes[0])
    matrix = op.linear(eye).reshape(n, -1).T
    back = op.adjoint(torch.eye(len(matrix), dtype=torch.float64).reshape(-1, *op.shape)).reshape(len(matrix), n)
    torch.testing.assert_close(back, matrix)
    absolute = op.linear(eye, absolute=True).reshape(n, -1).T
    if name in MEETING:
        assert (absolute >= matrix.abs() - 1e-12).all()
    else:
        torch.testing.assert_close(absolute, matrix.abs())
    exact_sums = 1.6 if name in MEETING else 1 + 1e-6
    for p, loosest in ((1.0, exact_sums), (2.0, 1.3), (math.inf, exact_sums)):
        exact = float(np.linalg.norm(matrix.numpy(), p))
        assert exact * (1 - 1e-12) <= op.norm(p) <= exact * loosest
    if not isinstance(op, Rearrangement) and not op.keeps_entries_apart:
        scale = rand(*op.in_shapes[0]).abs()
        rows = (matrix * scale.flatten()).norm(dim=1).reshape(op.shape)
        got = op.row_norms_2(scale)
        assert (got >= rows * (1 - 1e-14)).all()
        if name not in MEETING:
            torch.testing.assert_close(got, rows, rtol=1e-6, atol=1e-9)


@ALL
def test_dtypes_leading_axes_and_records(name):
    op, generator = EXAMPLES[name], torch.Generator().manual_seed(4)
    at = points(boxes(name, 0.5, generator), 6, generator)
    value = op.evaluate(*at)
    torch.testing.assert_close(op.evaluate(*(x.reshape(2, 3, *x.shape[1:]) for x in at)), value.reshape(2, 3, *op.shape))
    single = op.evaluate(*(x.float() for x in at))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), value, rtol=1e-3, atol=1e-4)
    json.dumps(op.attributes(), allow_nan=False)
    assert all(a.dtype in (np.float64, np.int64) for a in op.arrays().values())


@ALL
def test_tangents_are_derivatives(name):
    op, generator = EXAMPLES[name], torch.Generator().manual_seed(5)
    at = tuple(points(boxes(name, 0.5, generator), 4, generator))
    along = tuple(torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in at)
    step = 1e-6
    ahead, behind = (op.evaluate(*(x + s * d for x, d in zip(at, along, strict=True))) for s in (step, -step))
    torch.testing.assert_close(op.tangent(at, along), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(op.tangent(at, along, sharpness=3.0)).all()
