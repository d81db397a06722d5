"""Rewrites keep the function, and recognise what they are for, and nothing that only looks like it."""

import math

import numpy as np
import pytest
import torch

from random_graphs import random_graph
from steepest import ops
from steepest.capture.builder import Builder
from steepest.capture.passes import simplify
from steepest.capture.torch_export import from_module


def _codes(graph):
    return [node.op.code for node in graph.nodes]


def _same(before, after, scale=5.0):
    x = scale * torch.randn(500, *before.input_shape, dtype=torch.float64)
    assert torch.allclose(before.evaluate(x), after.evaluate(x), rtol=1e-12, atol=1e-12)


def _built(f, shape=(1, 4)):
    b = Builder()
    return b.finish(f(b, b.input(shape)))


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_keep_their_function(seed):
    graph, _ = random_graph(seed)
    simple = simplify(graph)
    x = torch.randn(50, *graph.input_shape, dtype=torch.float64)
    expected, got = graph.evaluate(x), simple.evaluate(x)
    assert (got - expected).abs().max() <= 1e-11 * max(1.0, expected.abs().max().item())
    assert len(simple.nodes) <= len(graph.nodes)


ROOT = float(np.float32(1 / math.sqrt(2)))
SIXTH = float(np.float32(1 / 6))
WRITTEN_OUT = {
    "silu": lambda b, x: b.multiply(x, b.unary(ops.Sigmoid, x)),
    "silu of 1.702 x": lambda b, x: b.multiply(b.unary(ops.Sigmoid, b.scale(x, 1.702)), x),
    "gelu": lambda b, x: b.multiply(b.scale(x, 0.5), b.scale(b.unary(ops.Erf, b.scale(x, ROOT)), 1.0, 1.0)),
    "gelu, halved last": lambda b, x: b.scale(b.multiply(x, b.scale(b.unary(ops.Erf, b.scale(x, ROOT)), 1.0, 1.0)), 0.5),
    "mish": lambda b, x: b.multiply(x, b.unary(ops.Tanh, b.unary(ops.Softplus, x))),
    "hard_swish": lambda b, x: b.multiply(x, b.clamp(b.scale(x, SIXTH, 0.5), 0.0, 1.0)),
    "hard_swish in sixths": lambda b, x: b.scale(b.multiply(x, b.clamp(b.scale(x, 1.0, 3.0), 0.0, 6.0)), 1 / 6),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_activations_written_out_are_recognised_with_the_constants_they_have(name):
    graph = _built(WRITTEN_OUT[name])
    simple = simplify(graph)
    assert name.replace(",", "").split()[0] in _codes(simple)
    assert "multiply" not in _codes(simple)
    _same(graph, simple)


LOOK_ALIKES = {
    "clamped gate": lambda b, x: b.multiply(x, b.unary(ops.Sigmoid, b.clamp(x, -20.0, 20.0))),
    "shifted gate": lambda b, x: b.multiply(x, b.unary(ops.Sigmoid, b.scale(x, 1.0, 1e-9))),
    "other half": lambda b, x: b.multiply(x, b.scale(b.unary(ops.Erf, x), 1.0, 1.0 + 1e-9)),
    "other clamp": lambda b, x: b.multiply(x, b.clamp(b.scale(x, 1 / 6, 0.5), 0.0, 1.0 + 1e-9)),
    "other branch": lambda b, x: b.multiply(x, b.unary(ops.Sigmoid, b.select(x, lambda t: t.flip(-1)))),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_are_left_alone(name):
    simple = simplify(_built(LOOK_ALIKES[name]))
    assert "multiply" in _codes(simple)


def _root_mean_square(b, x, turned=False):
    mean = b.reduce_sum(b.power(x, 2), [-1], True, mean=True)
    inverse = b.unary(ops.Reciprocal, b.unary(ops.Sqrt, b.scale(mean, 1.0, 0.1)))
    if turned:
        inverse = b.select(inverse, lambda t: t.flip(1))
    return b.multiply(x, inverse)


def test_normalisation_written_out_is_recognised():
    graph = _built(_root_mean_square, (1, 3, 4))
    simple = simplify(graph)
    assert _codes(simple) == ["input", "normalize"]
    _same(graph, simple)


def test_normalisation_by_another_row_is_not():
    graph = _built(lambda b, x: _root_mean_square(b, x, turned=True), (1, 3, 4))
    simple = simplify(graph)
    assert "normalize" not in _codes(simple)
    _same(graph, simple)


@pytest.mark.parametrize("transposed", [False, True])
def test_batch_norm_is_folded_into_convolutions(transposed):
    def net(b, x):
        if transposed:
            y = b.conv_transpose(x, torch.randn(4, 3, 3, 3), torch.randn(6), (2, 2), ((1, 1),) * 2, (1, 1), 2, (1, 1))
        else:
            y = b.conv(x, torch.randn(6, 2, 3, 3), torch.randn(6), (2, 2), ((1, 1),) * 2, (1, 1), 2)
        return b.scale(y, torch.randn(6, 1, 1), torch.randn(6, 1, 1))

    graph = _built(net, (1, 4, 5, 5))
    simple = simplify(graph)
    assert len(simple.nodes) == 2
    _same(graph, simple)


def test_what_others_read_is_not_folded_away():
    graph = _built(lambda b, x: b.add(h := b.dense(x, torch.randn(4, 4)), b.scale(h, torch.randn(4))))
    simple = simplify(graph)
    _same(graph, simple)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("layer", [torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d])
def test_padding_becomes_part_of_the_convolution(layer, mode):
    model = layer(2, 3, 3, padding=2, padding_mode=mode, stride=2).double()
    dims = model.weight.ndim - 2
    graph = from_module(model, torch.randn(1, 2, *(5, 6, 4)[:dims], dtype=torch.float64))
    assert _codes(graph) == ["input", "conv"]
    assert graph.nodes[1].op.modes == (() if mode == "zeros" else (mode,) * dims)
    assert graph.nodes[1].op.padding == ((2, 2),) * dims


def test_mixed_and_onesided_padding_becomes_part_of_the_convolution():
    def net(b, x):
        y = b.pad_mode(b.pad(x, ((0, 0), (0, 0), (1, 2), (0, 0))), (2, 1, 0, 0), "replicate")
        return b.conv(y, torch.randn(3, 2, 2, 3), None, (1, 2), ((1, 0), (0, 0)), (1, 1), 1)

    graph = _built(net, (1, 2, 5, 6))
    simple = simplify(graph)
    assert _codes(simple) == ["input", "conv"]
    assert simple.nodes[1].op.modes == ("zeros", "replicate") and simple.nodes[1].op.padding == ((2, 2), (2, 1))
    _same(graph, simple)


@pytest.mark.parametrize("pick", [lambda t: t.flip(-1), lambda t: t[..., :-1], lambda t: torch.cat([t, t[..., :1, :].flip(-1)], -2)])
def test_other_selections_before_a_convolution_stay(pick):
    graph = _built(lambda b, x: b.conv(b.select(x, pick), torch.randn(3, 2, 2, 2), None, (1, 1), ((0, 0),) * 2, (1, 1), 1), (1, 2, 4, 5))
    simple = simplify(graph)
    assert _codes(simple) == ["input", "select", "conv"]
    _same(graph, simple)


def test_zeros_around_copies_stay():
    def net(b, x):
        return b.conv(b.pad_mode(x, (1, 1, 1, 1), "reflect"), torch.randn(3, 2, 3, 3), None, (1, 1), ((1, 1),) * 2, (1, 1), 1)

    graph = _built(net, (1, 2, 4, 5))
    assert "select" in _codes(simplify(graph))
    _same(graph, simplify(graph))
