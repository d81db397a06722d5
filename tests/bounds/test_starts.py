"""LipLT and its multipliers, against norms by singular values and the matrix inequality itself."""

import math

import pytest
import torch

from dense_form import dense
from steepest import ops
from steepest.bounds.lipsdp.first_order import minimise
from steepest.bounds.lipsdp.propagation import Propagation
from steepest.bounds.lipsdp.starts import ECLIPSE_FAST, closed_form, even, liplt
from steepest.capture.builder import Builder
from steepest.numerics.deadline import Deadline
from steepest.ops.lure import lure_system
from steepest.ops.region import enclose_domain
from steepest.results import Domain


def system_of(activation, skip, seed, sizes=(4, 9, 7, 3)):
    generator = torch.Generator().manual_seed(seed)
    b = Builder()
    x = b.input((1, sizes[0]))
    for k, (m, n) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
        x = b.dense(x if k == 0 else activation(b, x), torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5)
        if skip and k == 1:
            x = b.add(x, activation(b, b.dense(x, torch.randn(m, m, generator=generator, dtype=torch.float64) / m**0.5)))
    graph = b.finish(x)
    return lure_system(graph, enclose_domain(graph, Domain("all")))


ACTIVATIONS = [lambda b, x: b.relu(x), lambda b, x: b.relu(x, 0.1), lambda b, x: b.unary(ops.Tanh, x)]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=["relu", "leaky", "tanh"])
def test_value_is_that_of_norms_by_singular_values_and_its_multipliers_are_feasible(activation, skip):
    for seed in range(3):
        system = system_of(activation, skip, seed)
        found = liplt(system, Deadline(), iterations=1000)
        assert found is not None
        form = dense(system)
        H, C = form.decoupled()
        places = [slice(0, form.inputs)]
        for s in system.stages:
            places.append(slice(places[-1].stop, places[-1].stop + s.last - s.first))
        rows = [H[s.first : s.last] for s in system.stages]
        reach = [1.0]
        for k, h in enumerate(rows):
            reach.append(sum(torch.linalg.matrix_norm(h[:, places[j]], 2).item() * reach[j] for j in range(k + 1)))
        value = sum(torch.linalg.matrix_norm(C[:, p], 2).item() * r for p, r in zip(places, reach, strict=True))
        assert found.value == pytest.approx(value, rel=1e-3)
        t = found.value**2 / torch.cat(found.d)
        rho = torch.zeros(C.shape[1], dtype=torch.float64)
        rho[: form.inputs] = found.value**2
        rho[form.inputs :] = t
        matrix = torch.diag(rho) - H.T @ (t[:, None] * H) - C.T @ C
        assert torch.linalg.eigvalsh(matrix)[0] >= -1e-3 * found.value**2
        out, _, _ = Propagation(system).run([d.log() for d in found.d], None)
        assert torch.linalg.eigvalsh(out)[-1].sqrt() <= found.value * (1 + 1e-3)


def test_eclipse_fast_is_the_closed_form_of_its_paper():
    system = system_of(ACTIVATIONS[0], False, 0)
    start = even(system, ECLIPSE_FAST)
    out, _, _ = Propagation(system).run(start.logs, start.ratios)
    C = dense(system)
    n = C.inputs
    first = C.H[: system.stages[0].last, :n] * 2
    second = C.H[system.stages[0].last :, n : n + system.stages[0].last] * 2
    weights = [first, second]
    # X_1 = I; lambda = 1 / |W X^-1 W'|, X = 2 lambda - lambda^2 W X^-1 W', all in the paper's scaling.
    x = torch.eye(n, dtype=torch.float64)
    for w in weights:
        moved = w @ torch.linalg.solve(x, w.T)
        scale = 1 / torch.linalg.eigvalsh(moved)[-1]
        x = 2 * scale * torch.eye(len(w), dtype=torch.float64) - scale**2 * moved
    last = C.C[:, n + system.stages[0].last :]
    assert torch.linalg.eigvalsh(out)[-1].item() == pytest.approx(
        torch.linalg.eigvalsh(last @ torch.linalg.solve(x, last.T))[-1].item(), rel=1e-6
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_better_start_is_taken_and_can_be_continued(seed):
    system = system_of(ACTIVATIONS[0], seed % 2 == 1, seed)
    propagation = Propagation(system)
    seen: list[float] = []
    minimise(propagation, Deadline(), seen.append, steps=1)
    # Each run improves the eigenvector that scales D, so values differ a little.
    worth = []
    for start in (even(system), closed_form(propagation, Deadline())):
        out, _, _ = propagation.run(start.logs, start.ratios)
        worth.append(torch.linalg.eigvalsh(out)[-1].item())
    assert seen[0] == pytest.approx(worth[0], rel=1e-4)
    assert worth[1] <= worth[0] * (1 + 1e-4)
    again: list[float] = []
    minimise(propagation, Deadline(), again.append, steps=5, start=closed_form(propagation, Deadline()))
    assert math.isfinite(again[-1])
    assert again[0] == pytest.approx(worth[1], rel=1e-4)
