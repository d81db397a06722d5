import math

import pytest
import torch
from nets import affine, mixed, mlp, rand

from steepest.witnesses.landscape import Landscape, cast, conjugate, dual, norms

NORMS = [1.0, 2.0, math.inf]


def free(graph):
    return torch.ones(math.prod(graph.input_shape), dtype=torch.bool)


def jacobians(graph, x):
    def flat(z):
        return graph.evaluate(z.reshape(graph.input_shape)).flatten()

    return torch.stack([torch.autograd.functional.jacobian(flat, z) for z in x])


@pytest.mark.parametrize("p", NORMS)
def test_dual_attains_the_norm(p):
    y = rand(20, 7)
    u = dual(y, p)
    assert torch.allclose((u * y).sum(-1), norms(y, p))
    assert torch.allclose(norms(u, conjugate(p)), torch.ones(20, dtype=torch.float64))
    assert (dual(torch.zeros(1, 3), p) == 0).all()


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("graph", [mixed(), mlp(3, 8, 40), mlp(6, 8, 4, slope=-1.0)], ids=["mixed", "tall", "wide"])
def test_exact_norms_are_those_of_autograd(graph, p):
    x = rand(6, math.prod(graph.input_shape), seed=1)
    value, v = Landscape(graph, p, free(graph)).exact(x)
    reference = jacobians(graph, x)
    assert torch.allclose(value, torch.linalg.matrix_norm(reference, p), rtol=1e-10)
    assert torch.allclose(norms((reference @ v[..., None]).squeeze(-1), p), value, rtol=1e-10)
    assert torch.allclose(norms(v, p), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("p", NORMS)
def test_power_method_stays_below_and_comes_close(p):
    graph = mixed()
    x = rand(8, 32, seed=2)
    landscape = Landscape(graph, p, free(graph))
    exact, _ = landscape.exact(x)
    linear = landscape.at(x)
    v, value = landscape.power(linear, dual(rand(8, 32, seed=3), conjugate(p)), 40)
    assert (value <= exact * (1 + 1e-9)).all()
    assert (norms(landscape.push(linear, v), p) <= exact * (1 + 1e-9)).all()
    # Hager's method may stop at a local maximum; other starts are there for that.
    assert (value >= (0.999 if p == 2 else 0.5) * exact).all()


def test_batch_does_not_matter():
    graph = mixed()
    landscape = Landscape(graph, 2.0, free(graph))
    x = rand(7, 32, seed=4)
    together, _ = landscape.exact(x)
    alone = torch.cat([landscape.exact(x[i : i + 1])[0] for i in range(7)])
    assert torch.allclose(together, alone, rtol=1e-12)


def test_fixed_coordinates_are_left_out():
    weight = torch.tensor([[1.0, 100.0], [2.0, 100.0]], dtype=torch.float64)
    landscape = Landscape(affine(weight), 2.0, torch.tensor([True, False]))
    value, v = landscape.exact(torch.zeros(1, 2, dtype=torch.float64))
    assert value.item() == pytest.approx(5**0.5)
    assert v[0, 1] == 0
    v, value = landscape.power(landscape.at(torch.zeros(1, 2, dtype=torch.float64)), rand(1, 2), 4)
    assert value.item() == pytest.approx(5**0.5)


def test_soft_gates_can_be_climbed():
    graph = mixed()
    landscape = Landscape(graph, 2.0, free(graph))
    x = rand(3, 32, seed=5).requires_grad_(True)
    v = dual(rand(3, 32, seed=6), 2.0)
    norms(landscape.push(landscape.at(x, 2.0), v), 2.0).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and (x.grad != 0).any(-1).all()


def test_soft_gates_become_hard():
    graph = mixed()
    landscape = Landscape(graph, 2.0, free(graph))
    x, v = rand(3, 32, seed=5), rand(3, 32, seed=6)
    assert torch.allclose(landscape.push(landscape.at(x, 1e9), v), landscape.push(landscape.at(x), v), rtol=1e-6)


def test_cast_changes_real_parameters_only():
    graph = mixed()
    single = cast(graph, torch.float32)
    x = rand(2, *graph.input_shape)
    y = single.evaluate(x.float())
    assert y.dtype == torch.float32
    assert torch.allclose(y.double(), graph.evaluate(x), atol=1e-4)


def test_larger_networks_take_smaller_chunks():
    small, large = mlp(4, 8, 2), mlp(4, 800, 2)
    assert Landscape(small, 2.0, free(small)).chunk() > 20 * Landscape(large, 2.0, free(large)).chunk()
