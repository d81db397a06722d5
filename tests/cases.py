"""Small networks whose Lipschitz constants are known exactly, over all inputs."""

import math

import torch

from steepest import ops
from steepest.capture.builder import Builder

INF = math.inf


def build(shape, f):
    b = Builder()
    return b.finish(f(b, b.input(shape)))


W = torch.tensor([[3.0, 0.0], [0.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
ROT = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)

# name, graph, {norm: constant}
CASES = [
    ("linear", build((1, 2), lambda b, x: b.dense(x, W)), {1.0: 3.0, 2.0: 3.0, INF: 3.0}),
    ("rotation", build((1, 2), lambda b, x: b.dense(x, ROT)), {2.0: 1.0, 1.0: 1.4, INF: 1.4}),
    ("absolute", build((1, 3), lambda b, x: b.relu(x, -1.0)), {1.0: 1.0, 2.0: 1.0, INF: 1.0}),
    ("twice absolute", build((1, 3), lambda b, x: b.scale(b.relu(x, -1.0), 2.0)), {1.0: 2.0, 2.0: 2.0, INF: 2.0}),
    ("sigmoid", build((1, 2), lambda b, x: b.unary(ops.Sigmoid, x)), {1.0: 0.25, 2.0: 0.25, INF: 0.25}),
    ("softmax", build((1, 2), lambda b, x: b.softmax(x, 1)), {2.0: 0.5, 1.0: 0.5, INF: 0.5}),
    ("sort", build((1, 4), lambda b, x: b.append(ops.GroupSort((x.shape,)), x)), {1.0: 1.0, 2.0: 1.0, INF: 1.0}),
    ("maximum", build((1, 4), lambda b, x: b.reduce_max(x, [1], True)), {1.0: 1.0, 2.0: 1.0, INF: 1.0}),
    ("residual", build((1, 2), lambda b, x: b.add(x, b.relu(x))), {1.0: 2.0, 2.0: 2.0, INF: 2.0}),
    ("sum of entries", build((1, 4), lambda b, x: b.reduce_sum(x, [1], True)), {1.0: 1.0, 2.0: 2.0, INF: 4.0}),
    (
        "batch norm",
        build((1, 2), lambda b, x: b.scale(x, torch.tensor([5.0, 0.5]), torch.tensor([1.0, 2.0]))),
        {1.0: 5.0, 2.0: 5.0, INF: 5.0},
    ),
]
