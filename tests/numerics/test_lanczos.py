"""Lanczos against dense eigenvalues."""

import pytest
import torch

from steepest.numerics.lanczos import extreme_eigenvalues


def symmetric(n, seed, dtype=torch.float64):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (matrix + matrix.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("largest", "smallest"), [(1, 0), (0, 1), (2, 2), (3, 0)])
def test_extremes_are_the_dense_ones(dtype, largest, smallest):
    for seed in range(4):
        matrix = symmetric(60, seed, dtype)
        true = torch.linalg.eigvalsh(matrix.double())
        found = extreme_eigenvalues(matrix.mv, torch.ones(60, dtype=dtype), largest, smallest, tolerance=1e-5)
        expected = torch.cat([true.flip(0)[:largest], true[:smallest]])
        assert found.converged
        torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_eigenvalue_lies_within_each_residual_at_any_time(dtype):
    noise = 60 * torch.finfo(dtype).eps * 20
    for seed in range(4):
        matrix = symmetric(50, seed, dtype)
        true = torch.linalg.eigvalsh(matrix.double())
        for steps in (3, 6, 12, 25):
            found = extreme_eigenvalues(matrix.mv, torch.ones(50, dtype=dtype), 2, 1, tolerance=0.0, steps=steps)
            for value, residual, vector in zip(found.values, found.residuals, found.vectors, strict=True):
                assert (true - value).abs().min() <= residual + noise
                actual = torch.linalg.vector_norm(matrix @ vector - value.to(dtype) * vector)
                assert abs(float(actual - residual)) <= noise


def test_no_copies_in_float32_over_many_steps():
    # A dominant eigenvalue converges at once and comes back without reorthogonalisation.
    values = torch.cat([torch.tensor([1000.0, 10.0]), torch.linspace(0.0, 9.0, 398)])
    found = extreme_eigenvalues(lambda v: values * v, torch.ones(400), 2, 0, tolerance=1e-9, steps=120)
    torch.testing.assert_close(found.values, torch.tensor([1000.0, 10.0], dtype=torch.float64), rtol=1e-5, atol=1e-3)


def test_spaces_that_end_early():
    eye = extreme_eigenvalues(lambda v: v, torch.ones(5), 3, 1)
    torch.testing.assert_close(eye.values, torch.ones(4, dtype=torch.float64))
    zero = extreme_eigenvalues(torch.zeros_like, torch.ones(3, dtype=torch.float64))
    assert zero.values.item() == 0.0 and zero.converged
    twice = torch.tensor([5.0, 5.0, 1.0, 0.0], dtype=torch.float64)
    found = extreme_eigenvalues(lambda v: twice * v, torch.ones(4, dtype=torch.float64), 4, 0)
    torch.testing.assert_close(found.values, twice)
    one = extreme_eigenvalues(lambda v: 3.0 * v, torch.ones(1), 1, 1)
    assert one.values.tolist() == [3.0]


def test_products_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        extreme_eigenvalues(lambda v: v * float("nan"), torch.ones(3))
