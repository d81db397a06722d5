"""Path norms against the enumeration of all paths, and what they do not see."""

import math

import pytest
import torch
from torch import nn

from steepest import ops
from steepest.capture.builder import Builder
from steepest.capture.torch_export import from_module
from steepest.errors import UnsupportedOperatorError
from steepest.measures.path_norm import path_norm


class Net(nn.Module):
    """Convolution with batch norm, pooling, a skip, a concatenation, a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 2, padding=1), nn.BatchNorm2d(2)
        self.inner, self.act = nn.Conv2d(2, 2, 1), nn.LeakyReLU(-1.5)
        self.pool, self.head = nn.MaxPool2d(2, stride=1), nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = self.act(x + self.inner(x))
        y = self.pool(x)
        return self.head(torch.cat([y, nn.functional.avg_pool2d(x, 2, 1)], 1).flatten(1))


def edges(node):
    """``[(input k, entry of the input, entry of the output, weight)]`` and the biases of an operator."""
    op, found = node.op, []
    if isinstance(op, ops.GroupMax):
        for out, window in enumerate(op.index.reshape(-1, op.index.shape[-1]).tolist()):
            found += [(0, i, out, 1.0) for i in window if i >= 0]
        return found, []
    if isinstance(op, ops.LeakyRelu):
        slopes = op.slope.expand(op.shape).flatten().tolist()
        return [(0, i, i, max(1.0, abs(a))) for i, a in enumerate(slopes)], []
    zeros = [torch.zeros(s, dtype=torch.float64) for s in op.in_shapes]
    base = op.evaluate(*zeros).flatten()
    for k, shape in enumerate(op.in_shapes):
        for i in range(math.prod(shape)):
            x = [z.clone() for z in zeros]
            x[k].view(-1)[i] = 1.0
            row = op.evaluate(*x).flatten() - base
            found += [(k, i, j, float(row[j])) for j in row.nonzero().flatten().tolist()]
    return found, [(j, float(base[j])) for j in base.nonzero().flatten().tolist()]


def enumerated(graph, p):
    """The sum over all paths, one by one, from the output back."""
    into = {}
    for n, node in enumerate(graph.nodes[1:], start=1):
        found, biases = edges(node)
        for k, i, j, w in found:
            into.setdefault((n, j), []).append(((node.inputs[k], i), abs(w) ** p))
        for j, b in biases:
            into.setdefault((n, j), []).append((None, abs(b) ** p))

    def paths(at):
        if at is None or at[0] == 0:
            return 1.0
        return sum(w * paths(before) for before, w in into.get(at, []))

    last = len(graph.nodes) - 1
    return sum(paths((last, j)) for j in range(math.prod(graph.shape))) ** (1 / p)


@pytest.mark.parametrize("p", [1, 2])
def test_against_all_paths(p):
    torch.manual_seed(0)
    model = Net().eval()
    nn.init.uniform_(model.norm.running_var), nn.init.normal_(model.norm.running_mean)
    graph = from_module(model, torch.zeros(1, 1, 2, 2))
    assert path_norm(graph, p) == pytest.approx(enumerated(graph, p), rel=1e-12)


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def both(model):
    return [path_norm(from_module(model, torch.zeros(1, 4, dtype=torch.float64)), p) for p in (1, 2)]


def test_rescaling_and_permuting_units_change_nothing():
    model = mlp()
    before = both(model)
    scale, order = torch.exp(torch.randn(6, dtype=torch.float64)), torch.randperm(6)
    with torch.no_grad():
        model[0].weight.mul_(scale[:, None]), model[0].bias.mul_(scale), model[2].weight.div_(scale)
        model[0].weight.copy_(model[0].weight[order]), model[0].bias.copy_(model[0].bias[order])
        model[2].weight.copy_(model[2].weight[:, order])
    assert both(model) == pytest.approx(before, rel=1e-12)


def test_scaling_of_the_last_layer_and_the_linf_l1_constant():
    model = mlp()
    for m in model:
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.bias)
    before = both(model)
    with torch.no_grad():
        model[4].weight.mul_(3.0)
    assert both(model) == pytest.approx([3 * v for v in before], rel=1e-12)
    x, y = torch.randn(2, 500, 4, dtype=torch.float64)
    steepness = (model(x) - model(y)).abs().sum(1) / (x - y).abs().amax(1)
    assert steepness.max().item() <= 3 * before[0]


@pytest.mark.parametrize("kind", [ops.Tanh, ops.Gelu])
def test_other_activations_are_refused(kind):
    b = Builder()
    graph = b.finish(b.unary(kind, b.input((1, 3))))
    with pytest.raises(UnsupportedOperatorError, match=kind.code):
        path_norm(graph, 1)
