"""Fixup: residual networks without normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from steepest.init.weights import weighted, zero_biases


@dataclass(frozen=True)
class FixupScale:
    """What was done to one branch.

    Args:
        layers: names of its weights within the branch, in order; the last one is zero.
        scale: what He's initialisation of the others was multiplied by, L^(-1/(2m - 2)).
    """

    layers: tuple[str, ...]
    scale: float


@torch.no_grad()
def fixup_(
    branches: Sequence[nn.Module], head: nn.Module | None = None, generator: torch.Generator | None = None
) -> tuple[FixupScale, ...]:
    """Initialise residual branches so that one step of size eta changes the output by Theta(eta), whatever their number.

    Rules 1 and 2 of the paper: with L branches of m weights each, the last weight of a branch and the classification layer are zero; the
    other weights of the branch follow He et al. (2015), times L^(-1/(2m - 2)). Biases of these layers become zero; better have none, and
    the scalar biases and multipliers of rule 3 instead (``steepest.layers.FixupResidual``). Weights outside the branches stay as they are.

    Args:
        branches: one module per residual branch (not the block with its shortcut), such as ``[block.branch for block in blocks]``; its
            dense and convolutional layers count in the order in which they are registered.
        head: the classification layer, or a module that ends in it.
        generator: of the random numbers.

    Returns:
        What was done to each branch.

    Raises:
        ValueError: without branches, or for one without weights.

    Source: Zhang, Dauphin and Ma, "Fixup initialization: residual learning without normalization" (2019), section 3.
    """
    if not branches:
        raise ValueError("give the residual branches of the network, at least one")
    done = []
    for branch in branches:
        layers = weighted(branch)
        m = len(layers)
        scale = len(branches) ** (-1 / (2 * m - 2)) if m > 1 else 1.0
        for _, layer in layers[:-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            layer.weight.mul_(scale)
        nn.init.zeros_(layers[-1][1].weight)
        zero_biases(layer for _, layer in layers)
        done.append(FixupScale(tuple(name for name, _ in layers), scale))
    if head is not None:
        last = weighted(head)[-1][1]
        nn.init.zeros_(last.weight)
        zero_biases([last])
    return tuple(done)
