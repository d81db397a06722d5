"""Norms and complexity against dense matrices, what they do not see, how they scale, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.capture.torch_export import from_module
from steepest.errors import UnsupportedOperatorError, UsageError
from steepest.measures.spectral_complexity import chain, complexity


def mlp(bias=False, widths=(5, 7, 6, 3)):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet(bias=False, norm=False):
    layers = [nn.Conv2d(2, 3, 3, padding=1, bias=bias), *([nn.BatchNorm2d(3)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(3, 4, 2, stride=2, padding=1, groups=1, bias=bias), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(16, 3, bias=bias)]
    return nn.Sequential(*layers)


def graph_of(model, shape):
    return from_module(model.eval(), torch.zeros(2, *shape))


def dense(op):
    """The matrix of an affine operator, column by column."""
    columns = []
    for k in range(math.prod(op.in_shapes[0])):
        x = torch.zeros(math.prod(op.in_shapes[0]), dtype=torch.float64)
        x[k] = 1.0
        columns.append(op.linear(x.reshape(op.in_shapes[0])).flatten())
    return torch.stack(columns, 1)


def augmented(matrix, bias, last):
    """``[[W, b], [0, 1]]``, of the last layer ``[W, b]``."""
    wide = torch.cat([matrix, bias.reshape(-1, 1)], 1)
    return wide if last else torch.cat([wide, torch.eye(wide.shape[1], dtype=torch.float64)[-1:]])


def affine_nodes(graph):
    return [n for n in graph.nodes if n.op.code in ("dense", "conv", "conv_transpose", "scale")]


def norms(model, shape, reference=None):
    other = None if reference is None else graph_of(reference, shape)
    return chain(graph_of(model, shape), other)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["mlp", "conv", "norm"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("referenced", [False, True])
def test_against_dense_matrices(seed, kind, bias, referenced):
    torch.manual_seed(seed)
    shape = (5,) if kind == "mlp" else (2, 5, 6)

    def make():
        model = mlp(bias) if kind == "mlp" else convnet(bias, kind == "norm")
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight), nn.init.normal_(m.bias), nn.init.normal_(m.running_mean), nn.init.uniform_(m.running_var)
        return model

    model, reference = make(), make() if referenced else None
    graph = graph_of(model, shape)
    found = norms(model, shape, reference)
    nodes = affine_nodes(graph)
    starts = [None] * len(nodes) if reference is None else affine_nodes(graph_of(reference, shape))
    biases = [n.op.offset.expand(n.shape).flatten() for n in nodes]
    last = max((k for k, b in enumerate(biases) if b.any()), default=-1)
    assert found.biased == (bias or kind == "norm")
    s, b = [], []
    for k, (node, start, layer) in enumerate(zip(nodes, starts, found.layers, strict=True)):
        matrix = dense(node.op)
        other = torch.zeros_like(matrix) if start is None else dense(start.op)
        move = biases[k] - (0.0 if start is None else start.op.offset.expand(start.shape).flatten())
        difference = torch.cat([matrix - other, move.reshape(-1, 1)], 1)
        distance = difference.norm(dim=1).sum().item()
        assert distance <= layer.distance <= distance * (1 + 1e-9)
        full = matrix if k > last else augmented(matrix, biases[k], k == last)
        exact = torch.linalg.matrix_norm(full, 2).item()
        assert exact <= layer.spectral
        # With a bias the norm of the 2 x 2 matrix of norms, which is the operator's own where there is none.
        a, c = torch.linalg.matrix_norm(matrix, 2).item(), biases[k].norm().item()
        small = np.array([[a]]) if k > last else np.array([[a, c]]) if k == last else np.array([[a, c], [0.0, 1.0]])
        assert layer.spectral <= np.linalg.norm(small, 2) * (1.01 if node.op.code == "conv" else 1 + 1e-6)
        assert (layer.outputs, layer.inputs) == tuple(full.shape)
        s.append(layer.spectral), b.append(layer.distance)
    product = np.prod(s) * np.prod([layer.gain for layer in found.layers])
    assert found.product == pytest.approx(product, rel=1e-9) and found.product >= product * (1 - 1e-12)
    expected = product * sum((d / n) ** (2 / 3) for d, n in zip(b, s, strict=True)) ** 1.5
    assert found.complexity == pytest.approx(expected, rel=1e-9)


def test_invariance_and_scaling():
    torch.manual_seed(0)
    model = mlp()
    first, second, third = (m for m in model if isinstance(m, nn.Linear))
    base = norms(model, (5,))
    order = torch.randperm(7)
    with torch.no_grad():
        first.weight.copy_(first.weight[order]), second.weight.copy_(second.weight[:, order])
    assert norms(model, (5,)).complexity == pytest.approx(base.complexity, rel=1e-6)
    with torch.no_grad():
        third.weight.mul_(4.0)
    # Homogeneous of degree one in every layer.
    assert norms(model, (5,)).complexity == pytest.approx(4 * base.complexity, rel=1e-6)
    with torch.no_grad():
        third.weight.div_(4.0), first.weight.mul_(2.0), second.weight.div_(2.0)
    assert norms(model, (5,)).complexity == pytest.approx(base.complexity, rel=1e-6)
    assert norms(model, (5,), model).complexity == 0.0


def test_gains_of_what_stands_between():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(3, stride=1), nn.GELU(), nn.Flatten(), nn.Linear(12, 2))
    found = norms(model, (1, 10))
    assert found.layers[0].gain >= math.sqrt(3) * 1.1289 and found.layers[0].gain <= math.sqrt(3) * 1.14 and found.layers[1].gain == 1.0
    # Every layer carries the constant one, beside which a map counts as at least 1-Lipschitz.
    shrinking = norms(nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(0.1), nn.Linear(3, 2)), (3,))
    assert shrinking.layers[0].gain == 1.0


def test_monotone_in_every_norm():
    base = complexity([2.0, 0.5, 3.0], [1.0, 4.0, 0.0], 1.5)
    assert base == pytest.approx(1.5 * 3.0 * ((1 / 2) ** (2 / 3) + (4 / 0.5) ** (2 / 3)) ** 1.5)
    for k in range(3):
        up = [1.0] * 3
        up[k] = 1.1
        assert complexity([v * u for v, u in zip([2.0, 0.5, 3.0], up, strict=True)], [1.0, 4.0, 0.0], 1.5) >= base
        assert complexity([2.0, 0.5, 3.0], [v * u + (u > 1) * 0.1 for v, u in zip([1.0, 4.0, 0.0], up, strict=True)], 1.5) > base
    assert complexity([0.0, 1.0], [1.0, 1.0], 1.0) == pytest.approx(1.0) and complexity([1.0], [0.0], 1.0) == 0.0
    assert complexity([1e200, 1e200], [1.0, 1.0], 1.0) < math.inf and complexity([1e300] * 3, [1e300] * 3, 1.0) == math.inf


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Sequential(Skip(), nn.Linear(4, 2)), "add"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2)), "softmax"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), "sigmoid"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 2)), "softplus"),
        (nn.Sequential(nn.ReLU()), "leaky_relu"),
    ],
)
def test_refused_by_name(model, name):
    with pytest.raises(UnsupportedOperatorError, match=name):
        norms(model, (4,))


def test_a_reference_is_the_same_architecture():
    with pytest.raises(UsageError, match="same architecture"):
        norms(mlp(), (5,), mlp(widths=(5, 8, 6, 3)))
    with pytest.raises(UsageError, match="operators"):
        norms(mlp(), (5,), mlp(widths=(5, 7, 3)))
    prelus = [nn.Sequential(nn.Linear(4, 4), nn.PReLU(init=a), nn.Linear(4, 2)) for a in (0.1, 0.2)]
    with pytest.raises(UsageError, match="more than weights"):
        norms(prelus[0], (4,), prelus[1])
