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
        layers: initialised layers of one width, all with biases or all without, whose values are taken over.
        activation: between them.
        normalised: with batch normalisation.
    """

    def __init__(self, layers: Sequence[nn.Linear], activation: Activation = torch.relu, normalised: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layers)
        self.scale = nn.Parameter(torch.ones(self.weight.shape[:2])) if normalised else None
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        scales = [None] * len(self.weight) if self.scale is None else self.scale.unbind()
        biases = [None] * len(self.weight) if self.bias is None else self.bias.unbind()
        for weight, bias, scale in zip(self.weight.unbind(), biases, scales, strict=True):
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
        self.scale = nn.Parameter(torch.ones(self.weight.shape[:2])) if normalised else None
        if self.scale is not None:
            # The branch begins at zero, as Goyal et al. (2017) initialise batch-normalised residual networks.
            with torch.no_grad():
                self.scale[1::2] = 0

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        weights = self.weight.unbind()
        biases = [None] * len(weights) if self.bias is None else self.bias.unbind()
        scales = [None] * len(weights) if self.scale is None else self.scale.unbind()
        for k in range(0, len(weights), 2):
            inner = torch.relu(_layer(h, weights[k], biases[k], scales[k]))
            h = h + _layer(inner, weights[k + 1], biases[k + 1], scales[k + 1])
        return h


class FixupStack(nn.Module):
    """Residual blocks of two layers as ``steepest.layers.FixupResidual`` has them, stacked.

    The scalars are kept sqrt(10) times as large as they are used: one rate for all then moves them a tenth as fast as the weights, as
    Zhang, Dauphin and Ma advise (2019, section 4).

    Args:
        layers: initialised layers of one width, an even number.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight, _ = _stacked(layers)
        self.biases = nn.Parameter(torch.zeros(len(layers) // 2, 4))
        self.multiplier = nn.Parameter(torch.full((len(layers) // 2,), 10**0.5))

    def forward(self, h: Tensor) -> Tensor:
        """``[N, width]`` to ``[N, width]``."""
        weights = self.weight.unbind()
        slow_biases, slow_multiplier = self.biases / 10**0.5, self.multiplier / 10**0.5
        for k, (biases, multiplier) in enumerate(zip(slow_biases.unbind(), slow_multiplier.unbind(), strict=True)):
            before, inside, after, end = biases.unbind()
            inner = torch.relu(functional.linear(h + before, weights[2 * k]) + inside)
            h = h + multiplier * functional.linear(inner + after, weights[2 * k + 1]) + end
        return h


def dense(count: int, width: int, bias: bool = True) -> list[nn.Linear]:
    """So many layers of one width, to be initialised and stacked."""
    return [nn.Linear(width, width, bias) for _ in range(count)]


def _stacked(layers: Sequence[nn.Linear]) -> tuple[nn.Parameter, nn.Parameter | None]:
    weight = nn.Parameter(torch.stack([m.weight.detach() for m in layers]))
    biases = [m.bias.detach() for m in layers if m.bias is not None]
    return weight, nn.Parameter(torch.stack(biases)) if biases else None


def _layer(h: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None) -> Tensor:
    if scale is None:
        return functional.linear(h, weight, bias)
    return functional.batch_norm(functional.linear(h, weight), None, None, scale, bias, training=True)
