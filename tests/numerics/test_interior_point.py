"""The interior point on random programs: its products against dense matrices, its optimum against a plain barrier method."""

import math

import pytest
import torch

from quadratic_programs import dense, factored, feasible, program, whole
from steepest.numerics import quadratic_program
from steepest.numerics.block_cholesky import BlockCholesky
from steepest.numerics.interior_point import interior_point
from steepest.numerics.lanczos import least_eigenvalue

KINDS = ("relu", "slopes", "skips", "tied")


def barrier(p, t, rho, target=1e-7):
    """Newton's method on ``rho / mu - log det S - sum log t`` with mu falling, everything dense."""
    E, P, constant = dense(p)
    A = torch.cat([E[None], P])
    y, mu = torch.cat([torch.tensor([rho], dtype=torch.float64), t]), rho
    unit = torch.zeros_like(y)
    unit[0] = 1.0

    def value(y):
        factor, info = torch.linalg.cholesky_ex((y[:, None, None] * A).sum(0) - constant)
        if info.item() or (y[1:] <= 0).any():
            return math.inf
        return (y[0] / mu - 2.0 * factor.diagonal().log().sum() - y[1:].log().sum()).item()

    while mu * (p.size + len(y)) > target * y[0].item():
        mu *= 0.4
        for _ in range(50):
            inverse = torch.linalg.inv((y[:, None, None] * A).sum(0) - constant)
            scaled = A @ inverse
            gradient = unit / mu - scaled.diagonal(dim1=1, dim2=2).sum(1)
            gradient[1:] -= 1.0 / y[1:]
            hessian = torch.einsum("aij,bji->ab", scaled, scaled)
            hessian.diagonal()[1:] += y[1:] ** -2
            move = -torch.linalg.solve(hessian, gradient)
            step, here = 1.0, value(y)
            while not value(y + step * move) <= here + 0.2 * step * (gradient @ move).item() and step > 1e-9:
                step *= 0.5
            y = y + step * move
            if -(gradient @ move).item() < 1e-4:
                break
    return y[0].item()


@pytest.mark.parametrize("blocks", ["one", "several"])
@pytest.mark.parametrize("kind", KINDS)
def test_products_agree_with_dense_matrices(kind, blocks, monkeypatch):
    monkeypatch.setattr(quadratic_program, "GROUP", 4 if blocks == "several" else 1000)
    p = program(kind, [4, 5, 3, 6, 4, 5, 4, 6, 5], 0)
    assert (len(p.starts) > 2) == (blocks == "several" and kind != "skips")
    E, P, constant = dense(p)
    generator = torch.Generator().manual_seed(1)
    x, y = (m @ m.mT for m in torch.randn(2, p.size, p.size, generator=generator, dtype=torch.float64))
    hx, hy = p.times(x), p.times(y)
    A = torch.cat([E[None], P])
    schur = torch.einsum("aij,jk,bkl,li->ab", A, x, A, y)
    torch.testing.assert_close(p.schur(x, y, hx, hy), 0.5 * (schur + schur.T), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(p.inner(x, hx), (A * x).sum((1, 2)), rtol=1e-10, atol=1e-10)
    assert p.constant(x) == pytest.approx((constant * x).sum().item())
    t = torch.randn(p.multipliers, generator=generator, dtype=torch.float64)
    change = 0.3 * E + (t[:, None, None] * P).sum(0)
    torch.testing.assert_close(p.direction(0.3, t, x, hx), change @ x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole(p, p.slack(0.3, t, constant=False)), change, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole(p, p.slack(0.3, t)), change - constant, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", ["one", "several"])
@pytest.mark.parametrize("kind", KINDS)
def test_factor_solves_inverts_and_scales(kind, blocks, monkeypatch):
    monkeypatch.setattr(quadratic_program, "GROUP", 4 if blocks == "several" else 1000)
    p = program(kind, [4, 5, 3, 6, 4, 5, 4, 6, 5], 2)
    t, rho = feasible(p)
    factor, matrix = factored(p, rho, t), whole(p, p.slack(rho, t))
    assert factor is not None
    inverse = torch.linalg.inv(matrix)
    torch.testing.assert_close(factor.inverse(), inverse, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(factor.solve(matrix), torch.eye(p.size, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    lower = torch.linalg.cholesky(matrix)
    change = p.slack(0.1, -t, constant=False)
    scaled = torch.linalg.solve(lower, torch.linalg.solve(lower, whole(p, change)).T)
    v = torch.randn(p.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(factor.pencil(change)(v), scaled @ v, rtol=1e-8, atol=1e-9)
    assert factored(p, -rho, t) is None


def test_pencil_of_a_large_block_agrees_with_a_small_one():
    generator = torch.Generator().manual_seed(0)
    root, d, v = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((300, 300), (300, 300), (300,)))
    matrix, d = root @ root.T + torch.eye(300, dtype=torch.float64), d + d.T
    factor = BlockCholesky.factor((0, 300), {(0, 0): matrix})
    assert factor is not None
    lower = torch.linalg.cholesky(matrix)
    expected = torch.linalg.solve(lower, d @ torch.linalg.solve(lower.T, v))
    torch.testing.assert_close(factor.pencil({(0, 0): d})(v), expected, rtol=1e-7, atol=1e-7)


def test_least_eigenvalue_is_close():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        m = torch.randn(40, 40, generator=generator, dtype=torch.float64)
        m, start = m + m.T, torch.randn(40, generator=generator, dtype=torch.float64)
        exact = torch.linalg.eigvalsh(m)[0].item()
        assert exact * (1 + 1e-2) <= least_eigenvalue(lambda v, m=m: m @ v, start, 30) <= exact * (1 - 1e-9)
        assert exact * 1.2 <= least_eigenvalue(lambda v, m=m: m @ v, start, 10) <= exact * 0.8
    # Fewer dimensions than steps, and an operator that vanishes.
    assert least_eigenvalue(lambda v: -2.0 * v, torch.ones(3, dtype=torch.float64), 10) == pytest.approx(-2.0)
    assert least_eigenvalue(lambda v: 0.0 * v, torch.ones(3, dtype=torch.float64), 10) == 0.0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_optimum_agrees_with_a_barrier_method_and_every_iterate_is_feasible(kind, seed, monkeypatch):
    monkeypatch.setattr(quadratic_program, "GROUP", 4 if seed else 1000)
    p = program(kind, [3, 5, 4, 6, 4, 5], seed)
    t, rho = feasible(p)
    best = barrier(p, t, rho)
    E, P, constant = dense(p)
    last = None
    for last in interior_point(p, t, rho):
        slack = last.rho * E + (last.t[:, None, None] * P).sum(0) - constant
        assert torch.linalg.eigvalsh(slack)[0] > 0
        assert (last.t > 0).all()
        assert last.rho >= best * (1 - 1e-6)
        if last.residual < 1e-6:
            assert last.rho * (1 - last.gap - 2 * last.residual) <= best * (1 + 1e-6)
    assert last is not None
    assert last.gap < 1e-5
    assert last.rho == pytest.approx(best, rel=2e-5)


def test_a_start_near_the_optimum_takes_fewer_iterations():
    p = program("relu", [4, 8, 8, 8, 8], 5)
    cold = list(interior_point(p, *feasible(p)))
    # Between the optimum and a point well inside, so that there is room on all sides.
    near = cold[-4]
    warm = list(interior_point(p, 1.01 * near.t, 1.02 * near.rho))
    assert len(warm) < len(cold)
    assert warm[-1].rho == pytest.approx(cold[-1].rho, rel=2e-5)


def test_an_infeasible_start_gives_nothing():
    p = program("relu", [3, 4, 4], 0)
    t, rho = feasible(p)
    assert list(interior_point(p, t, -rho)) == []
