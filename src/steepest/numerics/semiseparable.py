"""Matrices that pass from layer to layer: inverses of block-tridiagonal matrices, and blocks of their products, in linear time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A block-tridiagonal matrix, or what another matrix has there.

    Args:
        diagonal: ``[n, a, b]``.
        lower: ``[n - 1, a, b]``, the blocks ``(k + 1, k)``.
        upper: ``[n - 1, a, b]``, the blocks ``(k, k + 1)``.
    """

    diagonal: Tensor
    lower: Tensor
    upper: Tensor

    def plus(self, other: Tridiagonal, factor: float = 1.0) -> Tridiagonal:
        """``A + factor B``."""
        return Tridiagonal(self.diagonal + factor * other.diagonal, self.lower + factor * other.lower, self.upper + factor * other.upper)

    def times(self, factor: float) -> Tridiagonal:
        """``factor A``."""
        return Tridiagonal(factor * self.diagonal, factor * self.lower, factor * self.upper)

    def symmetric(self) -> Tridiagonal:
        """``(A + A') / 2``."""
        lower = 0.5 * (self.lower + self.upper.mT)
        return Tridiagonal(0.5 * (self.diagonal + self.diagonal.mT), lower, lower.mT)


@dataclass(frozen=True, eq=False)
class Semiseparable:
    """A matrix with ``M_kl = left_k M_(k-1)l`` and ``M_lk = M_l(k-1) right_k`` for all ``l < k``.

    The covariance of a Gauss-Markov chain has this form, and so has the inverse of every block-tridiagonal matrix.

    Args:
        diagonal: ``[n, a, b]``, the blocks ``M_kk``.
        innovation: ``[n, a, b]``, ``M_kk - left_k M_(k-1)(k-1) right_k``.
        left: ``[n - 1, a, a]``, for ``k = 1, ..., n - 1``.
        right: ``[n - 1, b, b]``.
    """

    diagonal: Tensor
    innovation: Tensor
    left: Tensor
    right: Tensor

    @property
    def tridiagonal(self) -> Tridiagonal:
        """Its blocks on and beside the diagonal."""
        return Tridiagonal(self.diagonal, self.left @ self.diagonal[:-1], self.diagonal[:-1] @ self.right)


def inverse(matrix: Tridiagonal) -> Semiseparable | None:
    """The inverse of a symmetric matrix, or None where it is not positive definite."""
    innovation, left = torch.empty_like(matrix.diagonal), torch.empty_like(matrix.lower)
    pivot = matrix.diagonal[-1]
    for k in reversed(range(len(innovation))):
        factor, info = torch.linalg.cholesky_ex(pivot)
        if info.item() != 0:
            return None
        innovation[k] = torch.cholesky_inverse(factor)
        if k:
            left[k - 1] = -(innovation[k] @ matrix.lower[k - 1])
            pivot = torch.addmm(matrix.diagonal[k - 1], matrix.lower[k - 1].mT, left[k - 1])
    diagonal = innovation.clone()
    for k in range(1, len(diagonal)):
        diagonal[k].addmm_(left[k - 1] @ diagonal[k - 1], left[k - 1].mT)
    return Semiseparable(diagonal, innovation, left, left.mT)


def completion(blocks: Tridiagonal) -> Semiseparable | None:
    """The positive definite matrix with these blocks whose determinant is largest, or None where there is none.

    There is one where each two neighbouring blocks form a positive definite matrix.

    Source: Grone, Johnson, Sa, Wolkowicz 1984; Fukuda, Kojima, Murota, Nakata 2001.
    """
    factor, info = torch.linalg.cholesky_ex(blocks.diagonal)
    if info.any():
        return None
    left = torch.cholesky_solve(blocks.lower.mT, factor[:-1]).mT
    innovation = blocks.diagonal.clone()
    innovation[1:] -= left @ blocks.lower.mT
    innovation = 0.5 * (innovation + innovation.mT)
    if torch.linalg.cholesky_ex(innovation)[1].any():
        return None
    return Semiseparable(blocks.diagonal, innovation, left, left.mT)


@dataclass(frozen=True, eq=False)
class Product:
    """``P D Q`` for a block-tridiagonal D between two semiseparable matrices: a corner of the semiseparable ``[[P, PDQ], [0, Q]]``.

    Args:
        first, last: P and Q.
        corner: what the whole has at the place of ``PDQ``, part by part.
    """

    first: Semiseparable
    last: Semiseparable
    corner: Semiseparable

    @classmethod
    def of(cls, first: Semiseparable, middle: Tridiagonal, last: Semiseparable) -> Product:
        """One pass from the last layer to the first, and one back."""
        right, left = first.right, last.left
        # What later layers hold, seen from layer k: the sum of P_ki D_ij Q_jk over i, j >= k is P_kk back_k Q_kk.
        back = middle.diagonal.clone()
        back[:-1] += middle.upper @ left + right @ middle.lower
        for k in reversed(range(len(back) - 1)):
            back[k].addmm_(right[k] @ back[k + 1], left[k])
        new_left = first.innovation[1:] @ (middle.lower + back[1:] @ left)
        new_right = (middle.upper + right @ back[1:]) @ last.innovation[1:]
        innovation = first.innovation @ back @ last.innovation
        diagonal = innovation.clone()
        diagonal[1:] += first.left @ (first.diagonal[:-1] @ new_right) + new_left @ (last.diagonal[:-1] @ last.right)
        for k in range(1, len(diagonal)):
            diagonal[k].addmm_(first.left[k - 1] @ diagonal[k - 1], last.right[k - 1])
        return cls(first, last, Semiseparable(diagonal, innovation, new_left, new_right))

    @property
    def tridiagonal(self) -> Tridiagonal:
        """Its blocks on and beside the diagonal."""
        own, p, q = self.corner, self.first, self.last
        lower = p.left @ own.diagonal[:-1] + own.left @ q.diagonal[:-1]
        return Tridiagonal(own.diagonal, lower, own.diagonal[:-1] @ q.right + p.diagonal[:-1] @ own.right)

    @property
    def transposed(self) -> Product:
        """``Q' D' P'``, which is ``Q D P`` where all three are symmetric."""
        own = self.corner
        return Product(_transposed(self.last), _transposed(self.first), _transposed(own))

    def then(self, middle: Tridiagonal, last: Semiseparable) -> Tridiagonal:
        """The blocks of ``P D Q D R`` on and beside the diagonal."""
        p, m, q = self.first, self.corner, self.last
        whole = Semiseparable(
            _whole(p.diagonal, m.diagonal, q.diagonal),
            _whole(p.innovation, m.innovation, q.innovation),
            _whole(p.left, m.left, q.left),
            _whole(p.right, m.right, q.right),
        )
        parts = (middle.diagonal, middle.lower, middle.upper)
        out = Product.of(whole, Tridiagonal(*(torch.cat([torch.zeros_like(b), b], 1) for b in parts)), last).tridiagonal
        rows = slice(0, p.diagonal.shape[1])
        return Tridiagonal(out.diagonal[:, rows], out.lower[:, rows], out.upper[:, rows])


def _transposed(m: Semiseparable) -> Semiseparable:
    return Semiseparable(m.diagonal.mT, m.innovation.mT, m.right.mT, m.left.mT)


def _whole(p: Tensor, corner: Tensor, q: Tensor) -> Tensor:
    return torch.cat([torch.cat([p, corner], 2), torch.cat([torch.zeros_like(corner.mT), q], 2)], 1)
