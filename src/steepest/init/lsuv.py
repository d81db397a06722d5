"""Layer-sequential unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steepest.init.delta_orthogonal import orthogonal_
from steepest.init.weights import Weighted, weighted


@dataclass(frozen=True)
class LsuvLayer:
    """What was done to one layer.

    Args:
        name: of the layer.
        before: variance of its outputs over the batch before it was scaled, the layers below it scaled already.
        after: the same afterwards.
        factor: what its weight was multiplied by.
        iterations: how many scalings that took.
    """

    name: str
    before: float
    after: float
    factor: float
    iterations: int


class _Reached(BaseException):
    """The layer has given its output; the rest of the forward pass is not needed."""


@torch.no_grad()
def lsuv_(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    tolerance: float = 0.1,
    iterations: int = 10,
    start_orthogonal: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[LsuvLayer, ...]:
    """Scale each dense and convolutional layer, from the first to the last as they run, until its outputs have variance one.

    The model runs in the mode it is in; its buffers (batch-norm statistics) are as before afterwards. Layers that do not run stay unscaled.

    Args:
        model: changed in place.
        inputs: one batch, or the tuple of the model's arguments; typical and shuffled.
        tolerance: the variance ends within 1 +- tolerance.
        iterations: at most so many scalings a layer. One suffices where the bias is zero: the output is linear in the weight.
        start_orthogonal: first initialise all layers with ``orthogonal_`` (delta-orthogonal for convolutions) and zero biases, as the paper
            does; else keep weights and biases as they are.
        generator: of the random numbers of that.

    Returns:
        What was done to each layer, in the order in which they ran.

    Raises:
        ValueError: where no layer runs, or a layer's outputs are constant or not finite.

    Source: Mishkin and Matas, "All you need is a good init" (2016), algorithm 1.
    """
    if not tolerance > 0 or iterations < 1:
        raise ValueError(f"tolerance must be positive and iterations at least 1, not {tolerance} and {iterations}")
    layers = weighted(model)
    if start_orthogonal:
        orthogonal_(model, generator=generator)
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        order = _order(model, dict(layers), arguments)
        if not order:
            raise ValueError("no dense or convolutional layer runs when the model is given this batch")
        return tuple(_scale(model, name, layer, arguments, tolerance, iterations) for name, layer in order.items())
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _order(model: nn.Module, layers: dict[str, Weighted], arguments: tuple[Any, ...]) -> dict[str, Weighted]:
    """The layers in the order in which they first run."""
    ran: dict[str, Weighted] = {}
    handles = [
        layer.register_forward_hook(lambda module, args, out, name=name, layer=layer: ran.setdefault(name, layer) and None)
        for name, layer in layers.items()
    ]
    try:
        model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _variance(model: nn.Module, name: str, layer: Weighted, arguments: tuple[Any, ...]) -> float:
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: Any, out: Tensor) -> None:
        seen.append(out)
        raise _Reached

    handle = layer.register_forward_hook(stop)
    try:
        model(*arguments)
    except _Reached:
        pass
    finally:
        handle.remove()
    variance = seen[0].double().var(correction=0).item()
    if not 0 < variance < float("inf"):
        raise ValueError(
            f"the outputs of {name!r} have variance {variance:g}: what reaches it is constant or not finite, and no scale makes that one"
        )
    return variance


def _scale(model: nn.Module, name: str, layer: Weighted, arguments: tuple[Any, ...], tolerance: float, iterations: int) -> LsuvLayer:
    before = variance = _variance(model, name, layer, arguments)
    factor, count = 1.0, 0
    while abs(variance - 1) > tolerance and count < iterations:
        layer.weight.div_(variance**0.5)
        factor /= variance**0.5
        variance = _variance(model, name, layer, arguments)
        count += 1
    return LsuvLayer(name, before, variance, factor, count)
