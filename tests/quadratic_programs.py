"""Random programs of quadratic constraints, and what they are as dense matrices."""

import torch

from steepest.numerics.block_cholesky import BlockCholesky
from steepest.numerics.quadratic_program import QuadraticProgram, Tile


def program(kind, sizes, seed):
    """A random chain of constraints; ``skips`` read all earlier variables, ``tied`` has one multiplier for its last constraint."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    tiles, lean, excess, own, z_of, v_of = [], [], [], [], [], []
    row = count = 0
    for k in range(1, len(sizes)):
        tied = kind == "tied" and k == len(sizes) - 1
        rows = sizes[k] + 2 if tied else sizes[k]
        for j in range(k) if kind == "skips" else (k - 1,):
            tiles.append(Tile(row, starts[j], 0.5 * random(rows, sizes[j]) / sizes[j] ** 0.5))
        if tied:
            leans = torch.zeros(rows, dtype=torch.float64)
            own.append(torch.full((rows,), starts[k] - sizes[0]))
            z_of.append(torch.full((sizes[k],), count))
            v_of.append(torch.full((rows,), count))
            count += 1
        else:
            # Slopes within [c - r, c + r] of any sign have lean = c / r.
            leans = torch.ones(rows, dtype=torch.float64) if kind == "relu" else 1.5 * random(rows)
            own.append(torch.arange(rows) + starts[k] - sizes[0])
            z_of.append(count + torch.arange(rows))
            v_of.append(z_of[-1])
            count += rows
        lean.append(leans)
        excess.append(leans.square() - 1.0)
        row += rows
    output = (Tile(0, starts[-2], random(2, sizes[-1])), *([Tile(0, 0, random(2, sizes[0]))] if kind == "skips" else []))
    return QuadraticProgram(tuple(sizes), tuple(tiles), output, *(torch.cat(c) for c in (lean, excess, own, z_of, v_of)), count)


def factored(p, rho, t):
    """The Cholesky factor of S, or None where it is not positive definite."""
    return BlockCholesky.factor(p.starts, p.slack(rho, t))


def dense(p):
    """E, all P_j and C'C."""
    n, size = p.inputs, p.size
    H, C = torch.zeros(len(p.v_of), size, dtype=torch.float64), torch.zeros(2, size, dtype=torch.float64)
    for t in p.H:
        H[t.rows, t.columns] = t.block
    for t in p.C:
        C[:, t.columns] = t.block
    G = torch.eye(size, dtype=torch.float64)[n:].index_add(0, p.own, -p.lean[:, None] * H)
    P = torch.zeros(p.multipliers, size, size, dtype=torch.float64)
    P.index_add_(0, p.z_of, G[:, :, None] * G[:, None, :])
    P.index_add_(0, p.v_of, -H[:, :, None] * H[:, None, :])
    E = torch.diag((torch.arange(size) < n).double())
    return E, P, C.T @ C


def whole(p, blocks):
    out = torch.zeros(p.size, p.size, dtype=torch.float64)
    for (i, j), b in blocks.items():
        rows, columns = slice(*p.starts[i : i + 2]), slice(*p.starts[j : j + 2])
        out[rows, columns], out[columns, rows] = b, b.T
    return out


def feasible(p):
    """A strictly feasible point: earlier constraints weigh so much more that they hold the later ones."""
    depth = len(p.sizes) - 1
    row_of = torch.repeat_interleave(torch.arange(depth), torch.tensor(p.sizes[1:]))
    for power in range(1, 40):
        step = 1.5**power
        t = torch.ones(p.multipliers, dtype=torch.float64).index_copy(0, p.z_of, step ** (depth - row_of.double()))
        if factored(p, step ** (depth + 1), t) is not None:
            return t, step ** (depth + 1)
    raise AssertionError("no feasible point")
