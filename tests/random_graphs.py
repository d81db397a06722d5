"""Random networks of all operators, with a domain."""

import numpy as np
import torch

from steepest import ops
from steepest.capture.builder import Builder
from steepest.results import Domain

SMOOTH = [
    ops.Sigmoid,
    ops.Tanh,
    ops.Erf,
    ops.Softplus,
    ops.Softsign,
    ops.Elu,
    ops.Gelu,
    ops.GeluTanh,
    ops.Silu,
    ops.Mish,
    ops.Tanhshrink,
    ops.HardSwish,
    ops.Sin,
    ops.Cos,
]


def random_graph(seed):
    """A graph from ``[1, 2, 4, 4]`` to ``[1, 3]`` and a domain in which it is analysed."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    b = Builder()
    x = b.input((1, 2, 4, 4))
    for _ in range(rng.integers(2, 6)):
        x = _step(b, x, rng)
    x = b.dense(b.reshape(x, (1, int(np.prod(x.shape)))), torch.randn(3, int(np.prod(x.shape))) / np.prod(x.shape) ** 0.5)
    if rng.random() < 0.3:
        x = b.softmax(x, 1, log=bool(rng.random() < 0.5))
    graph = b.finish(x)
    kind = rng.integers(0, 5)
    centre = rng.normal(size=graph.input_shape)
    if kind == 0:
        return graph, Domain("all")
    if kind == 1:
        return graph, Domain("box", lo=centre - rng.random(centre.shape), hi=centre + rng.random(centre.shape))
    return graph, Domain("ball", centre=centre, radius=float(10 ** rng.uniform(-2, 0.5)), norm=[1.0, 2.0, np.inf][kind - 2])


def _step(b, x, rng):
    _, c, h, w = x.shape
    choice = rng.integers(0, 16)
    if choice == 0 and min(h, w) >= 2:
        stride, groups = int(rng.integers(1, 3)), int(rng.choice([1, c]))
        pads = tuple((int(rng.integers(0, 2)), int(rng.integers(0, 2))) for _ in range(2))
        return b.conv(x, torch.randn(2 * c, c // groups, 2, 2) * 0.5, torch.randn(2 * c), (stride,) * 2, pads, (1, 1), groups)
    if choice == 1:
        return (
            b.conv_transpose(x, torch.randn(c, 2, 2, 2) * 0.5, torch.randn(2), (2, 2), ((0, 0), (1, 0)), (1, 1), 1, (0, 0)) if h <= 4 else x
        )
    if choice == 2 and min(h, w) >= 2:
        return b.max_pool(x, (2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1))
    if choice == 3 and min(h, w) >= 2:
        return b.average_pool(x, (2, 2), (2, 2), ((1, 1), (0, 0)), True, False)
    if choice == 4:
        return b.add(x, b.relu(b.scale(x, torch.randn(1, c, 1, 1)), float(rng.normal())), int(rng.choice([1, -1])))
    if choice == 5:
        return b.concat([x, b.unary(ops.Tanh, x)], 1)
    if choice == 6:
        return b.multiply(b.unary(ops.Sigmoid, x), b.clamp(x, -1.0, 2.0))
    if choice == 7:
        return b.normalize(x, 1, 0.1, None, None, bool(rng.random() < 0.5))
    if choice == 8:
        return b.softmax(x, 3)
    if choice == 9:
        return b.append(ops.GroupSort((x.shape,)), x)
    if choice == 10:
        return b.permute(x, (0, 1, 3, 2))
    if choice == 11:
        return b.matmul(x, b.permute(b.unary(ops.Tanh, x), (0, 1, 3, 2)))
    if choice == 12:
        return (
            b.unary(ops.Log, b.scale(b.unary(ops.Power, x, 2), 1.0, 1.0)) if rng.random() < 0.5 else b.unary(ops.Exp, b.clamp(x, None, 1.0))
        )
    if choice == 13:
        y = b.scale(b.relu(x), 1.0, 0.5)
        return b.unary(ops.Reciprocal, y) if rng.random() < 0.5 else b.unary(ops.Sqrt, y)
    if choice == 14:
        return b.pad(x, [(0, 0), (0, 0), (1, 0), (0, 0)], 0.3) if h <= 5 else x
    return b.unary(SMOOTH[rng.integers(0, len(SMOOTH))], x)
