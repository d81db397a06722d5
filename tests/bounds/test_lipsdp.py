"""LipSDP: published optima, the exact slope on tiny networks, maxima, smaller regions, and what the checker refuses."""

import base64
import copy
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from steepest import ops
from steepest.bounds import LipSDP, Product
from steepest.capture.builder import Builder
from steepest.capture.load import load
from steepest.numerics.deadline import Deadline
from steepest.ops.lure import lure_system
from steepest.ops.region import enclose_domain
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain

SHARED = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[3] / "shared"))
# Optima of LipSDP-Neuron: file, value.
PUBLISHED = {
    "lipsdp_random": 36.482,
    "lipsdp_mnist": 24.3663,
    "digits_fnn2_seed0": 5.109714768971892,
    "digits_fnn3_seed0": 9.72861389765875,
    "digits_fnn3_seed3": 7.753896704600041,
    "mnist_chain_w16_d2": 0.882718,
    "mnist_chain_w16_d8": 0.184637,
    "mnist_chain_w64_d2": 0.877468,
    "random_5x20": 0.56887,
    "random_5x40": 0.017804,
    "random_10x20": 0.027641,
    "random_20x20": 0.0004727,
}


def chain(sizes, seed, activation=lambda b, x: b.relu(x)):
    generator = torch.Generator().manual_seed(seed)
    b = Builder()
    x = b.input((1, sizes[0]))
    for k, (m, n) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
        x = b.dense(x if k == 0 else activation(b, x), torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5)
    return b.finish(x)


def certify(graph, domain=None, seconds=3.0):
    domain = domain or Domain("all")
    upper = LipSDP(deadline=Deadline.after(seconds)).bound(graph, domain, 2.0)
    record = graph.record()
    certificate = write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None)
    return upper, certificate, record


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_optima_are_reached_and_checked(name):
    path = SHARED / "published" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"no shared networks at {SHARED}")
    upper, certificate, record = certify(load(str(path)).graph, seconds=20.0)
    assert upper.value <= PUBLISHED[name] * 1.001
    assert upper.gap is not None and upper.gap <= 1e-3
    assert check(certificate, record).holds


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5])
def test_a_deep_chain_is_solved_layer_by_layer_with_the_same_optimum(slope, monkeypatch):
    graph = chain([7, *[6] * 12, 3], 0, lambda b, x: b.relu(x, slope))
    found = []
    for slower in (0.0, 1e9):
        monkeypatch.setattr("steepest.bounds.lipsdp.bound.SLOWER", slower)
        upper, certificate, record = certify(graph)
        assert check(certificate, record).holds
        assert upper.gap is not None and upper.gap < 3e-5
        found.append(upper.value)
    assert found[0] == pytest.approx(found[1], rel=2e-5)


def test_one_hidden_layer_lies_between_the_exact_constant_and_the_product():
    for seed in range(3):
        graph = chain([3, 7, 2], seed)
        first, second = (n.op.weight for n in graph.nodes if isinstance(n.op, ops.Dense))
        gates = torch.tensor([[(k >> i) & 1 for i in range(7)] for k in range(128)], dtype=torch.float64)
        patterns = torch.linalg.matrix_norm(second @ (gates[:, :, None] * first), 2).max().item()
        upper, _, _ = certify(graph)
        assert upper.value <= Product().bound(graph, Domain("all"), 2.0).value
        # Every pattern is reached near the origin's hyperplanes where biases are zero; all of them bound the constant.
        x = torch.randn(20000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        reached = torch.linalg.matrix_norm(second @ (((x @ first.T) > 0).double()[:, :, None] * first), 2).max().item()
        assert reached * (1 - 1e-12) <= upper.value <= patterns * 1.2


@pytest.mark.parametrize(
    "activation",
    [
        lambda b, x: b.relu(x, 0.1),
        lambda b, x: b.relu(x, -1.0),
        lambda b, x: b.unary(ops.Silu, x),
        lambda b, x: b.softmax(x, 1),
        lambda b, x: b.append(ops.GroupSort((x.shape,)), b.reshape(x, x.shape)),
        lambda b, x: b.reshape(b.append(ops.GroupSort(((1, 4, 2),)), b.reshape(x, (1, 4, 2))), (1, 8)),
    ],
    ids=["leaky", "absolute", "silu", "softmax", "sort", "maxmin"],
)
def test_other_nonlinearities_are_below_the_product_and_proven(activation):
    graph = chain([4, 8, 8, 2], 1, activation)
    upper, certificate, record = certify(graph)
    assert upper.value <= Product().bound(graph, Domain("all"), 2.0).value * (1 + 1e-4)
    assert check(certificate, record).holds


def test_linear_network_is_its_norm():
    graph = chain([4, 3], 0)
    upper, certificate, record = certify(graph)
    assert upper.value == pytest.approx(torch.linalg.matrix_norm(graph.nodes[-1].op.weight, 2).item(), rel=1e-6)
    assert check(certificate, record).holds


def test_max_pooling_with_padding_and_overlap():
    b = Builder()
    x = b.input((1, 2, 5, 5))
    x = b.max_pool(x, (2, 2), (2, 2), ((1, 0), (0, 1)), (1, 1))
    x = b.max_pool(x, (3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))
    graph = b.finish(b.dense(b.reshape(x, (1, math.prod(x.shape))), torch.randn(3, math.prod(x.shape), dtype=torch.float64)))
    upper, certificate, record = certify(graph)
    assert upper.value <= Product().bound(graph, Domain("all"), 2.0).value
    assert check(certificate, record).holds
    system = lure_system(graph, enclose_domain(graph, Domain("all")))
    pools = [n for n in graph.nodes if isinstance(n.op, ops.GroupMax)]
    # One variable for each two entries that meet; none where padding is absent.
    assert system.size == 50 + sum(int(((n.op.index >= 0).sum(-1) - 1).sum()) for n in pools)


def test_a_smaller_region_gives_a_smaller_bound_that_still_holds():
    graph = chain([6, 12, 12, 2], 3)
    centre = np.ones((1, 6))
    values = []
    for radius in (1e-6, 0.1, 0.5):
        domain = Domain("ball", centre=centre, radius=radius, norm=2.0)
        upper, certificate, record = certify(graph, domain)
        assert check(certificate, record).holds
        values.append(upper.value)
    x = torch.from_numpy(centre)[None].requires_grad_(True)
    rows = [torch.autograd.grad(graph.evaluate(x)[0, 0, i], x)[0].flatten() for i in range(2)]
    assert values[0] == pytest.approx(torch.linalg.matrix_norm(torch.stack(rows), 2).item(), rel=1e-5)
    assert values[0] <= values[1] <= values[2] * (1 + 1e-6) <= certify(graph)[0].value * (1 + 1e-5)


def test_products_of_branches_are_not_covered():
    b = Builder()
    x = b.input((1, 3))
    graph = b.finish(b.multiply(b.unary(ops.Tanh, x), b.unary(ops.Sigmoid, x)))
    assert LipSDP().bound(graph, Domain("all"), 2.0).value == math.inf


@pytest.mark.parametrize("trials", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_altered_certificates_are_refused(trials):
    graph = chain([5, 10, 10, 3], 4)
    upper, certificate, record = certify(graph)
    assert check(certificate, record).holds
    rng = np.random.default_rng(0)
    for trial in range(trials):
        forged = copy.deepcopy(certificate)
        steps = forged["upper"]["steps"]
        kind = trial % 4
        if kind == 0:
            forged["upper"]["bound"] = upper.value * (1 - 10 ** rng.uniform(-5, 0))
        elif kind == 1:
            step = steps[rng.integers(len(steps))]
            t = np.frombuffer(base64.b64decode(step["multipliers"]["base64"])).copy()
            t[rng.integers(len(t))] *= rng.choice([0.0, -1.0, 0.3, 3.0, np.nan])
            step["multipliers"]["base64"] = base64.b64encode(t.tobytes()).decode()
            forged["upper"]["bound"] = upper.value * (1 - 1e-6)
        elif kind == 2:
            del steps[rng.integers(len(steps))]
        else:
            steps[rng.integers(len(steps))]["node"] = int(rng.integers(-1, 12)) if rng.random() < 0.5 else 1
            if forged == certificate:
                continue
        assert not check(forged, record).holds, (trial, kind)
