"""An incomplete Cholesky factor of a chain's Schur complement, whose layers meet through few states: the preconditioner of its solves."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.numerics.chain_program import ChainProgram
from steepest.numerics.semiseparable import Semiseparable

STATES = 1.5
"""States between two layers, for each neuron of a layer."""


class ReducedCholesky:
    """``L L'`` near ``O_jk = <A_j, X A_k Z>`` plus a positive diagonal, positive definite always.

    What layers up to k do to later ones passes through the block ``(k, k)`` of ``X D Z``, ``w^2`` numbers, yet only some ``w`` combinations
    of them matter. L is found layer by layer. The past is white after the factor so far; of what it adds to that block those combinations
    are kept that a random sketch of the future sees, the future made white as well by an earlier factor, of these or of similar matrices.
    Leaving out the others only adds to the pivots that follow, so none can fail but by rounding. Time and memory are linear in the layers.

    Args:
        chain: the program.
        x, z: symmetric X and Z.
        diagonal: ``[n, w]``, added to the diagonal.
        earlier: the factor of similar matrices, if there is one.

    Source: Gu, Li, Vassilevski 2010 (Schur-monotonic compression); Chandrasekaran et al. 2005 (sequentially semiseparable matrices); Akaike
    1975 (states as canonical correlations of past and future); Halko, Martinsson, Tropp 2011 (random sketches).
    """

    def __init__(self, chain: ChainProgram, x: Semiseparable, z: Semiseparable, diagonal: Tensor, earlier: ReducedCholesky | None) -> None:
        n, w = chain.real.shape
        blocks = chain.schur(x, z)
        own = blocks.diagonal(dim1=1, dim2=2)
        own.mul_(1.0 + 1e-14).add_(diagonal)
        own.add_(1.0 - chain.on)
        generator = torch.Generator().manual_seed(0)
        states = round(STATES * w)
        white = list(torch.randn(n, w, states, generator=generator, dtype=diagonal.dtype))
        if earlier is None:
            # What the sketch weighs by need not be exact, and with this added rounding cannot make it indefinite.
            factors, _ = torch.linalg.cholesky_ex(blocks + torch.diag_embed(1e-9 * own))
            weights = list(torch.linalg.solve_triangular(factors.mT, torch.stack(white), upper=True))
        else:
            weights = earlier.solve_transposed(white)
        seen = self._seen(chain, x, z, weights)
        self.pivots: list[Tensor] = []
        self.reads: list[Tensor] = []
        self.keeps: list[Tensor] = []
        state = diagonal.new_zeros(0, w * w)
        for k in range(n):
            pivot, written = blocks[k], chain.written(k, x, z).reshape(-1, w * w)
            if k == 0:
                written = torch.cat([written, written.new_zeros(w - 1, w * w)])
            else:
                read = _outer(*chain.read(k, x, z)) @ state.mT
                pivot = torch.addmm(pivot, read, read.mT, alpha=-1.0)
                state = (x.left[k - 1] @ state.reshape(-1, w, w) @ z.left[k - 1].mT).reshape(-1, w * w)
                written = torch.addmm(written, read, state, alpha=-1.0)
                self.reads.append(read)
            factor = _factor(pivot, blocks[k].diagonal())
            self.pivots.append(factor)
            if k + 1 < n:
                state = torch.cat([state, torch.linalg.solve_triangular(factor, written, upper=False)])
                keep = torch.linalg.qr((seen[k] @ state.mT).mT)[0] if len(state) > states else torch.eye(len(state), dtype=state.dtype)
                state = keep.mT @ state
                self.keeps.append(keep)

    @staticmethod
    def _seen(chain: ChainProgram, x: Semiseparable, z: Semiseparable, weights: list[Tensor]) -> list[Tensor]:
        """``[states, w^2]`` after every layer but the last: weighted sums of what later layers read of the block there."""
        n, w = chain.real.shape
        seen: list[Tensor] = []
        for k in reversed(range(1, n)):
            now = weights[k].mT @ _outer(*chain.read(k, x, z))
            if seen:
                now += (x.left[k - 1].mT @ seen[-1].reshape(-1, w, w) @ z.left[k - 1]).reshape(-1, w * w)
            seen.append(now)
        return seen[::-1]

    def solve(self, right: Tensor) -> Tensor:
        """``(L L')^-1`` times a vector ``[n, w]``."""
        out, state = [], None
        for k, (pivot, b) in enumerate(zip(self.pivots, right[:, :, None], strict=True)):
            if state is not None:
                b = torch.addmm(b, self.reads[k - 1], state, alpha=-1.0)
            b = torch.linalg.solve_triangular(pivot, b, upper=False)
            out.append(b)
            if k < len(self.keeps):
                state = self.keeps[k].mT @ (b if state is None else torch.cat([state, b]))
        return torch.stack(self.solve_transposed(out))[:, :, 0]

    def solve_transposed(self, right: list[Tensor]) -> list[Tensor]:
        """``L^-T`` times a matrix, layer by layer."""
        out, state = list(right), None
        for k in reversed(range(len(out))):
            b = out[k]
            if state is not None:
                both = self.keeps[k] @ state
                b, state = b - both[len(both) - len(b) :], both[: len(both) - len(b)]
            out[k] = torch.linalg.solve_triangular(self.pivots[k].mT, b, upper=True)
            if k:
                new = self.reads[k - 1].mT @ out[k]
                state = new if state is None else state + new
        return out


def _outer(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """``[w, w^2]``: the rows ``a_j b_j' - h_j h_j'``."""
    return (a[:, :, None] * b[:, None, :]).sub_(h[:, :, None] * h[:, None, :]).flatten(1)


def _factor(pivot: Tensor, scale: Tensor) -> Tensor:
    """The Cholesky factor, with as much added to the diagonal as rounding has taken."""
    factor, info = torch.linalg.cholesky_ex(pivot)
    added = 1e-14
    while info.item() != 0 and added < 1.0:
        factor, info = torch.linalg.cholesky_ex(pivot + torch.diag(added * scale))
        added *= 10.0
    return factor
