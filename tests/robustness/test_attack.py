"""Attacks end at real points with another answer, no farther than the slow search finds."""

import math

import pytest
import torch

from cases import build
from steepest.robustness.attack import DeepFool, realise
from steepest.robustness.batch import EFFORTS, attack
from steepest.robustness.decisions import Decisions
from steepest.robustness.pgd import project

NORMS = [1.0, 2.0, math.inf]


def _net():
    torch.manual_seed(5)

    def net(b, x):
        x = b.relu(b.dense(x, torch.randn(20, 2), torch.randn(20)))
        return b.dense(b.relu(b.dense(x, torch.randn(20, 20) / 4, torch.randn(20))), torch.randn(4, 20))

    return build((1, 2), net)


@pytest.mark.parametrize("p", NORMS)
def test_it_is_as_near_as_a_fine_grid(p):
    graph, x = _net(), torch.randn(10, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    found = attack(at, p, EFFORTS["high"], 0)
    unit = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)
    offsets = torch.cartesian_prod(unit, unit)[:, None]
    length = torch.linalg.vector_norm(offsets[:, 0], p, dim=1)
    for i in range(10):
        d = found.distance[i].item()
        assert math.isfinite(d)
        changed = graph.evaluate(x[i] + d * offsets).flatten(1).argmax(1) != at.answer[i]
        nearest = (d * length[changed]).min().item() if changed.any() else math.inf
        assert nearest >= 0.98 * d


@pytest.mark.parametrize("p", NORMS)
def test_the_point_is_real_its_answer_proven_and_its_distance_an_upper_bound(p):
    graph, x = _net(), torch.randn(10, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    found = attack(at, p, EFFORTS["fast"], 0)
    values = graph.evaluate(found.point).flatten(1)
    assert (values.argmax(1) != at.answer).all()
    length = torch.linalg.vector_norm((found.point - x).flatten(1), p, dim=1)
    assert (found.distance >= length).all() and (found.distance <= length * (1 + 1e-12)).all()


def test_where_nothing_changes_nothing_is_found():
    graph = build((1, 2), lambda b, x: b.dense(x, torch.zeros(2, 2), torch.tensor([1.0, 0.0])))
    at = Decisions.of(graph, torch.zeros(2, 1, 2, dtype=torch.float64))
    found = attack(at, 2.0, EFFORTS["fast"], 0)
    assert (found.distance == math.inf).all() and (found.point == at.x).all()


@pytest.mark.parametrize("p", NORMS)
def test_descent_improves_on_deepfool(p):
    graph, x = _net(), torch.randn(10, 1, 2, dtype=torch.float64)
    at = Decisions.of(graph, x)
    first = realise(at, DeepFool(p).points(at)[:, None], p)
    found = attack(at, p, EFFORTS["normal"], 0)
    assert (found.distance <= first.distance).all()


@pytest.mark.parametrize("p", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(p):
    x, radius = 3 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([[0.0], [0.5], [1.0], [2.0], [50.0], [1.0]], dtype=torch.float64)
    found = project(x, radius, p)
    assert (torch.linalg.vector_norm(found, p, dim=1) <= radius[:, 0] * (1 + 1e-12)).all()
    # Of many points of the ball none is nearer.
    others = torch.randn(4000, 4, dtype=torch.float64)
    others = others / torch.linalg.vector_norm(others, p, dim=1, keepdim=True) * torch.rand(4000, 1, dtype=torch.float64)
    for i in range(6):
        best = torch.linalg.vector_norm(x[i] - radius[i] * others, dim=1).min()
        assert torch.linalg.vector_norm(x[i] - found[i]) <= best + 1e-12
