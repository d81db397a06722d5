"""The tangent kernel against Jacobians, sampling at large width, and descent step by step."""

import pytest
import torch
from torch import func, nn

from steepest.studies.tangent_kernel import descent_of_kernel, kernel, limit_kernel, ntk_network


def _jacobian_kernel(model, x, other, output):
    parameters = dict(model.named_parameters())

    def rows(points):
        jacobian = func.jacrev(lambda p: func.functional_call(model, p, (points,))[:, output])(parameters)
        return torch.cat([j.flatten(1) for j in jacobian.values()], 1)

    return rows(x) @ rows(other).T


@pytest.mark.parametrize("make", [lambda: ntk_network(3, 7, 2), lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))])
def test_kernel_is_that_of_the_jacobians(make):
    torch.manual_seed(0)
    model, x, other = make().double(), torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    for output in (0, 1):
        torch.testing.assert_close(kernel(model, x, output=output), _jacobian_kernel(model, x, x, output))
        torch.testing.assert_close(kernel(model, x, other, output), _jacobian_kernel(model, x, other, output))


@pytest.mark.parametrize("hidden", [1, 2])
def test_wide_networks_approach_the_limit(hidden):
    torch.manual_seed(0)
    x = torch.randn(5, 6, dtype=torch.float64)
    found = sum(kernel(ntk_network(6, 1024, 1, hidden).double(), x) for _ in range(20)) / 20
    limit = limit_kernel(x, hidden=hidden)
    # Twenty networks of this width leave deviations of about 1 % of the diagonal.
    assert float((found - limit).abs().max()) < 0.05 * float(limit.diagonal().max())
    torch.testing.assert_close(limit_kernel(x, x[:2], hidden), limit[:, :2])


def test_descent_of_the_kernel_is_that_of_a_linear_model():
    torch.manual_seed(0)
    a, b = torch.randn(5, 9, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    w, y = torch.randn(9, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    start, elsewhere = a @ w, b @ w
    for _ in range(30):
        w = w - 0.1 * a.T @ (a @ w - y) / 5
    torch.testing.assert_close(descent_of_kernel(a @ a.T, b @ a.T, start, elsewhere, y, 0.1, 30), b @ w)
