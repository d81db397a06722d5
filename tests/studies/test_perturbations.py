"""The attack against half-spaces, where the nearest boundary is known, and the Jacobian against differences."""

import torch

from steepest.studies.perturbations import jacobian, nearest_boundary


def test_distance_to_the_nearest_half_space():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 6, generator=generator, dtype=torch.float64), torch.randn(4, generator=generator, dtype=torch.float64)
    x = torch.randn(20, 6, generator=generator, dtype=torch.float64)

    def linear(z):
        return z @ weight.T + bias

    move, y = nearest_boundary(linear, x), linear(x)
    assert (linear(x + move).argmax(1) != y.argmax(1)).all()
    for k in range(20):
        c = int(y[k].argmax())
        exact = min(float((y[k, c] - y[k, j]) / (weight[c] - weight[j]).norm()) for j in range(4) if j != c)
        assert exact <= float(move[k].norm()) <= exact * 1.001 + 1e-5


def test_nothing_is_found_where_there_is_one_answer():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert not nearest_boundary(lambda z: z[:, :2] * 0.0 + torch.tensor([1.0, 0.0]), x).any()


def test_jacobian():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, rows = jacobian(lambda z: torch.tanh(z[:, :3] * z[:, 2:]), x)
    step = 1e-6 * torch.eye(5, dtype=torch.float64)
    for k in range(5):
        difference = (torch.tanh((x + step[k])[:, :3] * (x + step[k])[:, 2:]) - y) / 1e-6
        torch.testing.assert_close(rows[:, :, k], difference, atol=1e-5, rtol=0)
