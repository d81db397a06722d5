"""Parameters and gradients as one vector, in the order of the list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from steepest.errors import UsageError


def trainable(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that require gradients.

    Raises:
        UsageError: where there is none, or they have more than one type or device: they have to fit into one vector.
    """
    kept = [p for p in parameters if p.requires_grad]
    if not kept:
        raise UsageError("no parameter requires a gradient: there is nothing to train")
    kinds = {(p.dtype, p.device) for p in kept}
    if len(kinds) > 1:
        raise UsageError(f"the parameters have several types or devices ({', '.join(sorted(map(str, kinds)))}): convert the model to one")
    return kept


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """A new vector of the values."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def gather_gradients(parameters: Sequence[Tensor]) -> Tensor:
    """A new vector of the gradients; zero where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad.detach()).reshape(-1) for p in parameters])


def parts(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector, shaped as the parameters."""
    pieces = flat.split_with_sizes([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


@torch.no_grad()
def scatter(flat: Tensor, parameters: Sequence[Tensor]) -> None:
    """Copy the vector into the parameters."""
    for p, part in zip(parameters, parts(flat, parameters), strict=True):
        p.copy_(part)


def set_gradients(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Let these be the gradients."""
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
