"""Certified radii: no perturbation within them changes the answer, and none is larger than the nearest change."""

import math

import pytest
import torch

from cases import build
from random_graphs import random_graph
from steepest import ops
from steepest.errors import UsageError
from steepest.robustness.attack import DeepFool, realise
from steepest.robustness.batch import EFFORTS, Batch, certify_batch, make_sources
from steepest.robustness.constant import GlobalConstant, body, head
from steepest.robustness.decisions import Decisions, scores
from steepest.robustness.intervals import IntervalSlopes
from steepest.robustness.linear import LinearFloors
from steepest.robustness.radii import CLOSE, RadiusSearch

NORMS = [1.0, 2.0, math.inf]


def _plane(width=12, seed=3):
    """Three classes of two inputs."""
    torch.manual_seed(seed)

    def net(b, x):
        x = b.relu(b.dense(x, torch.randn(width, 2), torch.randn(width)))
        x = b.relu(b.dense(x, torch.randn(width, width) / width**0.5, torch.randn(width)))
        return b.dense(x, torch.randn(3, width))

    return build((1, 2), net)


def _linear():
    """Scores x_0 and x_1: the answer changes where they are equal."""
    return build((1, 2), lambda b, x: b.dense(x, torch.eye(2)))


def _radii(graph, x, p, sources, steps=8):
    at = Decisions.of(scores(graph), x)
    return RadiusSearch(p, steps).search(at, sources, torch.full((len(x),), math.inf, dtype=torch.float64)).radius


@pytest.mark.parametrize(("p", "share"), [(1.0, 1.0), (2.0, math.sqrt(0.5)), (math.inf, 0.5)])
def test_of_a_linear_network_it_is_the_distance_of_the_boundary(p, share):
    x = torch.tensor([[[3.0, 1.0]], [[-1.0, 4.0]]], dtype=torch.float64)
    wanted = share * (x[:, 0, 0] - x[:, 0, 1]).abs()
    constant = GlobalConstant(0, 1.0, p)
    for source in (IntervalSlopes(p), LinearFloors(p), constant):
        found = _radii(_linear(), x, p, [source])
        assert (found < wanted).all() and (found > wanted / CLOSE).all(), source
        attacked = realise(Decisions.of(_linear(), x), DeepFool(p).points(Decisions.of(_linear(), x))[:, None], p)
        torch.testing.assert_close(attacked.distance, wanted, rtol=1e-6, atol=0)
        assert (attacked.distance >= wanted).all()


@pytest.mark.parametrize("p", NORMS)
def test_no_point_of_a_grid_within_the_radius_has_another_answer(p):
    graph = _plane()
    x = torch.randn(12, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    found = certify_batch(Batch(graph, x, 0, None, p, EFFORTS["high"], 0, None))
    unit = torch.linspace(-1.0, 1.0, 161, dtype=torch.float64)
    offsets = torch.cartesian_prod(unit, unit)[:, None]
    length = torch.linalg.vector_norm(offsets[:, 0], p, dim=1)
    for i, one in enumerate(found):
        reach = 1.3 * one.attack if one.attack < math.inf else 2.0 * one.radius
        changed = graph.evaluate(x[i] + reach * offsets).flatten(1).argmax(1) != at.answer[i]
        nearest = (reach * length[changed]).min().item() if changed.any() else math.inf
        assert 0 < one.radius < nearest
        # The grid has no point nearer than what was found, and something near what was found.
        assert one.attack <= nearest * (1 + 1e-9)
        assert one.radius > 0.25 * one.attack


@pytest.mark.parametrize("p", NORMS)
def test_radii_of_random_networks_are_below_every_change_of_answer(p):
    for seed in range(12):
        graph = scores(random_graph(seed)[0])
        x = torch.randn(4, *graph.input_shape, dtype=torch.float64)
        at = Decisions.of(graph, x)
        # Raises where an attack is nearer than a radius.
        found = certify_batch(Batch(graph, x, 0, None, p, EFFORTS["fast"], seed, None))
        radius = torch.tensor([one.radius for one in found], dtype=torch.float64)
        noise = torch.randn(4, 300, *graph.input_shape, dtype=torch.float64)
        length = torch.linalg.vector_norm(noise.flatten(2), p, dim=2).reshape(4, 300, *[1] * len(graph.input_shape))
        moved = x[:, None] + noise / length * radius.reshape(4, 1, *[1] * len(graph.input_shape)) * (1 - 1e-9)
        same = graph.evaluate(moved).flatten(2).argmax(2) == at.answer[:, None]
        assert (same | (radius == 0)[:, None]).all(), seed


@pytest.mark.parametrize("p", NORMS)
def test_every_floor_is_below_every_margin_in_the_ball(p):
    graph = _plane()
    x = torch.randn(5, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    node = head(graph)
    # The largest secant of many is below the constant, so the constant is taken from the norms of the layers.
    bound = math.prod(n.op.norm(p) for n in graph.nodes[1 : node + 1] if isinstance(n.op, ops.Dense))
    sources = [*make_sources(p, EFFORTS["high"], GlobalConstant(node, bound, p))]
    for radius in (0.0, 0.05, 0.4, 2.0):
        noise = torch.randn(5, 4000, 2, dtype=torch.float64)
        noise = noise / torch.linalg.vector_norm(noise, p, dim=2, keepdim=True)
        moved = x + radius * noise * torch.rand(5, 4000, 1, dtype=torch.float64)
        values = graph.evaluate(moved[:, :, None])[:, :, 0]
        margins = values.gather(2, at.answer[:, None, None].expand(5, 4000, 1)) - values.gather(2, at.others[:, None].expand(5, 4000, 2))
        for source in sources:
            floors = source.floors(at, torch.full((5,), radius, dtype=torch.float64))
            assert (floors <= margins.amin(1) + 1e-12).all(), source.name
            if radius == 0.0:
                torch.testing.assert_close(floors, at.margins, rtol=1e-9, atol=1e-9)


def test_linear_bounds_prove_more_than_intervals_and_a_constant_helps_where_it_is_good():
    graph = _plane()
    x = torch.randn(6, 1, 2, dtype=torch.float64)
    intervals, linear = (_radii(graph, x, 2.0, [source]) for source in (IntervalSlopes(2.0), LinearFloors(2.0)))
    assert (linear >= intervals / CLOSE).all() and linear.mean() > 1.2 * intervals.mean()
    node = head(graph)
    assert node == len(graph.nodes) - 2 and body(graph, node).shape == (1, 12)
    small = _radii(graph, x, 2.0, [GlobalConstant(node, 1e-3, 2.0), LinearFloors(2.0)])
    assert (small > linear).all()


def test_a_batch_is_its_inputs():
    graph = _plane()
    x = torch.randn(7, 1, 2, dtype=torch.float64)
    together = _radii(graph, x, 2.0, [LinearFloors(2.0, entries=64)])
    alone = torch.cat([_radii(graph, one[None], 2.0, [LinearFloors(2.0)]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)


def test_a_last_softmax_is_left_out_and_one_output_is_refused():
    graph = build((1, 2), lambda b, x: b.softmax(b.relu(b.dense(x, torch.eye(2))), 1))
    assert scores(graph).nodes[-1].op.code == "leaky_relu"
    with pytest.raises(UsageError, match="at least two scores"):
        scores(build((1, 2), lambda b, x: b.dense(x, torch.ones(1, 2))))


def test_an_answer_in_doubt_has_no_radius():
    x = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    (found,) = certify_batch(Batch(_linear(), x, 0, (0,), 2.0, EFFORTS["fast"], 0, None))
    assert found.radius == 0.0 and found.margin <= 0.0 and found.source == "none"


def test_the_source_named_is_the_first_that_suffices():
    graph = _plane()
    x = torch.randn(6, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    sources = [GlobalConstant(head(graph), 1e-3, 2.0), IntervalSlopes(2.0), LinearFloors(2.0)]
    assert (RadiusSearch(2.0, 6).search(at, sources, torch.full((6,), math.inf, dtype=torch.float64)).source == 0).all()
    sources[0] = GlobalConstant(head(graph), 1e6, 2.0)
    assert (RadiusSearch(2.0, 6).search(at, sources, torch.full((6,), math.inf, dtype=torch.float64)).source > 0).all()


@pytest.mark.parametrize("source", [IntervalSlopes(2.0), LinearFloors(2.0)], ids=lambda s: s.name)
def test_a_radius_is_found_however_small_it_is(source):
    def net(b, x):
        for _ in range(12):
            x = b.relu(b.dense(x, torch.randn(16, x.shape[-1]), torch.randn(16)))
        return b.dense(x, torch.randn(3, 16))

    graph = build((1, 2), net)
    x = torch.randn(10, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    assert (at.margins > 0).all()
    found = RadiusSearch(2.0, 2).search(at, [source], torch.full((10,), math.inf, dtype=torch.float64))
    assert (found.radius > 0).all()
