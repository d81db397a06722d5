"""Multiplied out, a system is the same: its maps, its multipliers, what they prove."""

import pytest
import torch

from random_graphs import random_graph
from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.propagation import Propagation
from steepest.numerics.deadline import Deadline
from steepest.ops.enclosures import Enclosures
from steepest.ops.free_form import free_form
from steepest.ops.lure import lure_system


@pytest.mark.parametrize("seed", range(25))
def test_maps_and_multipliers_stay(seed):
    graph, domain = random_graph(seed)
    system = lure_system(graph, Enclosures.over(graph, domain).values)
    if system is None:
        pytest.skip("a product, or an unbounded slope")
    free = free_form(system)
    assert free.size == system.size and free.parts is system.parts and free.multipliers == system.multipliers
    place = dict(zip(system.variables, free.variables, strict=True))
    pairs = [(a.v, b.v) for a, b in zip(system.stages, free.stages, strict=True)]
    for old, new in [*pairs, (system.output, free.output)]:
        before, after = system.matrices(old), free.matrices(new)
        assert {place[i] for i in before} == set(after)
        for i, block in before.items():
            torch.testing.assert_close(after[place[i]], block, rtol=0, atol=1e-12 * max(1.0, block.abs().max().item()))
    if not system.stages or system.size > 300:
        return
    found = [minimise(Propagation(s), Deadline(), lambda rho: None, steps=1) for s in (system, free)]
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None:
        logs = [d.log() for d in found[0]]
        rho = [torch.linalg.eigvalsh(Propagation(s).run(logs, None)[0])[-1].item() for s in (system, free)]
        assert rho[0] == pytest.approx(rho[1], rel=1e-8)
