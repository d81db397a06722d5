"""SeqLip's greedy search against all gates, LipLT against LipSDP, and neither ever a bound."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from steepest import ops
from steepest.bounds import LipSDP, Product
from steepest.bracket import EFFORTS, Bracketing, Effort
from steepest.capture.builder import Builder
from steepest.estimates import LipLT, SeqLip
from steepest.estimates.seqlip import gate_maximum
from steepest.numerics.deadline import Deadline
from steepest.proofs.check import check
from steepest.results import Domain, Estimate

ALL = Domain("all")
SHORT = Effort(0.2, 4, 4.0, steps=20, exact=320)


def weights(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5 for n, m in itertools.pairwise(sizes)]


def chain(layers, activation=lambda b, x: b.relu(x), last=False):
    b = Builder()
    x = b.input((1, layers[0].shape[1]))
    for k, w in enumerate(layers):
        x = b.dense(x if k == 0 else activation(b, x), w)
    return b.finish(activation(b, x) if last else x)


def skipping(layers):
    b = Builder()
    x = b.input((1, layers[0].shape[1]))
    for w in layers:
        x = b.add(x, b.dense(b.relu(x), w))
    return b.finish(x)


def all_gates(left, right, lo, hi):
    ends = torch.stack([lo, hi])
    d = torch.stack([ends[list(g), range(len(lo))] for g in itertools.product((0, 1), repeat=len(lo))])
    return torch.linalg.matrix_norm(left @ (d[:, :, None] * right), 2).max().item()


def by_definition(layers, lo, hi):
    """SeqLip with the maximum over all gates."""
    value, below = 1.0, None
    for i, w in enumerate(layers):
        u, s, vh = torch.linalg.svd(w, full_matrices=False)
        root = s.diag() if i in (0, len(layers) - 1) else s.sqrt().diag()
        if below is not None:
            n = w.shape[1]
            value *= all_gates(root @ vh, below, torch.full((n,), lo, dtype=torch.float64), torch.full((n,), hi, dtype=torch.float64))
        below = u @ root
    return value


@pytest.mark.parametrize("low", [0.0, -0.5, 0.3])
def test_greedy_gates_are_never_above_all_gates_and_mostly_the_best(low):
    shares = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        n = 3 + seed % 8
        p, q = torch.randint(1, 12, (2,), generator=generator).tolist()
        left, right = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((p, n), (n, q)))
        lo = low * torch.rand(n, generator=generator, dtype=torch.float64)
        hi = lo + torch.rand(n, generator=generator, dtype=torch.float64)
        shares.append(gate_maximum(left, right, lo, hi) / all_gates(left, right, lo, hi))
    assert max(shares) <= 1 + 1e-12
    assert min(shares) >= 0.95
    assert sum(s >= 1 - 1e-5 for s in shares) >= 36


@pytest.mark.parametrize("sizes", [(3, 8, 2), (5, 7, 6, 4), (4, 6, 9, 5, 3)])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_seqlip_is_what_its_paper_defines(sizes, slope):
    for seed in range(5):
        layers = weights(sizes, seed)
        graph = chain(layers, lambda b, x: b.relu(x, slope))
        found = SeqLip(deadline=Deadline()).estimate(graph, ALL)
        exact = by_definition(layers, slope, 1.0)
        assert 0.95 * exact <= found.value <= exact * (1 + 1e-12)
        assert found.value <= Product().bound(graph, ALL, 2.0).value


def test_an_activation_at_the_end_is_a_layer_of_its_own():
    layers = weights((4, 6, 5), 0)
    found = SeqLip(deadline=Deadline()).estimate(chain(layers, last=True), ALL)
    assert found.value == pytest.approx(by_definition([*layers, torch.eye(5, dtype=torch.float64)], 0.0, 1.0), rel=0.05)


def test_scaling_of_layers_that_leaves_the_network_leaves_the_estimates():
    layers = weights((4, 7, 6, 3), 1)
    first, second = chain(layers), chain([100.0 * layers[0], layers[1] / 400.0, 4.0 * layers[2]])
    for method in (SeqLip(deadline=Deadline()), LipLT()):
        assert method.estimate(second, ALL).value == pytest.approx(method.estimate(first, ALL).value, rel=1e-6)


def test_a_convolution_counts_as_its_matrix():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    head = torch.randn(3, 18, generator=generator, dtype=torch.float64)
    b = Builder()
    x = b.conv(b.input((1, 1, 5, 5)), kernel, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    graph = b.finish(b.dense(b.reshape(b.relu(x), (1, 18)), head))
    dense = torch.nn.functional.conv2d(torch.eye(25, dtype=torch.float64).reshape(25, 1, 5, 5), kernel).flatten(1).mT
    expected = SeqLip(deadline=Deadline()).estimate(chain([dense, head]), ALL).value
    assert SeqLip(deadline=Deadline()).estimate(graph, ALL).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("graph", [chain(weights((4, 9, 7, 3), 2)), skipping(weights((5, 5, 5), 3))], ids=["chain", "skips"])
def test_liplt_is_not_below_lipsdp_and_not_above_the_product(graph):
    found = LipLT().estimate(graph, ALL).value
    assert found >= LipSDP(deadline=Deadline()).bound(graph, ALL, 2.0).value * (1 - 1e-3)
    assert found <= Product().bound(graph, ALL, 2.0).value


def test_smaller_regions_have_smaller_estimates():
    graph = chain(weights((4, 9, 7, 3), 4), lambda b, x: b.unary(ops.Tanh, x))
    centre = torch.full((1, 4), 0.7, dtype=torch.float64).numpy()
    ball = Domain("ball", centre=centre, radius=1e-3, norm=2.0)
    for method in (SeqLip(deadline=Deadline()), LipLT()):
        assert method.estimate(graph, ball).value < 0.9 * method.estimate(graph, ALL).value


def test_what_does_not_apply_or_takes_too_long_is_left_out():
    graph, passed = chain(weights((4, 9, 3), 5)), Deadline.after(-1.0)
    assert SeqLip(deadline=passed).estimate(graph, ALL) is None
    assert LipLT(deadline=passed).estimate(graph, ALL) is None
    assert SeqLip().estimate(skipping(weights((5, 5, 5), 3)), ALL) is None
    linear = chain(weights((4, 3), 0))
    b = Builder()
    unbounded = b.finish(b.unary(ops.Exp, b.input((1, 3))))
    assert [m.estimate(g, ALL) for m in (SeqLip(), LipLT()) for g in (linear, unbounded)] == [None] * 4


def test_a_bracket_shows_estimates_and_never_takes_them():
    graph = chain(weights((6, 12, 10, 4), 6))
    bracket = Bracketing(effort=SHORT).run(graph, ALL, 2.0)
    assert {e.method for e in bracket.estimates} == {"seqlip", "liplt"}
    assert all(isinstance(e, Estimate) and math.isfinite(e.value) and e.remark for e in bracket.estimates)
    data = bracket.to_json()
    assert [set(e) for e in data["estimates"]] == [{"method", "value", "seconds", "remark"}] * 2
    assert {m["method"] for m in data["methods"]}.isdisjoint({"seqlip", "liplt"})
    assert "seqlip" not in str(data["certificate"])


def test_an_estimate_below_everything_changes_neither_end(monkeypatch):
    def wrong(self, graph, domain):
        return Estimate(self.name, 1e-9, 0.0, "wrong")

    monkeypatch.setattr(SeqLip, "estimate", wrong)
    monkeypatch.setattr(LipLT, "estimate", wrong)
    graph = chain(weights((6, 12, 4), 7))
    bracket = Bracketing(effort=SHORT).run(graph, ALL, 2.0)
    assert [e.value for e in bracket.estimates] == [1e-9, 1e-9]
    assert bracket.upper == min(u.value for u in bracket.uppers) >= bracket.lower > 1e-3
    assert check(bracket.certificate, graph.record()).upper == bracket.upper


def test_other_norms_and_a_request_to_stop_leave_them_out():
    graph = chain(weights((4, 5, 3), 8))
    assert Bracketing(effort=SHORT).run(graph, ALL, math.inf).estimates == ()
    stop = Deadline()
    stop.stop("asked")
    assert Bracketing(effort=replace(EFFORTS["fast"], seconds=0.2), stop=stop).run(graph, ALL, 2.0).estimates == ()
