"""Which modules of a network have weights to initialise, and what feeds them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def weighted(module: nn.Module) -> tuple[tuple[str, Weighted], ...]:
    """The dense and convolutional layers of a module with their names, in the order in which they are registered.

    Raises:
        ValueError: where there is none, one is lazy and has no shape yet, or a weight is parametrised.
    """
    found = tuple((name or type(m).__name__, m) for name, m in module.named_modules() if isinstance(m, Weighted))
    if not found:
        raise ValueError(f"{type(module).__name__} holds no Linear, Conv1d, Conv2d or Conv3d to initialise")
    for name, layer in found:
        if isinstance(layer.weight, UninitializedParameter):
            raise ValueError(f"the weight of {name!r} has no shape yet: run the network on one batch first")
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"the weight of {name!r} is parametrised: initialise first, then register the parametrisation")
    return found


def fan_in(weight: Tensor) -> int:
    """Entries that feed one output of a weight ``[out, in, ...]``."""
    return weight[0].numel()


def zero_biases(layers: Iterable[Weighted]) -> None:
    """Set the biases to zero."""
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
