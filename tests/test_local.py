"""Constants around many inputs, in every norm: above the Jacobians met, the same one at a time and by an executor."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import steepest
from steepest.bounds import LinearJacobian, LipSDP
from steepest.capture.torch_export import from_module
from steepest.errors import UsageError
from steepest.numerics.deadline import Deadline
from steepest.results import Domain


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3)).double()


@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_above_every_jacobian(model, norm):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    p = math.inf if norm == "inf" else float(norm)
    radius = np.array([0.0, 0.01, 0.1, 0.5])
    done = []
    found = steepest.local_constants(model, x, radius, norm=norm, progress=done.append)
    assert found.shape == (4,) and found.dtype == np.float64 and done == [4]
    noise = torch.randn(4, 800, 6, generator=generator, dtype=torch.float64)
    noise *= torch.from_numpy(radius)[:, None, None] * (1 - 1e-12) / torch.linalg.vector_norm(noise, p, dim=2, keepdim=True)
    jacobians = torch.func.vmap(torch.func.vmap(torch.func.jacrev(model)))(x[:, None] + noise)
    seen = torch.linalg.matrix_norm(jacobians, p).amax(1).detach().numpy()
    assert (found >= seen * (1 - 1e-9)).all() and found[0] <= seen[0] * (1 + 1e-5)
    one = np.concatenate([steepest.local_constants(model, x[i : i + 1], radius[i], norm=norm) for i in range(4)])
    np.testing.assert_allclose(one, found, rtol=3e-3)
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_allclose(steepest.local_constants(model, x, radius, norm=norm, executor=pool), found, rtol=3e-3)
    margin = steepest.local_constants(model, x, radius, norm=norm, output=(0, 2))
    row = (jacobians[:, :, 0] - jacobians[:, :, 2])[:, :, None]
    assert (margin >= torch.linalg.matrix_norm(row, p).amax(1).detach().numpy() * (1 - 1e-9)).all()


def test_l2_is_the_better_of_both(model):
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    graph = from_module(model, x[:1])
    for radius in (0.01, 1.0):
        for i, value in enumerate(steepest.local_constants(model, x, radius)):
            assert value >= steepest.bound(model, at=x[i], radius=radius, effort="fast", sample=x[:1]).lower
            domain = Domain("ball", centre=x[i].numpy(), radius=radius, norm=2.0)
            multipliers = LipSDP(deadline=Deadline()).bound(graph, domain, 2.0).value
            least = min(multipliers, LinearJacobian().bound(graph, domain, 2.0).value)
            assert least * (1 - 3e-3) <= value <= least * (1 + 3e-3)


def test_bad_input_is_refused(model):
    x = torch.rand(2, 6)
    for radius in (-1.0, math.nan, [0.1, 0.1, 0.1]):
        with pytest.raises(UsageError, match="radius"):
            steepest.local_constants(model, x, radius)
    with pytest.raises(UsageError):
        steepest.local_constants(model, x * math.inf, 0.1)
    with pytest.raises(UsageError):
        steepest.local_constants(model, x, 0.1, output=7)
    with pytest.raises(UsageError):
        steepest.local_constants(model, torch.rand(2, 5), 0.1, input_shape=(6,))
