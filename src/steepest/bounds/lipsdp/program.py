"""LipSDP as a quadratic program with one block of variables for the input and one per stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.numerics.quadratic_program import QuadraticProgram, Tile
from steepest.ops.lure import LureSystem


def quadratic_program(system: LureSystem, rows: Sequence[dict[int, Tensor]], output: dict[int, Tensor]) -> QuadraticProgram:
    """The program of the system, in the fewest coordinates of x: an orthogonal change drops directions that nobody reads.

    Args:
        system: the network.
        rows: of every stage, its v as a linear map of the variables (``LureSystem.matrices``).
        output: the same of the output.
    """
    variables = system.variables
    reads = [blocks[0] for blocks in (*rows, output) if 0 in blocks]
    inputs, basis = system.signals[0].size, None
    if 0 < sum(r.shape[1] for r in reads) < inputs:
        basis = torch.linalg.qr(torch.cat(reads, 1))[0]
        inputs = basis.shape[1]
    sizes = (inputs, *(system.signals[i].size for i in variables[1:]))
    column = {i: sum(sizes[:k]) for k, i in enumerate(variables)}

    def seen(i: int, block: Tensor) -> Tensor:
        return (block if i or basis is None else basis.mT @ block).mT.contiguous()

    empty, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    tiles, lean, excess, own, at = [], [empty], [empty], [none], 0
    for s, blocks, product in zip(system.stages, rows, system.slope_products, strict=True):
        tiles += [Tile(at, column[i], s.radius[:, None] * seen(i, b)) for i, b in sorted(blocks.items())]
        at += len(s.v_of)
        lean.append(s.middle / s.radius)
        excess.append(torch.where(product == 0, 0.0, product / s.radius.square()))
        first = column[s.z] - inputs
        own.append(torch.full_like(s.v_of, first) if s.tied else first + torch.arange(len(s.v_of)))
    return QuadraticProgram(
        sizes,
        tuple(tiles),
        tuple(Tile(0, column[i], seen(i, b)) for i, b in sorted(output.items())),
        torch.cat(lean),
        torch.cat(excess),
        torch.cat(own),
        torch.cat([none, *(s.z_of for s in system.stages)]),
        torch.cat([none, *(s.v_of for s in system.stages)]),
        system.multipliers,
    )
