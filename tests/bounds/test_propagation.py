"""Covariance propagation against the dense inequality, its gradient against differences, and its plans against each other."""

import math

import pytest
import torch

from dense_form import dense
from steepest import ops
from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.plan import Narrow, Wide, plan
from steepest.bounds.lipsdp.proof import Proof
from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime, Propagation
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.ops.lure import lure_system
from steepest.ops.region import enclose_domain
from steepest.results import Domain


def weight(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64) / math.prod(shape[1:]) ** 0.5


def residual(generator):
    """A wide convolution, a block with a strided skip, one with an identity skip, a head."""
    b = Builder()
    x = b.input((1, 2, 6, 6))
    x = b.relu(b.conv(x, weight(generator, 4, 2, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1))
    y = b.relu(b.conv(x, weight(generator, 5, 4, 3, 3), None, (2, 2), ((1, 1), (1, 1)), (1, 1), 1))
    skip = b.conv(x, weight(generator, 5, 4, 1, 1), None, (2, 2), ((0, 0), (0, 0)), (1, 1), 1)
    x = b.relu(b.add(b.conv(y, weight(generator, 5, 5, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), skip))
    y = b.conv(x, weight(generator, 5, 5, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x = b.relu(b.add(b.relu(y, 0.2), x))
    return b.finish(b.dense(b.reshape(x, (1, 45)), weight(generator, 3, 45)))


def pooled(generator):
    """A convolution with overlapping maxima, then a concatenation, then a softmax."""
    b = Builder()
    x = b.input((1, 1, 5, 5))
    x = b.conv(x, weight(generator, 2, 1, 2, 2), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    x = b.max_pool(x, (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))
    x = b.reshape(x, (1, 18))
    x = b.concat([b.relu(b.dense(x, weight(generator, 6, 18))), b.unary(ops.Tanh, b.dense(x, weight(generator, 5, 18)))], 1)
    return b.finish(b.softmax(b.dense(x, weight(generator, 4, 11)), 1))


def widening(generator):
    b = Builder()
    x = b.input((1, 4))
    for m, n in ((20, 4), (9, 20), (30, 9), (5, 30)):
        x = b.relu(b.dense(x, weight(generator, m, n)))
    return b.finish(b.dense(x, weight(generator, 2, 5)))


NETS = {"residual": residual, "pooled": pooled, "widening": widening}


@pytest.fixture(params=NETS)
def system(request):
    graph = NETS[request.param](torch.Generator().manual_seed(0))
    found = lure_system(graph, enclose_domain(graph, Domain("all")))
    assert found is not None
    return found


def multipliers(system, propagation, seed=1):
    """D of every stage, feasible."""
    generator = torch.Generator().manual_seed(seed)
    logs = [torch.randn(s.last - s.first, generator=generator, dtype=torch.float64) for s in system.stages]
    _, d, _ = propagation.run(logs, [0.8] * len(logs))
    return [x.double() * 1.01 for x in d]


def test_rho_is_the_least_for_its_multipliers(system):
    propagation = Propagation(system)
    d = multipliers(system, propagation)
    out, _, _ = propagation.run([x.log() for x in d], None)
    rho = torch.linalg.eigvalsh(out)[-1].item()
    t = rho / torch.cat(d)
    form = dense(system)
    sides = t[form.G_of, None] * form.G, t[form.H_of, None] * form.H
    constraints = form.G.T @ sides[0] - form.H.T @ sides[1]
    constraints.diagonal()[: form.inputs] += rho
    for margin, holds in ((1e-6, True), (-1e-4, False)):
        least = torch.linalg.eigvalsh((1 + margin) * constraints - form.C.T @ form.C)[0].item()
        assert (least > -1e-13) is holds
    assert Proof(system).holds(t * (1 + 5e-7), rho * (1 + 1e-6))
    assert not Proof(system).holds(t * (1 - 5e-5), rho * (1 - 1e-4))


def test_wide_and_narrow_plans_agree(system):
    wide = Propagation(system)
    narrow = Propagation(system)
    narrow.plan = plan(system, wide=False)
    narrow.flow = type(wide.flow)(narrow.plan.signals)
    assert all(not isinstance(s, Wide) for s in narrow.plan.steps)
    logs = [x.log() for x in multipliers(system, wide)]
    outs = [p.run(logs, None)[0] for p in (wide, narrow)]
    assert torch.allclose(outs[0], outs[1], rtol=1e-10)


def test_wide_layers_are_never_dense():
    graph = widening(torch.Generator().manual_seed(0))
    found = plan(lure_system(graph, enclose_domain(graph, Domain("all"))))
    assert [type(s) for s in found.steps if isinstance(s, (Wide, Narrow))] == [Wide, Narrow, Wide, Narrow]
    assert found.largest == 9


@pytest.mark.parametrize("wide", [True, False])
def test_the_gradient_is_that_of_differences(system, wide):
    propagation = Propagation(system)
    if not wide:
        propagation.plan = plan(system, wide=False)
        propagation.flow = type(propagation.flow)(propagation.plan.signals)
    inexact = propagation._top
    propagation._top = lambda k, size, times, root, steps: inexact(k, size, times, root, 2000)
    generator = torch.Generator().manual_seed(2)
    logs = [0.5 * torch.randn(s.last - s.first, generator=generator, dtype=torch.float64) for s in system.stages]
    ratios = [0.6] * len(logs)

    def value(logs, ratios):
        return torch.linalg.eigvalsh(propagation.run(logs, ratios)[0])[-1].item()

    out, _, records = propagation.run(logs, ratios)
    vectors = torch.linalg.eigh(out)[1]
    by_log, by_ratio = propagation.gradient(records, vectors[:, -1:].mT, torch.ones(1, dtype=torch.float64))
    for k in range(len(logs)):
        way = torch.randn(logs[k].shape, generator=generator, dtype=torch.float64)
        ends = [value([x + e * way if i == k else x for i, x in enumerate(logs)], ratios) for e in (1e-5, -1e-5)]
        assert (by_log[k] @ way).item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3, abs=1e-6 * ends[0])
        ends = [value(logs, [r + e * (i == k) for i, r in enumerate(ratios)]) for e in (1e-5, -1e-5)]
        assert by_ratio[k] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3, abs=1e-6 * ends[0])


def test_single_precision_gives_nearly_the_same(system):
    double = Propagation(system)
    logs = [x.log() for x in multipliers(system, double)]
    single = Propagation(system, torch.float32)
    assert torch.allclose(double.run(logs, None)[0], single.run(logs, None)[0], rtol=1e-3, atol=1e-5)


def test_infeasible_multipliers_and_passed_deadlines_are_said(system):
    propagation = Propagation(system)
    logs = [torch.full((s.last - s.first,), -30.0, dtype=torch.float64) for s in system.stages]
    with pytest.raises(Infeasible):
        propagation.run(logs, None)
    stop = Deadline()
    stop.stop("asked")
    with pytest.raises(OutOfTime):
        propagation.run(logs, None, stop)
    assert minimise(propagation, stop, lambda rho: None) is None


def test_first_order_only_reports_improvements_and_falls(system):
    seen = []
    assert minimise(Propagation(system), Deadline(), seen.append, steps=40) is not None
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.9 * seen[0]
