"""No bound may fall below a slope that a pair of points realises; every bound joins this list."""

import math

import pytest
import torch

from cases import CASES
from random_graphs import random_graph
from steepest.api import make_domain
from steepest.bounds import ClarkeJacobian, LinearJacobian, LipSDP, PieceLipSDP, Product, Rowwise, Signs, Splitting
from steepest.bracket import Bracketing, Effort
from steepest.capture.torch_export import from_module
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
from steepest.witnesses.ascent import GradientAscent

SPLITTING = Splitting(ClarkeJacobian().over, PieceLipSDP(first=5, next=2), Deadline(), inputs=40, pieces=20)
ONE_PIECE = Splitting(ClarkeJacobian().over, PieceLipSDP(first=5, next=2), Deadline())
ROWWISE = Rowwise(LinearJacobian().row_sums, PieceLipSDP(first=3))
SIGNS = Signs(Deadline(), nodes=30, batch=4, steps=6)
BOUNDS = [Product(), ClarkeJacobian(), LinearJacobian(), ROWWISE, LipSDP(deadline=Deadline(), steps=30), SPLITTING, ONE_PIECE, SIGNS]
NORMS = [1.0, 2.0, math.inf]


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b.name)
@pytest.mark.parametrize(("name", "graph", "constants"), CASES, ids=[c[0] for c in CASES])
def test_known_constants_are_inside_the_bracket(name, graph, constants, bound):
    for norm, constant in constants.items():
        if not _covers(bound, graph, norm, Domain("all")):
            continue
        upper = bound.bound(graph, Domain("all"), norm)
        assert upper.value >= constant * (1 - 1e-12), (name, norm)
        lower = GradientAscent(seconds=0.5, starts=4, steps=40).search(graph, Domain("all"), norm)
        assert lower is not None
        assert lower.value <= constant * (1 + 1e-12), (name, norm)
        verdict = check(
            write_certificate(graph.record(), output=None, norm=norm, domain=Domain("all"), upper=upper, lower=None), graph.record()
        )
        assert verdict.upper >= constant * (1 - 1e-12), (name, norm)


def _covers(bound, graph, norm, domain):
    if isinstance(bound, (Splitting, Signs)):
        return bound.applies(graph, domain)
    if isinstance(bound, LinearJacobian):
        return bound.applies(graph, domain)
    if isinstance(bound, Rowwise):
        return bound.applies(graph, domain, norm)
    return not isinstance(bound, LipSDP) or norm == 2.0


def _pairs(domain, shape, count, generator):
    """Pairs of points of the domain, half of them close together."""
    noise = torch.randn(2, count, *shape, generator=generator, dtype=torch.float64)
    if domain.kind == "all":
        x = noise * 10 ** (3 * torch.rand(2, count, *[1] * len(shape), generator=generator, dtype=torch.float64) - 1.5)
    elif domain.kind == "box":
        lo, hi = (torch.from_numpy(e) for e in domain.bounds(shape))
        x = lo + (hi - lo) * torch.rand(noise.shape, generator=generator, dtype=torch.float64)
    else:
        length = torch.linalg.vector_norm(noise.flatten(2), domain.norm, dim=2).reshape(2, count, *[1] * len(shape))
        share = torch.rand(length.shape, generator=generator, dtype=torch.float64)
        x = torch.from_numpy(domain.centre) + noise / length * share * domain.radius * (1 - 1e-9)
    near = x[0] + 1e-3 * (x[1] - x[0])
    return x[0], torch.where((torch.arange(count) % 2 == 0).reshape(-1, *[1] * len(shape)), near, x[1])


@pytest.mark.parametrize("seed", range(200))
def test_secants_of_random_networks_never_exceed_a_bound(seed):
    graph, domain = random_graph(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = _pairs(domain, graph.input_shape, 1000, generator)
    moved = (graph.evaluate(x) - graph.evaluate(y)).flatten(1)
    for norm in NORMS:
        slopes = torch.linalg.vector_norm(moved, norm, dim=1) / torch.linalg.vector_norm((x - y).flatten(1), norm, dim=1)
        steepest = slopes[torch.isfinite(slopes)].max().item()
        for bound in BOUNDS:
            if not _covers(bound, graph, norm, domain):
                continue
            upper = bound.bound(graph, domain, norm)
            assert upper.value >= steepest * (1 - 1e-9), (bound.name, norm)
            record = graph.record()
            verdict = check(write_certificate(record, output=None, norm=norm, domain=domain, upper=upper, lower=None), record)
            assert verdict.upper >= steepest * (1 - 1e-9), ("checker", bound.name, norm)
            # Two independent computations of the same mathematics.
            assert verdict.upper == pytest.approx(upper.value, rel=1e-5), (bound.name, norm, verdict.reasons)


@pytest.mark.parametrize("layer", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM])
def test_recurrent_networks_are_bracketed_around_an_input(layer):
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer(2, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0][:, -1]

    torch.manual_seed(1)
    model, x, radius = Last().double().eval(), torch.randn(1, 3, 2, dtype=torch.float64), 0.2
    graph = from_module(model, x)
    bracket = Bracketing(Effort(0.3, 4, 2.0)).run(graph, make_domain(graph.input_shape, 2.0, x, radius, None), 2.0)
    assert check(bracket.certificate, graph.record()).holds
    steps = torch.randn(64, 3, 2, dtype=torch.float64)
    near = x + radius * torch.rand(64, 1, 1) ** (1 / 6) * steps / steps.flatten(1).norm(dim=1)[:, None, None]
    norms = [torch.linalg.matrix_norm(torch.autograd.functional.jacobian(model, y[None]).reshape(4, 6), 2).item() for y in near]
    assert max(norms) <= bracket.upper <= 2.0 * max(norms)
    assert bracket.lower <= bracket.upper
