"""Tiny networks of the tests of this folder."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.builder import Builder, Ref
from steepest.graph import Graph


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affine(weight: Tensor, bias: Tensor | None = None) -> Graph:
    b = Builder()
    return b.finish(b.dense(b.input((weight.shape[1],)), weight, bias))


def mlp(*sizes: int, seed: int = 0, slope: float = 0.0) -> Graph:
    b = Builder()
    x = b.input((sizes[0],))
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        x = b.dense(x, rand(m, n, seed=seed + 2 * k) / n**0.5, 0.3 * rand(m, seed=seed + 2 * k + 1))
        x = b.relu(x, slope) if k < len(sizes) - 2 else x
    return b.finish(x)


def absolute(weight: Tensor) -> Graph:
    """``sum |W x|`` over the rows: the constant is known where the signs can all agree with one vertex."""
    b = Builder()
    x = b.relu(b.dense(b.input((weight.shape[1],)), weight), -1.0)
    return b.finish(b.reduce_sum(x, [0], True))


def unary(kind: type[ops.Elementwise], n: int = 2, scale: float = 1.0, shift: float = 0.0) -> Graph:
    b = Builder()
    x = b.scale(b.input((n,)), scale, shift)
    return b.finish(b.unary(kind, x))


def mixed() -> Graph:
    """Every kind of node once: convolution, max pooling, sorting, normalisation, softmax, products, joins."""
    b = Builder()
    x = b.input((1, 2, 4, 4))
    c = b.relu(b.conv(x, rand(3, 2, 3, 3), rand(3), (1, 1), [(1, 1), (1, 1)], (1, 1), 1), 0.1)
    pooled = b.reshape(b.max_pool(c, (2, 2), (2, 2), [(0, 0), (0, 0)], (1, 1)), (3, 4))
    normal = b.normalize(pooled, 1, 0.1, None, None)
    soft = b.softmax(normal, -1)
    sorted_ = b.append(ops.GroupSort((pooled.shape,)), b.unary(ops.Tanh, pooled))
    product = b.multiply(soft, sorted_)
    assert isinstance(product, Ref)
    square = b.matmul(product, b.permute(normal, [1, 0]))
    y = b.concat([b.reshape(square, (9,)), b.reshape(b.unary(ops.Gelu, pooled), (12,))], 0)
    assert isinstance(y, Ref)
    return b.finish(b.dense(y, rand(5, 21)))
