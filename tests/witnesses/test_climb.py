import math

import pytest
import torch
from nets import affine, mixed, mlp, rand

from steepest.results import Domain
from steepest.witnesses.budget import Budget
from steepest.witnesses.climb import Climb
from steepest.witnesses.evolve import Evolution
from steepest.witnesses.found import Found
from steepest.witnesses.landscape import Landscape
from steepest.witnesses.starts import Scales, Terrain


def begin(graph, norm, count=6, seed=1):
    terrain = Terrain.of(graph, Domain("all"), None, torch.float64)
    landscape = Landscape(graph, norm, torch.ones(math.prod(graph.input_shape), dtype=torch.bool))
    x = terrain.draw(count, torch.Generator().manual_seed(seed))
    value, v = landscape.hard(x, torch.nn.functional.normalize(rand(*x.shape, seed=seed), dim=1))
    return landscape, terrain, Found(x, v, value)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("graph", [mixed(), mlp(8, 24, 24, 12), affine(rand(12, 11))], ids=["mixed", "mlp", "affine"])
def test_a_climb_keeps_its_starts_and_its_values_are_real(graph, norm):
    landscape, terrain, found = begin(graph, norm)
    climbed = Climb(24, 0.7, 40.0, 0.1).run(landscape, terrain.chart(found.x), found, Budget())
    assert (climbed.value >= found.value).all()
    exact, _ = landscape.exact(climbed.x)
    assert (climbed.value <= exact * (1 + 1e-9)).all()
    if len(graph.nodes) > 2:
        assert (climbed.value > found.value).sum() >= 3


def test_a_climb_and_an_evolution_end_when_asked():
    landscape, terrain, found = begin(mlp(3, 10, 2), 2.0)
    budget = Budget()
    budget.stop.stop("enough")
    for left in (
        Climb(10**9, 0.7, 40.0, 0.1).run(landscape, terrain.chart(found.x), found, budget),
        Evolution(10**9, 6, 12).run(landscape, terrain, found, torch.Generator(), budget),
    ):
        assert torch.equal(left.value.sort().values, found.value.sort().values)


def test_islands_only_rise_and_end_as_one():
    landscape, terrain, found = begin(mlp(3, 12, 12, 2, seed=3), 2.0, 40)
    evolved = Evolution(80, 32, 64, halvings=5).run(landscape, terrain, found, torch.Generator().manual_seed(0), Budget())
    assert len(evolved.x) == 1 and evolved.value.item() > 1.05 * found.value.max().item()
    exact, _ = landscape.exact(evolved.x)
    assert evolved.value.item() == pytest.approx(exact.item(), rel=1e-6)


def test_scales_are_learnt():
    terrain = Terrain.of(mlp(20, 5, 2), Domain("all"), None, torch.float64)
    scales = Scales.of(terrain)
    even = scales.draw(64, torch.Generator().manual_seed(0))
    assert even.min().item() == pytest.approx(terrain.least) and even.max().item() == pytest.approx(terrain.most)
    scales.learn(even, -(even[:, 0].log() - math.log(0.2)).abs())
    drawn = scales.draw(64, torch.Generator().manual_seed(0))
    assert ((drawn > 0.05) & (drawn < 0.8)).sum() >= 40
