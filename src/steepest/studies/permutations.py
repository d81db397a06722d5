"""The hidden units of one dense network put into the order of another's, which changes no output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.errors import require_extra


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer's weight ``[out, in]`` and bias ``[out]``."""

    weight: Tensor
    bias: Tensor


def matched(model: Sequence[Dense], reference: Sequence[Dense], rounds: int = 50) -> list[Dense]:
    """``model`` with the units of each hidden layer permuted so that its weights have the largest inner product with the reference's.

    Layer by layer, the others held: an assignment problem each, solved exactly, until nothing changes: a local maximum of the sum.

    Args:
        model, reference: chains of layers of equal shapes with activations by element between them.
        rounds: over all layers, at most.

    Source: S. Ainsworth, J. Hayase, S. Srinivasa, Git re-basin: merging models modulo permutation symmetries, ICLR 2023, algorithm 1.
    """
    assignment = require_extra("scipy.optimize", "example").linear_sum_assignment
    layers = list(model)
    for _ in range(rounds):
        changed = False
        for k in range(len(layers) - 1):
            here, after, like, then = layers[k], layers[k + 1], reference[k], reference[k + 1]
            gain = like.weight @ here.weight.T + torch.outer(like.bias, here.bias) + then.weight.T @ after.weight
            order = torch.as_tensor(assignment(gain.double().numpy(), maximize=True)[1])
            if float(gain.double()[torch.arange(len(order)), order].sum()) > float(gain.double().trace()) + 1e-9 * float(gain.abs().sum()):
                layers[k], layers[k + 1] = Dense(here.weight[order], here.bias[order]), Dense(after.weight[:, order], after.bias)
                changed = True
        if not changed:
            break
    return layers
