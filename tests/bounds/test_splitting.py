"""Splitting the inputs: the constant itself on tiny networks, what the pieces are, and what the checker refuses."""

import base64
import copy
import itertools
import math

import numpy as np
import pytest
import torch

from steepest import ops
from steepest.bounds import ClarkeJacobian, LipSDP, PieceLipSDP, Product, Splitting
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.ops.cells import enclose_cells, unstable, whole_space
from steepest.ops.enclosures import Enclosures
from steepest.ops.region import enclose_domain
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain


def network(sizes, seed, biases=True, activation=lambda b, x: b.relu(x)):
    generator = torch.Generator().manual_seed(seed)
    b = Builder()
    x = b.input((1, sizes[0]))
    for k, (m, n) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
        weight = torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5
        bias = torch.randn(m, generator=generator, dtype=torch.float64) if biases else None
        x = b.dense(x if k == 0 else activation(b, x), weight, bias)
    return b.finish(x)


def split(graph, domain, norm=2.0, pieces=400, inner=True):
    search = Splitting(ClarkeJacobian().over, PieceLipSDP(first=30) if inner else None, Deadline(), pieces=pieces)
    upper = search.bound(graph, domain, norm)
    record = graph.record()
    return upper, write_certificate(record, output=None, norm=norm, domain=domain, upper=upper, lower=None), record


def steepest_jacobian(graph, points, norm):
    rows = torch.func.vmap(torch.func.jacrev(lambda x: graph.evaluate(x[None]).flatten()))(points[:, None])
    return torch.linalg.matrix_norm(rows.reshape(len(points), -1, points.shape[1]), norm).max().item()


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize(("inputs", "biases"), [(1, True), (2, True), (2, False)])
def test_over_all_inputs_it_comes_close_to_the_constant(inputs, biases, norm):
    for seed in range(2):
        graph = network([inputs, 6, 6, 2], seed, biases)
        upper, certificate, record = split(graph, Domain("all"), norm, pieces=2000)
        generator = torch.Generator().manual_seed(seed)
        scales = 10 ** (4 * torch.rand(100_000, 1, generator=generator, dtype=torch.float64) - 2)
        seen = steepest_jacobian(graph, torch.randn(100_000, inputs, generator=generator, dtype=torch.float64) * scales, norm)
        assert seen * (1 - 1e-9) <= upper.value <= 1.001 * seen
        assert check(certificate, record).holds


def test_it_is_below_lipsdp_where_few_patterns_occur():
    graph = network([2, 12, 12, 12, 2], 0)
    alone = LipSDP(deadline=Deadline.after(20.0)).bound(graph, Domain("all"), 2.0)
    upper, certificate, record = split(graph, Domain("all"), pieces=3000)
    assert upper.value < 0.8 * alone.value
    assert check(certificate, record).holds


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("activation", [lambda b, x: b.unary(ops.Tanh, x), lambda b, x: b.relu(x, -1.0), lambda b, x: b.clamp(x, -1, 2)])
def test_over_boxes_and_balls_every_activation_is_covered(activation, norm):
    graph = network([2, 8, 8, 3], 1, activation=activation)
    centre = np.array([[0.3, -0.2]])
    domains = [Domain("box", lo=centre - 1, hi=centre + 1), Domain("ball", centre=centre, radius=1.0, norm=norm)]
    generator = torch.Generator().manual_seed(0)
    for domain in domains:
        upper, certificate, record = split(graph, domain, norm, pieces=600)
        points = torch.from_numpy(centre) + 2 * torch.rand(20_000, 2, generator=generator, dtype=torch.float64) - 1
        if domain.kind == "ball":
            points = points[torch.linalg.vector_norm(points - torch.from_numpy(centre), norm, dim=1) < 1]
        seen = steepest_jacobian(graph, points, norm)
        assert seen * (1 - 1e-9) <= upper.value <= Product().bound(graph, domain, norm).value
        assert upper.value <= 1.5 * seen
        assert check(certificate, record).holds


def test_only_homogeneous_networks_are_split_over_all_inputs():
    smooth = network([2, 14, 1], 0, activation=lambda b, x: b.unary(ops.Tanh, x))
    search = Splitting(ClarkeJacobian().over)
    assert not search.applies(smooth, Domain("all"))
    assert search.applies(smooth, Domain("box", lo=np.zeros((1, 2)), hi=np.ones((1, 2))))
    assert not search.applies(network([20, 14, 1], 0), Domain("all"))
    assert search.applies(network([20, 4, 1], 0), Domain("all"))
    assert search.applies(network([2, 4, 1], 0), Domain("all"))


@pytest.mark.parametrize("seed", range(5))
def test_cells_hold_the_values_and_the_slopes_of_all_inputs(seed):
    """Any x is ``u / tau`` on a face; values there are tau times those at x, and neurons have the same signs."""
    graph = network([3, 8, 8, 2], seed)
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    lo, hi = whole_space(3, scale, True)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64) * 10 ** (
        torch.randn(500, 1, generator=generator, dtype=torch.float64)
    )
    tau = 1 / (x.abs() / scale).amax(1).clamp(min=1)
    place = torch.cat([x * tau[:, None], tau[:, None]], 1)
    on = ((place[:, None] >= lo - 1e-12) & (place[:, None] <= hi + 1e-12)).all(2)
    assert on.any(1).all()
    # A small box around each point, within its face.
    face = on.double().argmax(1)
    lo, hi = torch.maximum(lo[face], place - 0.05), torch.minimum(hi[face], place + 0.05)
    cells = enclose_cells(graph, lo, hi)
    values = [x[:, None]]
    for node in graph.nodes[1:]:
        values.append(node.op.evaluate(*(values[i] for i in node.inputs)))
    for value, box in zip(values, cells.values, strict=True):
        scaled = value * tau[:, None, None]
        assert ((scaled >= box.lo - 1e-9) & (scaled <= box.hi + 1e-9)).all()
    certain = [~mark for _, mark in unstable(graph, cells.values)]
    assert all(c.double().mean() > 0.3 for c in certain)


def _array(entry):
    return np.frombuffer(base64.b64decode(entry["base64"]), dtype=entry["dtype"]).copy()


def _write(entry, array):
    entry["base64"], entry["shape"] = base64.b64encode(array.tobytes()).decode(), list(array.shape)


@pytest.mark.parametrize("domain", [Domain("all"), Domain("box", lo=-np.ones((1, 2)), hi=np.ones((1, 2)))], ids=["all", "box"])
def test_altered_covers_are_refused(domain):
    graph = network([2, 8, 8, 2], 5)
    upper, certificate, record = split(graph, domain, pieces=60)
    cover = certificate["upper"]["cover"]
    assert check(certificate, record).holds
    assert any(cover["pieces"])
    assert len(cover["pieces"]) > 4

    def forged(change):
        other = copy.deepcopy(certificate)
        change(other["upper"]["cover"], other["upper"])
        assert not check(other, record).holds, change

    def edit(name, f):
        return lambda c, _: _write(c[name], f(_array(c[name])))

    where = np.flatnonzero(_array(cover["coordinate"]) >= 0)
    for k in range(len(cover["pieces"])):
        forged(lambda c, _, k=k: c["pieces"].pop(k))
        forged(lambda c, _, k=k: c["pieces"].insert(k, []))
    for k in range(len(_array(cover["at"]))):
        for name in ("coordinate", "at"):
            forged(edit(name, lambda a, k=k: np.delete(a, k)))
        forged(lambda c, _, k=k: [_write(c[n], np.delete(_array(c[n]), k)) for n in ("coordinate", "at")])
    for k in where:
        for value in (3, -(2**40), 2**40):
            forged(edit("coordinate", lambda a, k=k, value=value: np.where(np.arange(len(a)) == k, value, a)))
        for value in (1e3, -1e3, np.inf, np.nan):
            forged(edit("at", lambda a, k=k, value=value: np.where(np.arange(len(a)) == k, value, a)))
    for factor in (1 - 1e-3, 0.9, 0.0):
        forged(lambda _, u, factor=factor: u.update(bound=upper.value * factor))
    forged(lambda c, _: c.update(pieces=[[]] * len(c["pieces"])))
    for k, piece in enumerate(cover["pieces"]):
        for i, factor in itertools.product(range(len(piece)), (0.0, -1.0, np.nan)):
            step = copy.deepcopy(cover["pieces"][k][i]["multipliers"])
            if not _array(step).any():
                continue
            _write(step, (_array(step) * factor).reshape(step["shape"]))
            forged(lambda c, _, k=k, i=i, step=step: c["pieces"][k][i].update(multipliers=step))
    forged(lambda c, _: _write(c["scale"], -_array(c["scale"]))) if domain.kind == "all" else None
    for name in ("scale", "coordinate", "at", "pieces"):
        forged(lambda c, _, name=name: c.pop(name))
        forged(lambda c, _, name=name: c.update({name: None}))
        forged(lambda c, _, name=name: c.update({name: [[{"node": True}]]}))


def test_a_cover_of_one_domain_does_not_prove_another():
    graph = network([2, 8, 8, 2], 5)
    _, certificate, record = split(graph, Domain("box", lo=np.zeros((1, 2)), hi=np.full((1, 2), 0.1)), pieces=60)
    assert check(certificate, record).holds
    larger = {**certificate, "domain": Domain("box", lo=-np.ones((1, 2)), hi=np.ones((1, 2))).to_json()}
    assert not check(larger, record).holds
    assert not check({**certificate, "domain": Domain("all").to_json()}, record).holds
    smooth = network([2, 4, 1], 0, activation=lambda b, x: b.unary(ops.Tanh, x))
    _, certificate, record = split(smooth, Domain("box", lo=np.zeros((1, 2)), hi=np.full((1, 2), 0.1)), pieces=10)
    assert check(certificate, record).holds
    assert not check({**certificate, "domain": Domain("all").to_json()}, record).holds


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.0])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_few_neurons_and_many_inputs_give_the_maximum_over_gates(norm, slope):
    for seed in range(2):
        graph = network([20, 7, 4], seed, activation=lambda b, x: b.relu(x, slope))
        first, second = (n.op.weight for n in graph.nodes if isinstance(n.op, ops.Dense))
        gates = torch.tensor(list(itertools.product((slope, 1.0), repeat=7)), dtype=torch.float64)
        # With at least as many inputs as neurons every pattern occurs, so that this is the constant.
        exact = torch.linalg.matrix_norm(second @ (gates[:, :, None] * first), norm).max().item()
        upper, certificate, record = split(graph, Domain("all"), norm)
        assert upper.value == pytest.approx(exact, rel=3e-6)
        assert upper.value >= exact * (1 - 1e-12)
        assert check(certificate, record).holds
        assert upper.cover.scale.size == 0


def test_gates_of_deep_and_bounded_networks_are_covered():
    domain = Domain("box", lo=np.full((1, 20), -0.1), hi=np.full((1, 20), 0.3))
    for where in (domain, Domain("all")):
        graph = network([20, 4, 4, 2], 0)
        upper, certificate, record = split(graph, where)
        points = 0.4 * torch.rand(20_000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.1
        seen = steepest_jacobian(graph, points, 2.0)
        assert seen * (1 - 1e-9) <= upper.value <= LipSDP(deadline=Deadline.after(5.0)).bound(graph, where, 2.0).value * (1 + 1e-4)
        assert check(certificate, record).holds


@pytest.mark.parametrize("radius", [1e-9, 0.05, 0.5])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_a_region_of_many_inputs_is_one_piece_with_tighter_slopes(norm, radius):
    graph = network([30, 20, 20, 20, 3], 2)
    centre = np.linspace(-1, 1, 30)[None] * 1e3 ** (radius < 1e-6)
    domain = Domain("ball", centre=centre, radius=radius, norm=norm)
    upper = Splitting(ClarkeJacobian().over, PieceLipSDP(), Deadline()).bound(graph, domain, 2.0)
    record = graph.record()
    assert check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record).holds
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5000, 30, generator=generator, dtype=torch.float64)
    noise *= torch.rand(5000, 1, generator=generator, dtype=torch.float64) / torch.linalg.vector_norm(noise, norm, dim=1, keepdim=True)
    assert upper.value >= steepest_jacobian(graph, torch.from_numpy(centre) + radius * noise, 2.0) * (1 - 1e-6)
    plain = LipSDP(deadline=Deadline.after(20.0), enclosures=Enclosures(enclose_domain(graph, domain))).bound(graph, domain, 2.0)
    assert upper.value <= plain.value * 1.02
    assert radius < 0.5 or norm == math.inf or upper.value <= 0.95 * plain.value
    # With all the means that LipSDP has, the optimum over the slopes of the piece.
    best = Splitting(ClarkeJacobian().over, PieceLipSDP(whole=LipSDP()), Deadline.after(20.0)).bound(graph, domain, 2.0)
    assert best.value <= upper.value * (1 + 1e-6) and best.value <= plain.value * (1 + 1e-6)
    assert check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=best, lower=None), record).holds
