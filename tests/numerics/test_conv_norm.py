"""Norms of convolutions as applied: against the matrix's singular values, producer's and checker's, for every padding."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from steepest import ops
from steepest.numerics import conv_norm, deflation, normal_operator
from steepest.numerics.normal_operator import Direct, OnTorus
from steepest.numerics.torus import ConvGeometry, padded_positions, symbols
from steepest.numerics.torus_norm import lay, torus_at_most, torus_norm_above, turned
from steepest.proofs.checker import convolution
from steepest.proofs.checker.torus import Window

MODES = ("zeros", "circular", "reflect", "replicate")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(weight, size, stride, padding, dilation, groups=1, modes=()):
    shape = (1, weight.shape[1] * groups, *size)
    return ops.Conv((shape,), weight, torch.zeros(len(weight), dtype=torch.float64), stride, padding, dilation, groups, modes)


def matrix(op):
    n = math.prod(op.in_shapes[0])
    return op.linear(torch.eye(n, dtype=torch.float64).reshape(n, *op.in_shapes[0])).reshape(n, -1).T


def windows(geometry):
    return [
        Window(*(getattr(geometry, f)[a] for f in ("kernel", "stride", "dilation", "padding", "size", "out_size")), geometry.mode(a))
        for a in range(len(geometry.kernel))
    ]


def proven(weight, geometry, groups, claim):
    return convolution.convolution_norm_at_most(weight.reshape(groups, -1, *weight.shape[1:]).numpy(), windows(geometry), claim)


def drawn(seed):
    """A random convolution of one to three dimensions."""
    r = random.Random(seed)
    while True:
        dims = r.choice([1, 1, 2, 2, 3])
        kernel = tuple(r.randint(1, (4, 4, 2)[dims - 1]) for _ in range(dims))
        size = tuple(r.randint(4, (20, 8, 5)[dims - 1]) for _ in range(dims))
        stride, dilation = (tuple(r.randint(1, most) for _ in range(dims)) for most in (3, 2))
        padding = tuple((r.randint(0, 2), r.randint(0, 3)) for _ in range(dims))
        if all(lo + hi + n > d * (k - 1) for (lo, hi), n, d, k in zip(padding, size, dilation, kernel, strict=True)):
            groups = r.choice([1, 1, 2])
            weight = normal(2 * groups, r.randint(1, 3), *kernel, seed=seed)
            return conv(weight, size, stride, padding, dilation, groups, tuple(r.choice(MODES) for _ in range(dims)))


@pytest.mark.parametrize("small", [True, False], ids=["as a matrix", "by frequencies"])
@pytest.mark.parametrize("seed", range(60))
def test_random_convolutions(seed, small, monkeypatch):
    if not small:
        monkeypatch.setattr(conv_norm, "_DENSE_SIDE", 1)
        monkeypatch.setattr(conv_norm, "_DENSE_SIDE_MIRRORED", 1)
        monkeypatch.setattr(convolution, "_SIDES", (1, 1))
    op = drawn(seed)
    true = torch.linalg.matrix_norm(matrix(op), 2).item()
    found, geometry = op.norm(2.0), op.kernel.geometry
    assert true * (1 - 1e-13) <= found <= true * (1 + 1e-6 if small else 2.0) + 1e-12
    assert proven(op.weight, geometry, op.groups, found)
    assert true == 0.0 or not proven(op.weight, geometry, op.groups, true * (1 - 1e-9))


@pytest.mark.parametrize("modes", list(itertools.product(MODES, MODES)))
def test_small_convolutions_are_exact_with_every_padding(modes):
    op = conv(normal(3, 2, 3, 3, seed=4), (7, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, modes)
    true = torch.linalg.matrix_norm(matrix(op), 2).item()
    assert true * (1 - 1e-13) <= op.norm(2.0) <= true * (1 + 1e-6)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_circular_padding_is_exact_by_frequencies(stride, monkeypatch):
    monkeypatch.setattr(conv_norm, "_DENSE_SIDE", 1)
    op = conv(normal(3, 2, 3, 3), (12, 6), (stride, stride), ((1, 1), (1, 1)), (1, 1), 1, ("circular", "circular"))
    true = torch.linalg.matrix_norm(matrix(op), 2).item()
    assert true * (1 - 1e-13) <= op.norm(2.0) <= true * (1 + 1e-4)


def test_frequencies_of_the_image_itself_are_no_bound_for_zero_padding():
    row = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)
    op = conv(torch.outer(row, row)[None, None], (7, 7), (1, 1), ((1, 1), (1, 1)), (1, 1))
    circular = max(((2 - 2 * np.cos(2 * np.pi * a / 7)) * (2 - 2 * np.cos(2 * np.pi * b / 7))) for a in range(7) for b in range(7))
    true = torch.linalg.matrix_norm(matrix(op), 2).item()
    assert circular == pytest.approx(14.45, abs=0.01) and true == pytest.approx(14.81, abs=0.01)
    for value in (op.norm(2.0), torus_norm_above(lay(op.weight, op.kernel.geometry, 1))):
        assert value >= true
    assert not proven(op.weight, op.kernel.geometry, 1, circular)


@pytest.mark.parametrize("mode", MODES[1:])
def test_padded_positions(mode):
    x = torch.arange(5.0)[None, None]
    expected = torch.nn.functional.pad(x, (3, 2), mode=mode)[0, 0].long()
    assert torch.equal(padded_positions(mode, 5, 3, 2), expected)


FEW = {
    "square": (normal(24, 24, 3, 3), 5, 1, 1),
    "outputs fewer": (normal(12, 30, 3, 3), 6, 1, 1),
    "inputs fewer": (normal(40, 10, 3, 3), 6, 1, 1),
    "stride": (normal(20, 24, 3, 3), 7, 2, 1),
    "stride, inputs fewer": (normal(70, 8, 3, 3), 7, 2, 1),
    "one dimension": (normal(40, 40, 3), 7, 1, 1),
    "large matrices": (normal(70, 70, 3, 3), 3, 1, 1),
}


@pytest.mark.parametrize("few", [0, 10**6], ids=["by frequencies", "directly"])
@pytest.mark.parametrize("name", FEW)
def test_few_positions_with_many_channels(name, few, monkeypatch):
    monkeypatch.setattr(deflation, "_FEW", few)
    weight, size, stride, pad = FEW[name]
    dims = weight.ndim - 2
    op = conv(weight, (size,) * dims, (stride,) * dims, ((pad, pad),) * dims, (1,) * dims)
    geometry, true = op.kernel.geometry, torch.linalg.matrix_norm(matrix(op), 2).item()
    laid = lay(weight, geometry, 1)
    torus, found = torus_norm_above(laid), deflation.deflated_norm_above(weight, laid)
    assert found is not None and torus > true * 1.001, (torus, true)
    assert true <= found <= true * 1.001
    assert proven(weight, geometry, 1, found)
    assert not proven(weight, geometry, 1, true * (1 - 1e-6))
    monkeypatch.setattr(convolution, "_SIDES", (1, 1))
    assert proven(weight, geometry, 1, found)
    assert not proven(weight, geometry, 1, true * (1 - 1e-6))


@pytest.mark.parametrize("name", FEW)
def test_the_deflated_matrix_is_as_definite_as_is_said(name):
    weight, size, stride, pad = FEW[name]
    dims = weight.ndim - 2
    geometry = ConvGeometry(tuple(weight.shape[2:]), (stride,) * dims, (1,) * dims, ((pad, pad),) * dims, (size,) * dims)
    laid = lay(weight, geometry, 1)
    applied = OnTorus.of(laid.grams.torus, weight / laid.unit, laid.grams.of_outputs)
    here = applied.there[0]
    gram = applied.gram(torch.diag(here.flatten()))
    true = torch.linalg.matrix_norm(matrix(conv(weight, (size,) * dims, geometry.stride, geometry.padding, geometry.dilation)), 2).item()
    assert math.sqrt(torch.linalg.eigvalsh(gram)[-1].item()) * laid.unit == pytest.approx(true, rel=1e-9)
    direct = Direct(weight / laid.unit, laid.grams.torus, laid.grams.of_outputs)
    torch.testing.assert_close(direct.gram(torch.diag(here.flatten())), gram, rtol=0.0, atol=1e-11 * gram.abs().max().item())
    x = normal(applied.size, 3) * here.reshape(-1, 1)
    off = (direct.gram(x) - applied.gram(x)).norm() / x.norm()
    most = true / laid.unit * (1.0 + 1e-9)
    assert 0.0 < off <= direct.rounding(most) + applied.rounding(most) < 1e-8 * most**2
    tau = (true / laid.unit) ** 2
    channels = len(weight) if laid.grams.of_outputs else weight.shape[1]
    found = deflation._directions(laid, channels, 0.98 * tau, 1e-3 * tau)
    assert found is not None and found.columns.shape[1] > 0
    h = tau * torch.eye(applied.size, dtype=torch.float64) - gram + found.columns @ found.columns.T
    assert torch.linalg.eigvalsh(h)[0].item() >= tau - found.proven_cut - found.error
    assert found.error < 1e-9 * tau and true <= found.most * laid.unit


@pytest.mark.parametrize("name", ["square", "stride"])
def test_block_conjugate_gradients_say_what_they_leave(name):
    weight, size, stride, pad = FEW[name]
    geometry = ConvGeometry((3, 3), (stride,) * 2, (1, 1), ((pad, pad),) * 2, (size, size))
    laid = lay(weight, geometry, 1)
    applied = OnTorus.of(laid.grams.torus, weight / laid.unit, laid.grams.of_outputs)
    true = torch.linalg.matrix_norm(matrix(conv(weight, (size, size), geometry.stride, geometry.padding, (1, 1))), 2).item()
    tau = (1.0009 * true / laid.unit) ** 2
    found = deflation._directions(laid, len(weight), 0.98 * tau, 2e-3 * tau)
    assert found is not None
    f, least = found.columns, tau - found.proven_cut - found.error
    few = deflation._solve(applied.single().gram, f, math.sqrt(tau), least)
    assert few is not None
    z = few.double()
    r = f - tau * z + applied.gram(z) - f @ (f.T @ z)
    inside = f.T @ z + z.T @ r
    assert torch.linalg.eigvalsh((inside + inside.T) / 2 + r.T @ r / least)[-1] < 1.0 - 3e-4
    assert deflation._proves(applied, applied.rounding(found.most), f, few, math.sqrt(tau), least)
    # Below the norm there is nothing to be found.
    low = 0.997 * tau
    least = low - found.proven_cut - found.error
    assert deflation._solve(applied.single().gram, f, math.sqrt(low), least) is None
    assert not deflation._proves(applied, applied.rounding(found.most), f, few, math.sqrt(low), least)


def test_columns_and_terms_may_be_taken_a_few_at_a_time(monkeypatch):
    weight, size, stride, pad = FEW["stride, inputs fewer"]
    laid = lay(weight, ConvGeometry((3, 3), (stride,) * 2, (1, 1), ((pad, pad),) * 2, (size, size)), 1)
    applied = OnTorus.of(laid.grams.torus, weight, laid.grams.of_outputs)
    x = normal(applied.size, 7)
    whole, single = applied.gram(x), applied.single().gram(x.float())
    torch.testing.assert_close(single.double(), whole, rtol=0.0, atol=1e-4 * whole.abs().max().item())
    monkeypatch.setattr(normal_operator, "_ENTRIES", 2**14)
    monkeypatch.setattr(normal_operator, "_TERMS", 2**13)
    torch.testing.assert_close(applied.gram(x), whole, rtol=0.0, atol=1e-12 * whole.abs().max().item())


@pytest.mark.parametrize("name", FEW)
def test_a_torus_is_at_most_its_largest_symbol(name):
    weight, size, stride, pad = FEW[name]
    dims = weight.ndim - 2
    geometry = ConvGeometry(tuple(weight.shape[2:]), (stride,) * dims, (1,) * dims, ((pad, pad),) * dims, (size,) * dims)
    laid = lay(weight, geometry, 1)
    for on in (laid, turned(laid)):
        torus = on.grams.torus
        largest = torch.linalg.svdvals(symbols(torus, weight / on.unit, torus.frequencies)).max().item()
        assert 0.9 * largest < on.norm / on.unit < largest * (1 + 1e-6)
        assert torus_at_most(on, largest * (1 + 1e-4)) and not torus_at_most(on, largest * (1 - 1e-6))
        assert largest <= torus_norm_above(on) / on.unit < largest * (1 + 1e-4)


def test_a_torus_near_the_norm_is_not_made_looser():
    mixed = torch.linalg.qr(normal(40, 40)).Q
    op = conv(torch.nn.functional.pad(mixed[:, :, None, None], (1, 1, 1, 1)), (12, 12), (1, 1), ((1, 1), (1, 1)), (1, 1))
    assert 1.0 <= op.norm(2.0) <= 1.0 + 1e-4


def test_directions_missed_at_first_are_found(monkeypatch):
    weight = FEW["square"][0]
    laid = lay(weight, ConvGeometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (5, 5)), 1)
    largest = torch.linalg.eigvalsh(laid.grams.at(laid.grams.torus.frequencies))
    cut = 0.8 * largest[:, -1].max().item()
    nowhere = torch.zeros(len(largest), dtype=torch.bool)
    found = deflation._deflated(laid.grams, laid.grams.torus.frequencies, nowhere, cut, 1e-3 * cut)
    assert found is not None
    above = ((largest - cut).clamp(min=0.0)).sum(1)
    torch.testing.assert_close(found.abs().square().sum((1, 2)) * (above > 1e-3 * cut), above * (above > 1e-3 * cut), rtol=1e-3, atol=0.0)


def test_symbols_are_those_of_the_circulant_matrix():
    weight = normal(3, 2, 3)
    geometry = ConvGeometry((3,), (1,), (1,), ((1, 1),), (8,), ("circular",))
    laid = lay(weight, geometry, 1)
    found = symbols(laid.grams.torus, weight, laid.grams.torus.frequencies)[:, 0]
    full = matrix(conv(weight, (8,), (1,), ((1, 1),), (1,), 1, ("circular",)))
    some = torch.linalg.svdvals(found)
    expected = torch.linalg.svdvals(full)
    assert all((expected - v).abs().min() < 1e-9 for v in some.flatten())
    assert some.max().item() == pytest.approx(expected[0].item(), rel=1e-12)


def test_scales_of_weights_do_not_matter():
    weight = normal(8, 8, 3, 3)
    sizes = ((9, 9), (1, 1), ((1, 1), (1, 1)), (1, 1))
    base = conv(weight, *sizes).norm(2.0)
    for scale in (1e-120, 1e120):
        op = conv(weight * scale, *sizes)
        assert op.norm(2.0) == pytest.approx(base * scale, rel=1e-6)
        assert proven(op.weight, op.kernel.geometry, 1, op.norm(2.0))
    assert conv(weight * 0.0, *sizes).norm(2.0) == 0.0
