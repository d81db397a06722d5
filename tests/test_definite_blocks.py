"""Both proofs of definiteness by blocks agree with eigenvalues, and say yes only where there is room for rounding."""

import itertools

import numpy as np
import pytest
import torch

from steepest.numerics.definite import proves_semidefinite_blocks
from steepest.proofs.checker.blocks import BlockMatrix

SIZES = (5, 70, 3, 40, 130)


def sparse(rng):
    """A random matrix with unit diagonal, some blocks absent, some diagonal blocks diagonal."""
    ends = np.cumsum((0, *SIZES))
    place = [slice(a, b) for a, b in itertools.pairwise(ends)]
    full = rng.normal(size=(ends[-1], 2 * ends[-1]))
    full = full @ full.T
    thin = {i for i in range(len(SIZES)) if rng.random() < 0.3}
    for i, a in enumerate(place):
        for b in place[:i]:
            if rng.random() < 0.5:
                full[a, b], full[b, a] = 0.0, 0.0
        if i in thin:
            full[a, a] = np.diag(np.diagonal(full[a, a]))
    root = 1 / np.sqrt(np.diagonal(full))
    full = full * root[:, None] * root
    least = np.linalg.eigvalsh(full)[0]
    return full, least, place, thin


def blocks(full, place, thin):
    out = {}
    for i, a in enumerate(place):
        for j, b in enumerate(place[: i + 1]):
            if i == j and i in thin:
                out[i, j] = np.diagonal(full[a, a]).copy()
            elif i == j or full[a, b].any():
                out[i, j] = full[a, b].copy()
    return out


@pytest.mark.parametrize("seed", range(40))
def test_blocks_are_definite_exactly_when_the_least_eigenvalue_says_so(seed):
    rng = np.random.default_rng(seed)
    full, least, place, thin = sparse(rng)
    for target in (-1e-3, -1e-12, 1e-15, 1e-3):
        moved = full - (least - target) * np.eye(len(full))
        parts = blocks(moved, place, thin)
        expected = target == 1e-3
        matrix = BlockMatrix()
        matrix.blocks = dict(parts)
        assert matrix.semidefinite(1e-10) is expected
        assert matrix.semidefinite(2e-3) is False
        torch_blocks = {k: torch.from_numpy(b) for k, b in parts.items()}
        assert proves_semidefinite_blocks(torch_blocks, 1e-10) is expected
        assert proves_semidefinite_blocks(torch_blocks, 2e-3) is False


def test_no_error_that_is_not_a_number_is_accepted():
    matrix = BlockMatrix()
    matrix.add(0, 0, np.ones(3))
    assert matrix.semidefinite(0.0)
    assert not matrix.semidefinite(float("nan"))
    matrix.add(1, 1, np.full((2, 2), np.nan))
    assert not matrix.semidefinite(0.0)
