"""Residual blocks of norm one, Householder activations, and what bounds and checker make of their exports."""

import copy

import numpy as np
import pytest
import torch
from constrained import proven, proven_product
from torch import nn

from steepest.api import capture
from steepest.layers import (
    Difference,
    GradientStep,
    Householder,
    almost_orthogonalise,
    cpl,
    export,
    orthogonalise,
    rescale_outputs,
    settle_,
    sll,
)
from steepest.ops.gradient_step import gradient_step
from steepest.proofs.checker.box import Box
from steepest.proofs.checker.potential import step_constant

LAYERS = [
    (lambda: nn.Linear(5, 8), (5,)),
    (lambda: nn.Linear(6, 3), (6,)),
    (lambda: nn.Conv1d(3, 5, 3, padding=1), (3, 9)),
    (lambda: nn.Conv2d(3, 6, 3, padding=1), (3, 6, 5)),
    (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (4, 6, 5)),
    (lambda: nn.Conv2d(2, 3, 2, padding=2), (2, 4, 5)),
    (lambda: nn.Conv3d(2, 2, 3, padding=1), (2, 3, 3, 4)),
]
CONSTRAIN = [
    lambda m, shape: sll(m),
    lambda m, shape: cpl(m, shape[1:] or None),
    lambda m, shape: GradientStep(orthogonalise(m)),
    lambda m, shape: GradientStep(almost_orthogonalise(m)),
]


def jacobians(model, x):
    exact = copy.deepcopy(model).double()
    for point in x.double()[:, None]:
        yield torch.autograd.functional.jacobian(exact, point).reshape(exact(point).numel(), -1)


@pytest.mark.parametrize("constrain", CONSTRAIN, ids=["sll", "cpl", "orthogonal", "almost"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_blocks_expand_nothing_and_their_exports_are_proven_not_to(layer, shape, constrain):
    torch.manual_seed(0)
    block, x = constrain(layer(), shape), torch.randn(3, *shape)
    for _ in range(2):
        block(x).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters() if p.numel())
    settle_(block).eval()
    plain = export(block, x)
    assert isinstance(plain, Difference)
    torch.testing.assert_close(plain(x), block(x), atol=5e-5, rtol=5e-5)
    assert all(torch.linalg.matrix_norm(j, 2) <= 1 + 1e-12 for j in jacobians(plain, x))
    assert all(torch.linalg.matrix_norm(j, 2) <= 1 + 5e-6 for j in jacobians(block, x))
    assert proven_product(plain, x) == 1.0


def test_rescaled_outputs_are_the_formula():
    torch.manual_seed(0)
    layer = rescale_outputs(nn.Conv1d(2, 4, 3, groups=2, bias=False).double())
    listed = layer.parametrizations.weight
    with torch.no_grad():
        listed[0].log_q.normal_()
    w, q = listed.original.detach(), listed[0].log_q.detach().exp()
    for g in range(2):
        for i in range(2):
            total = 0.0
            for j in range(2):
                for shift in range(-2, 3):
                    entry = sum((w[2 * g + i, 0, k] * w[2 * g + j, 0, k + shift]).item() for k in range(3) if 0 <= k + shift < 3)
                    total += abs(entry) * (q[g, j] / q[g, i]).item()
            torch.testing.assert_close(layer.weight[2 * g + i], w[2 * g + i] / total**0.5)


def test_a_deep_network_of_blocks_is_proven_to_be_1_lipschitz():
    torch.manual_seed(0)
    net = nn.Sequential(
        orthogonalise(nn.Conv2d(1, 8, 2, stride=2)),
        *(sll(nn.Conv2d(8, 12, 3, padding=1)) for _ in range(4)),
        Householder(8),
        cpl(nn.Conv2d(8, 8, 3, padding=1), 5),
        nn.Flatten(),
        sll(nn.Linear(200, 50)),
        orthogonalise(nn.Linear(200, 20)),
        Householder(20),
    )
    x = torch.randn(4, 1, 10, 10)
    net(x).sum().backward()
    plain = export(settle_(net).eval(), x)
    torch.testing.assert_close(plain(x), net(x), atol=2e-4, rtol=2e-4)
    assert proven(plain, x) <= 1.0


@pytest.mark.parametrize("size", [(), (4,), (3, 2)])
def test_householder_reflects_to_one_side_and_keeps_norms(size):
    torch.manual_seed(0)
    act, x = Householder(4), torch.randn(3, 4, *size)
    sort = x.unflatten(1, (2, 2)).sort(2, descending=True).values.flatten(1, 2)
    torch.testing.assert_close(act(x), sort)
    with torch.no_grad():
        act.angle.uniform_(0, 6)
    y = act(x)
    torch.testing.assert_close(y.unflatten(1, (2, 2)).norm(dim=2), x.unflatten(1, (2, 2)).norm(dim=2))
    half = act.angle.detach() / 2
    for n, pair in np.ndindex(3, 2):
        a, b = x[n, 2 * pair], x[n, 2 * pair + 1]
        side = half[pair].sin() * a - half[pair].cos() * b
        c, s = (2 * half[pair]).cos(), (2 * half[pair]).sin()
        torch.testing.assert_close(y[n, 2 * pair], torch.where(side > 0, a, c * a + s * b))
        torch.testing.assert_close(y[n, 2 * pair + 1], torch.where(side > 0, b, s * a - c * b))
    plain = export(act, x)
    torch.testing.assert_close(plain(x), y)
    assert proven_product(plain, x) == 1.0


NORM = 1.0 - 2.0**-20


def step_graph(change=lambda weight: weight, act=None, scale=2.0, add=False, conv=False):
    """``x - c V' s(V x)`` with its outer weight changed."""
    torch.manual_seed(0)
    inner = nn.Conv2d(2, 3, 3, padding=1).double() if conv else nn.Linear(4, 3).double()
    with torch.no_grad():
        inner.weight.mul_(0.5 / torch.linalg.matrix_norm(inner.weight.flatten(1), 2))
    outer = (nn.ConvTranspose2d(3, 2, 3, padding=1) if conv else nn.Linear(3, 4)).double()
    with torch.no_grad():
        outer.weight.copy_(change(scale * (inner.weight if conv else inner.weight.mT)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.act, self.outer = inner, act or nn.ReLU(), outer

        def forward(self, x):
            y = self.outer(self.act(self.inner(x)))
            return x + y if add else x - y

    x = torch.randn(1, 2, 5, 4) if conv else torch.randn(1, 4)
    return capture(Net(), sample=x, factory=None, input_shape=None).graph


def found(graph):
    """By the bound's own way, and by the checker's."""
    record, last = graph.record(), len(graph.nodes) - 1
    boxes = [Box(np.full(n.shape, -9.0), np.full(n.shape, 9.0)) for n in record.nodes]
    inner = next(i for i, n in enumerate(record.nodes) if n.op in ("dense", "conv"))
    return gradient_step(graph.nodes, last), step_constant(record.nodes, last, boxes, {inner: NORM})


@pytest.mark.parametrize("conv", [False, True])
def test_a_gradient_step_is_recognised_only_where_it_is_one_bit_by_bit(conv):
    step, constant = found(step_graph(conv=conv))
    assert step is not None and step.length == 2.0 and constant == 1.0
    step, constant = found(step_graph(scale=-2.0, add=True, conv=conv))
    assert step is not None and step.length == 2.0 and constant == 1.0
    # A longer step expands: 4 |V|^2 - 1.
    step, constant = found(step_graph(scale=4.0, conv=conv))
    assert step is not None and step.length == 4.0 and 4 * NORM**2 - 1 <= constant < 4 * NORM**2 - 1 + 1e-12

    def nudged(weight):
        changed = weight.clone()
        changed[(-1,) * changed.dim()] *= 1 + 2.0**-52
        return changed

    for graph in (
        step_graph(nudged, conv=conv),
        step_graph(lambda w: w.flip(0), conv=conv),
        step_graph(lambda w: -w, conv=conv),
        step_graph(add=True, conv=conv),
        step_graph(scale=3.0, conv=conv),
        step_graph(lambda w: 0 * w, conv=conv),
    ):
        assert found(graph) == (None, None)


def test_negative_slopes_are_no_gradient_step_of_a_convex_function():
    graph = step_graph(act=nn.GELU())
    step, constant = found(graph)
    assert constant is None
    slopes = graph.nodes[step.gate].op.slopes(graph.enclose(_wide(graph))[step.inner])
    assert step.factor(1.0, slopes) == float("inf")
    assert found(step_graph(act=nn.Tanh()))[1] == 1.0


def _wide(graph):
    from steepest.numerics.interval import Interval

    return Interval(torch.full(graph.input_shape, -9.0).double(), torch.full(graph.input_shape, 9.0).double())


def test_a_transposed_convolution_with_other_settings_is_not_the_adjoint():
    graph = step_graph(conv=True)
    last = len(graph.nodes) - 1
    record = graph.record()
    boxes = [Box(np.full(n.shape, -9.0), np.full(n.shape, 9.0)) for n in record.nodes]
    inner = next(i for i, n in enumerate(record.nodes) if n.op == "conv")
    for name, value in (
        ("dilation", [2, 2]),
        ("stride", [2, 2]),
        ("padding", [[0, 2], [1, 1]]),
        ("groups", 2),
        ("modes", ["circular"] * 2),
    ):
        nodes = [_With(n, {**n.attributes, name: value} if i == inner else n.attributes) for i, n in enumerate(record.nodes)]
        assert step_constant(nodes, last, boxes, {inner: 1.0}) is None
    # Without a proven norm of the inner layer there is nothing to say.
    assert step_constant(record.nodes, last, boxes, {}) is None


class _With:
    def __init__(self, node, attributes):
        self.name, self.op, self.inputs, self.shape, self.arrays = node.name, node.op, node.inputs, node.shape, node.arrays
        self.attributes = attributes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GradientStep(nn.Linear(2, 2)), "constrained"),
        (lambda: sll(nn.Conv2d(2, 2, 3, padding=1, stride=2)), "stride"),
        (lambda: sll(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), "'circular'"),
        (lambda: sll(nn.Conv2d(2, 2, 2, padding="same")), "both sides"),
        (lambda: cpl(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), 4), "'reflect'"),
        (lambda: cpl(nn.Conv2d(2, 2, 3, padding=1)), "spatial size"),
        (lambda: rescale_outputs(nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate")), "'replicate'"),
        (lambda: Householder(3), "even"),
        (lambda: Householder(4)(torch.randn(2, 2)), "expected"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()
