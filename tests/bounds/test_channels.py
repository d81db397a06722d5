"""LipSDP on a torus: against dense covariances of the torus written out, differences, the per-neuron bound, and real slopes."""

import itertools
import math

import pytest
import torch

from steepest import ops
from steepest.bounds.lipsdp import ChannelLipSDP, LipSDP
from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.frequency import TorusPropagation
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.ops.region import enclose_domain
from steepest.ops.torus import Unfit, torus_system
from steepest.ops.torus_maps import Diagonal, Frequencies, Matrix, Rows
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain, UpperBound
from steepest.witnesses.ascent import GradientAscent

ALL = Domain("all")


def weight(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64) / math.prod(shape[1:]) ** 0.5


def conv(b, x, w, stride=1, pad=1, groups=1, dilation=1):
    axes = w.ndim - 2
    return b.conv(x, w, None, (stride,) * axes, ((pad, pad),) * axes, (dilation,) * axes, groups)


def plain(g):
    b = Builder()
    x = b.relu(conv(b, b.input((1, 2, 5, 4)), weight(g, 3, 2, 3, 3)))
    x = b.relu(conv(b, x, weight(g, 4, 3, 3, 3), 2), 0.1)
    x = b.relu(b.dense(b.reshape(x, (1, 24)), weight(g, 5, 24)))
    return b.finish(b.dense(x, weight(g, 3, 5)))


def residual(g):
    """Strided and identity skips, a scale between, grouped and dilated convolutions."""
    b = Builder()
    x = b.relu(conv(b, b.input((1, 2, 6, 6)), weight(g, 4, 2, 3, 3)))
    y = b.relu(conv(b, x, weight(g, 4, 2, 3, 3), 2, 1, 2))
    x = b.relu(b.add(conv(b, y, weight(g, 4, 4, 3, 3)), conv(b, x, weight(g, 4, 4, 1, 1), 2, 0), -1))
    y = b.scale(conv(b, x, weight(g, 4, 4, 2, 2), 1, 1, 1, 2), torch.rand(1, 4, 1, 1, generator=g) + 0.5)
    x = b.unary(ops.Tanh, b.add(y, x))
    return b.finish(b.dense(b.reshape(x, (1, 36)), weight(g, 2, 36)))


def pooled(g):
    """Maxima of pairs and of overlapping windows, channels side by side, a softmax at the end."""
    b = Builder()
    x = conv(b, b.input((1, 1, 5, 5)), weight(g, 2, 1, 2, 2), 1, 0)
    x = b.max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    x = b.concat([b.relu(x), b.unary(ops.Sigmoid, x)], 1)
    x = b.max_pool(conv(b, x, weight(g, 3, 4, 3, 3)), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    x = b.dense(b.reshape(x, (1, 12)), weight(g, 4, 12))
    return b.finish(b.softmax(x, 1))


def line(g):
    """One axis, entries permuted and padded first, an average, no dense layer."""
    b = Builder()
    x = b.pad(b.permute(b.input((1, 9, 2)), (0, 2, 1)), [(0, 0), (0, 0), (1, 0)], 0.0)
    x = b.relu(conv(b, x, weight(g, 3, 2, 3), 1, 0))
    x = b.pad(x, [(0, 0), (0, 0), (1, 1)], 0.0)
    x = b.average_pool(x, (2,), (2,), ((0, 0),), True, False)
    return b.finish(conv(b, b.relu(x), weight(g, 2, 3, 5), 1, 0))


NETS = {"plain": plain, "residual": residual, "pooled": pooled, "line": line}


@pytest.fixture(params=NETS)
def graph(request):
    return NETS[request.param](torch.Generator().manual_seed(3))


def the_system(graph):
    return torus_system(graph, enclose_domain(graph, ALL))


def feasible(system, propagation, seed=1):
    g = torch.Generator().manual_seed(seed)
    logs = [0.5 * torch.randn(s.last - s.first, generator=g, dtype=torch.float64) for s in system.stages]
    return logs, [0.3 + torch.rand((), generator=g).item() for _ in system.stages]


def written_out(m, frequencies, stride):
    """A map as a matrix between flattened fields on the torus."""
    if isinstance(m, Matrix):
        return m.matrix
    if isinstance(m, Diagonal):
        return torch.diag(m.weight.repeat_interleave(1 if stride is None else math.prod(frequencies.size(stride))))
    size = frequencies.size(stride)
    if isinstance(m, Rows):
        full = torch.zeros(*m.rows.shape[:2], *size, dtype=torch.float64)
        full[(slice(None), slice(None), *(slice(n) for n in m.rows.shape[2:]))] = m.rows
        return full.flatten(1)
    out = tuple(n // s for n, s in zip(size, m.step, strict=True))
    rows, inside = m.weight.shape[:2]
    full = torch.zeros(rows, *out, inside, *size, dtype=torch.float64)
    for i in itertools.product(*map(range, out)):
        for k, offset in enumerate(m.offset.tolist()):
            p = tuple((s * a + o) % n for s, a, o, n in zip(m.step, i, offset, size, strict=True))
            full[(slice(None), *i, slice(None), *p)] += m.weight[:, :, k]
    return full.reshape(rows * math.prod(out), inside * math.prod(size))


def dense_covariance(system, d):
    """The output's covariance by one joint covariance of everything, positions written out."""
    f = system.frequencies

    def positions(i):
        stride = system.signals[i].stride
        return 1 if stride is None else math.prod(f.size(stride))

    place, at = {}, 0
    cov = torch.zeros(0, 0, dtype=torch.float64)
    stage_of = {s.z: (k, s) for k, s in enumerate(system.stages)}
    for t, signal in enumerate(system.signals):
        n = signal.channels * positions(t)
        if t == 0:
            new, cross = torch.eye(n, dtype=torch.float64), torch.zeros(n, 0, dtype=torch.float64)
        elif signal.terms:
            a = torch.zeros(n, at, dtype=torch.float64)
            for m, s in signal.terms:
                a[:, place[s]] += written_out(m, f, system.signals[s].stride)
            cross = a @ cov
            new = cross @ a.T
        else:
            k, s = stage_of[t]
            v = place[s.v]
            spread = [x.repeat_interleave(positions(s.v)) for x in (s.radius, s.middle, d[k][s.v_of - s.first])]
            k_u = cov[:, v] * spread[0]
            cov = cov + k_u @ torch.linalg.solve(torch.diag(spread[2]) - spread[0][:, None] * cov[v][:, v] * spread[0], k_u.T)
            w = torch.diag(d[k][s.z_of - s.first].repeat_interleave(positions(t)))
            if s.tied or not s.middle.any():
                new, cross = w, torch.zeros(n, at, dtype=torch.float64)
            else:
                cross = spread[1][:, None] * cov[v]
                new = spread[1][:, None] * cov[v][:, v] * spread[1] + w
        cov = torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, new], 1)])
        place[t] = slice(at, at + n)
        at += n
    return cov[place[system.output]][:, place[system.output]]


def test_one_matrix_per_frequency_is_the_covariance_of_the_torus(graph):
    system = the_system(graph)
    propagation = TorusPropagation(system)
    out, d, _ = propagation.run(*feasible(system, propagation))
    torch.testing.assert_close(out, dense_covariance(system, d), rtol=1e-9, atol=1e-12 * out.abs().max().item())


def test_symbols_made_anew_are_the_same(graph):
    system = the_system(graph)
    kept, anew = TorusPropagation(system), TorusPropagation(system, entries=0)
    point = feasible(system, kept)
    assert torch.equal(kept.run(*point)[0], anew.run(*point)[0])


def test_the_gradient_agrees_with_differences(graph):
    system = the_system(graph)
    propagation = TorusPropagation(system)
    logs, ratios = feasible(system, propagation)
    g = torch.Generator().manual_seed(5)

    def value(logs, ratios):
        for _ in range(60):
            # The eigenvectors that D is scaled by converge from pass to pass.
            out, _, records = propagation.run(logs, ratios)
        values, vectors = torch.linalg.eigh(out)
        return (values**4).sum().item(), records, vectors.mT, 4 * values**3

    _, records, directions, weights = value(logs, ratios)
    by_log, by_ratio = propagation.gradient(records, directions, weights)
    for _ in range(2):
        moves = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in logs]
        slides = torch.randn(len(ratios), generator=g, dtype=torch.float64).tolist()
        h = 1e-5
        ends = [
            value([x + s * h * m for x, m in zip(logs, moves, strict=True)], [r + s * h * m for r, m in zip(ratios, slides, strict=True)])[
                0
            ]
            for s in (1, -1)
        ]
        slope = sum((x @ m).item() for x, m in zip(by_log, moves, strict=True)) + sum(x * m for x, m in zip(by_ratio, slides, strict=True))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-4, abs=1e-7 * abs(ends[0]))


def test_the_bound_holds_and_one_multiplier_per_neuron_is_no_worse(graph):
    channel = ChannelLipSDP(deadline=Deadline.after(3.0), steps=150).bound(graph, ALL, 2.0)
    neuron = LipSDP(deadline=Deadline.after(5.0)).bound(graph, ALL, 2.0)
    witness = GradientAscent(seconds=2.0, starts=8, seed=0).search(graph, ALL, 2.0)
    assert witness is not None
    assert witness.value <= neuron.value <= channel.value * (1 + 1e-6)
    # On the torus there is more room; these networks are too small for it to be little.
    assert channel.value <= 3.0 * neuron.value


def certificate(graph, **keys):
    upper = ChannelLipSDP(deadline=Deadline.after(1.0), steps=20).bound(graph, ALL, 2.0)
    record = graph.record()
    return write_certificate(record, output=None, norm=2.0, domain=ALL, upper=upper, lower=None), record, upper


def test_the_checker_proves_the_same(graph):
    claims, record, upper = certificate(graph)
    verdict = check(claims, record)
    assert verdict.holds, verdict.reasons
    assert upper.value * (1 - 1e-5) < verdict.upper <= upper.value


def test_the_checker_refuses_what_was_altered(graph):
    claims, record, upper = certificate(graph)
    claims["upper"]["bound"] = upper.value * (1 - 1e-4)
    assert not check(claims, record).holds
    claims["upper"]["bound"] = upper.value
    steps = claims["upper"]["steps"]
    for altered in (
        steps[1:],
        [*steps[1:], {**steps[0], "node": steps[0]["node"] + 1}],
        [{**steps[0], "multipliers": steps[-1]["multipliers"]}, *steps[1:]],
    ):
        if altered == steps:
            continue
        claims["upper"]["steps"] = altered
        assert not check(claims, record).holds


def test_multipliers_that_are_too_large_prove_nothing():
    graph = plain(torch.Generator().manual_seed(3))
    upper = ChannelLipSDP(deadline=Deadline.after(1.0), steps=20).bound(graph, ALL, 2.0)
    for step in upper.steps:
        step.values["multipliers"][...] *= 1e3
    record = graph.record()
    verdict = check(write_certificate(record, output=None, norm=2.0, domain=ALL, upper=upper, lower=None), record)
    assert not verdict.holds
    assert "too large" in verdict.reasons[0]


def test_a_large_pooling_is_bounded_channel_by_channel(monkeypatch):
    graph = pooled(torch.Generator().manual_seed(3))
    monkeypatch.setattr("steepest.ops.torus._PAIRED", 1)
    claims, record, upper = certificate(graph)
    assert next(s.values["multipliers"].shape for s in upper.steps) == (2,)
    assert check(claims, record).holds
    witness = GradientAscent(seconds=1.0, starts=8, seed=0).search(graph, ALL, 2.0)
    assert witness is not None and witness.value <= upper.value


def test_zero_padding_is_not_circular():
    # As a circular map the norm would be smaller: 14.45 < 14.81.
    k = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)
    b = Builder()
    x = conv(b, b.input((1, 1, 7, 7)), torch.outer(k, k)[None, None])
    graph = b.finish(b.reshape(x, (1, 49)))
    found = ChannelLipSDP(deadline=Deadline.after(1.0)).bound(graph, ALL, 2.0)
    matrix = graph.evaluate(torch.eye(49, dtype=torch.float64).reshape(49, 1, 1, 7, 7)).reshape(49, 49)
    assert torch.linalg.matrix_norm(matrix, 2).item() <= found.value <= 16.0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda b, x: conv(b, conv(b, x, torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3)), "made zero outside"),
        (lambda b, x: b.multiply(conv(b, x, torch.ones(1, 1, 3, 3)), x), "product of branches"),
        (lambda b, x: b.relu(b.dense(b.reshape(x, (1, 64)), torch.ones(2, 64))), "no convolution"),
    ],
)
def test_what_is_no_torus_is_refused(make, reason):
    b = Builder()
    y = make(b, b.input((1, 1, 8, 8)))
    graph = b.finish(b.reshape(y, (1, math.prod(y.shape))))
    with pytest.raises(Unfit, match=reason):
        the_system(graph)
    found = ChannelLipSDP(deadline=Deadline.after(1.0)).bound(graph, ALL, 2.0)
    assert found.value == math.inf
    assert reason in found.remark


def test_frequencies_fold_and_spread():
    f = Frequencies((12, 8), (3, 2))
    assert f.weight.sum().item() == 6
    x = torch.randn(len(f.weight), 16, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine, middle = (1, 1), (2, 2)
    y = torch.randn(len(f.weight), 4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    folded, spread = f.fold(x, fine, middle), f.spread(y, middle, fine)
    assert (folded * y).sum().item() == pytest.approx((x * spread).sum().item())
    # A frequency folds to the one it equals on the coarser torus.
    index = torch.remainder(f.index(fine), torch.tensor(f.size(middle)))
    assert torch.equal(torch.remainder(f.spread(f.index(middle), middle, fine), torch.tensor(f.size(middle))), index)


def test_minimising_helps():
    graph = residual(torch.Generator().manual_seed(3))
    values = []
    minimise(TorusPropagation(the_system(graph), torch.float32), Deadline.after(20.0), values.append, steps=80)
    assert values[-1] < 0.9 * values[0]


def proven(graph):
    claims, record, upper = certificate(graph)
    return upper, check(claims, record)


@pytest.mark.parametrize(("small", "large"), [(1e-170, 1e200), (1e-160, 1e160), (1e-60, 1e59)])
def test_products_that_underflow_prove_nothing_too_small(small, large):
    b = Builder()
    x = conv(b, b.input((1, 1, 3, 3)), torch.full((1, 1, 1, 1), small, dtype=torch.float64), 1, 0)
    graph = b.finish(b.dense(b.reshape(x, (1, 9)), large * torch.eye(9, dtype=torch.float64)))
    record = graph.record()
    for claim in (1e-100, small * large * (1 - 1e-6)):
        upper = UpperBound("lipsdp-channel", claim, ())
        assert not check(write_certificate(record, output=None, norm=2.0, domain=ALL, upper=upper, lower=None), record).holds


def test_a_constant_network_is_proven_to_be_almost_that():
    b = Builder()
    x = b.relu(conv(b, b.input((1, 1, 3, 3)), torch.ones(1, 1, 1, 1), 1, 0))
    upper, verdict = proven(b.finish(b.dense(b.reshape(x, (1, 9)), torch.zeros(1, 9))))
    assert verdict.holds and upper.value < 1e-70


def test_more_padding_than_the_kernel_reaches_over():
    b = Builder()
    x = conv(b, b.input((1, 1, 4, 4)), torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(0)), 2, 3)
    graph = b.finish(b.dense(b.reshape(b.relu(x), (1, 50)), weight(torch.Generator().manual_seed(1), 3, 50)))
    _, verdict = proven(graph)
    assert verdict.holds, verdict.reasons


def test_a_maximum_of_one_entry_has_no_multipliers():
    g = torch.Generator().manual_seed(0)
    b = Builder()
    x = b.max_pool(conv(b, b.input((1, 1, 5, 5)), weight(g, 2, 1, 3, 3)), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1))
    _, verdict = proven(b.finish(b.dense(b.reshape(b.relu(x), (1, 18)), weight(g, 2, 18))))
    assert verdict.holds, verdict.reasons


@pytest.mark.parametrize("shape", [[1] * 65, [0, *[10**9] * 8], [195, 2], [-1], ["a"]])
def test_multipliers_of_any_shape_get_a_verdict(shape):
    claims, record, _ = certificate(plain(torch.Generator().manual_seed(3)))
    values = claims["upper"]["steps"][0]["multipliers"]
    claims["upper"]["steps"][0]["multipliers"] = {**values, "shape": shape, "base64": "AAAAAAAA8D8=" if 0 not in shape else ""}
    assert not check(claims, record).holds


def test_windows_that_read_padding_alone_have_an_adjoint():
    b = Builder()
    x = b.conv(b.input((1, 1, 2)), torch.ones(1, 1, 2), None, (4,), ((3, 0),), (1,), 1)
    op = b.finish(x).nodes[-1].op
    assert isinstance(op, ops.Conv)
    assert torch.equal(op.adjoint(torch.ones(op.shape, dtype=torch.float64)), torch.zeros(1, 1, 2, dtype=torch.float64))
