"""Deep stacks of equal layers, all their weights in one tensor: a step of an optimizer is then one operation, not thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


class Plain(nn.Module):
    """``h -> phi(W h + b)``, layer after layer; with batch normalisation before each activation where asked for.

    Args:
        layers: initialised layers of one width, whose values are taken over.
        activation: between them.
        normalised: with batch normalisation.
    """

    def __init__(self, layers: Sequence[nn.Linear], activation: Activation = torch.relu, normalised: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layers)
        self.scale = nn.Parameter(torch.ones_like(self.bias)) if normalised else None
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        scales = [None] * len(self.weight) if self.scale is None else self.scale.unbind()
        for weight, bias, scale in zip(self.weight.unbind(), self.bias.unbind(), scales, strict=True):
            h = self.activation(_layer(h, weight, bias, scale))
        return h


class Residual(nn.Module):
    """``h -> h + W' phi(W h + b) + b'``, block after block of two layers each.

    Args:
        layers: initialised layers of one width, an even number, whose values are taken over.
        normalised: with batch normalisation after each layer.
    """

    def __init__(self, layers: Sequence[nn.Linear], normalised: bool = False) -> None:
        super().__init__()
        assert len(layers) % 2 == 0, "a residual block has two layers"
        self.weight, self.bias = _stacked(layers)
        self.scale = nn.Parameter(torch.ones_like(self.bias)) if normalised else None
        if self.scale is not None:
            # The branch begins at zero, as Goyal et al. (2017) initialise batch-normalised residual networks.
            with torch.no_grad():
                self.scale[1::2] = 0

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        weights, biases = self.weight.unbind(), self.bias.unbind()
        scales = [None] * len(weights) if self.scale is None else self.scale.unbind()
        for k in range(0, len(weights), 2):
            inner = torch.relu(_layer(h, weights[k], biases[k], scales[k]))
            h = h + _layer(inner, weights[k + 1], biases[k + 1], scales[k + 1])
        return h


class FixupStack(nn.Module):
    """Residual blocks of two layers as ``steepest.layers.FixupResidual`` has them, stacked.

    Args:
        layers: initialised layers of one width, an even number.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight, _ = _stacked(layers)
        self.biases = nn.Parameter(torch.zeros(len(layers) // 2, 4))
        self.multiplier = nn.Parameter(torch.ones(len(layers) // 2))

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        weights = self.weight.unbind()
        for k, (biases, multiplier) in enumerate(zip(self.biases.unbind(), self.multiplier.unbind(), strict=True)):
            before, inside, after, end = biases.unbind()
            inner = torch.relu(functional.linear(h + before, weights[2 * k]) + inside)
            h = h + multiplier * functional.linear(inner + after, weights[2 * k + 1]) + end
        return h


def dense(count: int, width: int) -> list[nn.Linear]:
    """So many layers of one width, to be initialised and stacked."""
    return [nn.Linear(width, width) for _ in range(count)]


def _stacked(layers: Sequence[nn.Linear]) -> tuple[nn.Parameter, nn.Parameter]:
    weight, bias = torch.stack([m.weight.detach() for m in layers]), torch.stack([m.bias.detach() for m in layers])
    return nn.Parameter(weight), nn.Parameter(bias)


def _layer(h: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return functional.linear(h, weight, bias)
    return functional.batch_norm(functional.linear(h, weight), None, None, scale, bias, training=True)
