"""The interior point for chains: its pieces against dense matrices, its optimum against the dense interior point."""

import pytest
import torch

from quadratic_programs import dense, feasible, program
from steepest.numerics.chain_interior_point import chain_interior_point, conjugate_gradients
from steepest.numerics.chain_program import ChainProgram
from steepest.numerics.interior_point import interior_point
from steepest.numerics.reduced_cholesky import ReducedCholesky
from steepest.numerics.semiseparable import Product, Tridiagonal, completion, inverse

SIZES = ([4, 5, 3, 6, 4], [6, 6, 6, 6, 6, 6])
LAYERS, WIDTH = 5, 4


def blocks(matrix, layers=LAYERS):
    """The blocks on and beside the diagonal."""
    width = len(matrix) // layers
    parts, k = matrix.reshape(layers, width, layers, width), torch.arange(layers)
    return Tridiagonal(parts[k, :, k], parts[k[1:], :, k[:-1]], parts[k[:-1], :, k[1:]])


def whole(m):
    """A semiseparable matrix written out."""
    n, a, b = m.diagonal.shape
    out = torch.zeros(n, a, n, b, dtype=torch.float64)
    for k in range(n):
        below = beside = m.diagonal[k]
        out[k, :, k] = below
        for i in range(k + 1, n):
            below, beside = m.left[i - 1] @ below, beside @ m.right[i - 1]
            out[i, :, k], out[k, :, i] = below, beside
    return out.reshape(n * a, n * b)


def definite(seed):
    """A positive definite block-tridiagonal matrix, and an indefinite symmetric one."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.arange(LAYERS * WIDTH) // WIDTH
    near = (layer[:, None] - layer).abs() <= 1
    a, b = torch.randn(2, len(layer), len(layer), generator=generator, dtype=torch.float64)
    root = torch.where((layer[:, None] - layer == 0) | (layer[:, None] - layer == 1), a, 0.0)
    return root @ root.T + 0.1 * torch.eye(len(layer), dtype=torch.float64), torch.where(near, b + b.T, 0.0)


def close(found, expected, scale=1.0):
    for part in ("diagonal", "lower", "upper"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("seed", range(3))
def test_inverse_and_completion_agree_with_dense_matrices(seed):
    s, _ = definite(seed)
    z = inverse(blocks(s))
    assert z is not None
    exact = torch.linalg.inv(s)
    torch.testing.assert_close(whole(z), exact, rtol=1e-8, atol=1e-9)
    close(z.tridiagonal, blocks(exact))
    # Of all matrices with these blocks the one with a block-tridiagonal inverse has the largest determinant.
    x = completion(blocks(exact))
    assert x is not None
    torch.testing.assert_close(whole(x), exact, rtol=1e-7, atol=1e-8)
    assert inverse(blocks(s - 1.01 * torch.linalg.eigvalsh(s)[0] * torch.eye(len(s)))) is None
    broken = blocks(exact)
    broken.lower[2] *= 30.0
    assert completion(Tridiagonal(broken.diagonal, broken.lower, broken.lower.mT)) is None


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_products_agree_with_dense_matrices(seed):
    (s, d), (y, e) = definite(seed), definite(seed + 10)
    z, x = inverse(blocks(s)), inverse(blocks(y))
    assert z is not None
    assert x is not None
    dense_z, dense_x = whole(z), whole(x)
    product = Product.of(x, blocks(d), z)
    scale = (dense_x @ d @ dense_z @ e @ dense_z).abs().max().item()
    close(product.tridiagonal, blocks(dense_x @ d @ dense_z), scale)
    close(product.transposed.tridiagonal, blocks(dense_z @ d @ dense_x), scale)
    close(product.then(blocks(e), z), blocks(dense_x @ d @ dense_z @ e @ dense_z), scale)
    close(product.transposed.then(blocks(e), z), blocks(dense_z @ d @ dense_x @ e @ dense_z), scale)


def spread(chain, matrix):
    """A matrix of the program's size with its layers filled up by the identity."""
    at = chain.real.flatten().bool()
    out = torch.eye(len(at), dtype=torch.float64)
    out[torch.where(at)[0][:, None], torch.where(at)[0]] = matrix
    return out


def pair(p, chain, seed):
    """Two inverses of feasible S, and E and all P_j, written out with layers filled up."""
    E, P, constant = dense(p)
    A = torch.cat([E[None], P])
    rho, t = feasible(p)[1], feasible(p)[0]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for factor in (1.0, 1.0 + torch.rand(p.multipliers, generator=generator, dtype=torch.float64)):
        v = chain.packed(1e3 * rho, factor * t)
        z = inverse(chain.slack(v))
        assert z is not None
        found.append(z)
    return found, A, constant


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["relu", "slopes"])
def test_products_agree_with_the_program_written_out(kind, sizes):
    p = program(kind, sizes, 0)
    chain = ChainProgram.of(p)
    assert chain is not None
    (x, y), A, constant = pair(p, chain, 1)
    at = chain.real.flatten().bool()
    generator = torch.Generator().manual_seed(2)
    t = torch.randn(p.multipliers, generator=generator, dtype=torch.float64)
    change = 0.3 * A[0] + (t[:, None, None] * A[1:]).sum(0)
    v = chain.packed(0.3, t) * chain.on
    rho, back = chain.unpacked(v)
    assert rho == pytest.approx(0.3)
    assert torch.equal(back, t)
    close(chain.direction(v), blocks(spread(chain, change) - torch.diag((~at).double()), len(sizes)))
    close(chain.slack(chain.packed(0.3, t)), blocks(spread(chain, change - constant), len(sizes)))
    dense_x, dense_y = (whole(m)[at][:, at] for m in (x, y))
    inner = chain.inner(x.tridiagonal)
    torch.testing.assert_close(inner[chain.on.bool()], (A * dense_x).sum((1, 2)), rtol=1e-9, atol=1e-12)
    assert chain.constant(x.tridiagonal) == pytest.approx((constant * dense_x).sum().item())
    # The Schur complement times a vector, and its blocks on the diagonal.
    schur = torch.einsum("aij,jk,bkl,li->ab", A, dense_x, A, dense_y)
    applied = chain.inner(Product.of(x, chain.direction(v), y).tridiagonal.symmetric())
    expected = schur @ torch.cat([torch.tensor([0.3], dtype=torch.float64), t])
    torch.testing.assert_close(applied[chain.on.bool()], expected, rtol=1e-8, atol=1e-9 * expected.abs().max().item())
    places = torch.where(chain.on.flatten() > 0)[0]
    full = torch.zeros(chain.on.numel(), chain.on.numel(), dtype=torch.float64)
    full[places[:, None], places] = 0.5 * (schur + schur.T)
    torch.testing.assert_close(chain.schur(x, y), blocks(full, len(sizes)).diagonal, rtol=1e-8, atol=1e-9 * schur.abs().max().item())


@pytest.mark.parametrize("kind", ["relu", "slopes"])
def test_enough_states_make_the_factor_exact_and_few_leave_it_definite(kind, monkeypatch):
    p = program(kind, [4, 5, 3, 6, 4], 3)
    chain = ChainProgram.of(p)
    assert chain is not None
    (x, y), A, _ = pair(p, chain, 4)
    dense_x, dense_y = (whole(m)[chain.real.flatten().bool()][:, chain.real.flatten().bool()] for m in (x, y))
    schur = torch.einsum("aij,jk,bkl,li->ab", A, dense_x, A, dense_y)
    added = chain.on * 1e-2 * schur.diagonal().max()
    exact = 0.5 * (schur + schur.T) + torch.diag(added[chain.on.bool()])
    right = torch.randn(chain.on.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * chain.on
    wanted = torch.linalg.solve(exact, right[chain.on.bool()])
    for states, near in ((20.0, True), (0.2, False)):
        monkeypatch.setattr("steepest.numerics.reduced_cholesky.STATES", states)
        factor = ReducedCholesky(chain, x, y, added, None)
        for _ in range(2):
            found = factor.solve(right)[chain.on.bool()]
            assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-9 * wanted.abs().max().item()) == near
            unit = torch.eye(int(chain.on.sum()), dtype=torch.float64)
            columns = [factor.solve(torch.zeros_like(right).masked_scatter(chain.on.bool(), e))[chain.on.bool()] for e in unit]
            assert torch.linalg.eigvalsh(torch.stack(columns)).min() > 0
            factor = ReducedCholesky(chain, x, y, added, factor)

        def times(d):
            return chain.inner(Product.of(x, chain.direction(d), y).tridiagonal.symmetric()) + added * d

        solved = conjugate_gradients(times, factor.solve, right)[chain.on.bool()]
        torch.testing.assert_close(solved, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["relu", "slopes"])
def test_optimum_agrees_with_the_dense_interior_point_and_every_iterate_is_feasible(kind, seed, sizes):
    p = program(kind, sizes, seed)
    chain = ChainProgram.of(p)
    assert chain is not None
    t, rho = feasible(p)
    expected = list(interior_point(p, t, rho, tolerance=1e-8))[-1]
    best = expected.rho * (1.0 - expected.gap)
    E, P, constant = dense(p)
    iterates = list(chain_interior_point(chain, t, rho))
    for last in iterates:
        slack = last.rho * E + (last.t[:, None, None] * P).sum(0) - constant
        assert torch.linalg.eigvalsh(slack)[0] > 0
        assert (last.t > 0).all()
        assert last.rho >= best
        if last.residual < 1e-4:
            assert last.rho * (1.0 - last.gap - last.residual) <= expected.rho
    last = iterates[-1]
    assert last.gap < 1e-5
    assert last.residual < 1e-5
    assert last.rho == pytest.approx(expected.rho, rel=1.1e-5)
    assert len(iterates) < 25


def test_what_is_no_chain_is_left_to_the_dense_interior_point():
    assert ChainProgram.of(program("skips", [4, 5, 3, 6], 0)) is None
    assert ChainProgram.of(program("tied", [4, 5, 3, 6], 0)) is None


def test_starts_outside_give_no_iterates():
    p = program("relu", [4, 5, 3, 6], 0)
    t, rho = feasible(p)
    chain = ChainProgram.of(p)
    assert chain is not None
    assert list(chain_interior_point(chain, t, -rho)) == []
