"""How signals travel through a model: scales and correlations forward, gradient norms backward, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steepest.measures.objective import Batch, LossFunction, Objective, Parameters, apply, same_randomness


@dataclass(frozen=True)
class Signal:
    """What comes out of one call of a layer, over a batch.

    Args:
        layer: its qualified name; kind: its class.
        scale: ``q = mean of squares`` of its output (Poole et al. 2016: the squared length per unit).
        correlation: ``c``, the mean cosine between the outputs of different samples; 1 where all look alike, None for one sample.
        spread: mean over units of the standard deviation over samples, in units of ``sqrt(q)``; near zero, no sample can be told
            from another.
    """

    layer: str
    kind: str
    scale: float
    correlation: float | None
    spread: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class LayerGradient:
    """Norms of gradients at one layer.

    Args:
        layer: its qualified name; kind: its class.
        output: norm of the gradient of the loss in its output, per sample: the square root of the mean over the batch of squared norms,
            times the length of the batch (which undoes the mean of a loss that averages).
        parameters: norm of the gradient in its own parameters; 0 where it has none.
        relative: the same in units of the parameters' norm.
    """

    layer: str
    kind: str
    output: float
    parameters: float
    relative: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def signals(model: nn.Module, inputs: Any, layers: Sequence[str] | None = None) -> tuple[Signal, ...]:
    """The scale and the correlation of every layer's output, in the order of the calls; cost: one forward pass.

    Args:
        inputs: what the model is applied to, samples along the first axis; a tuple of several arguments, a dict of keywords.
        layers: qualified names; all modules without children by default.

    Source: Poole et al. 2016 (length and correlation maps), Schoenholz et al. 2017.
    """
    found: list[Signal] = []

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        found.append(_signal(name, module, output))

    with torch.no_grad(), same_randomness(), tapped(model, layers, record):
        apply(model, own_parameters(model), inputs)
    return tuple(found)


def gradient_norms(model: nn.Module, loss_fn: LossFunction, batch: Batch, layers: Sequence[str] | None = None) -> tuple[LayerGradient, ...]:
    """The gradient of the loss at every layer, in the order of the calls; cost: one gradient.

    Args:
        layers: qualified names; all modules without children by default.
    """
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    objective = Objective(model, loss_fn, batch)
    leaves = {n: p.detach().requires_grad_() for n, p in objective.parameters.items()}

    def record(name: str, module: nn.Module, output: Tensor) -> Tensor:
        # A view apart, so that a later operation in place changes another tensor than the one differentiated here.
        outputs.append((name, module, output))
        return output.clone()

    with tapped(model, layers, record):
        loss = objective.loss(leaves)
    tensors = [o for _, _, o in outputs]
    found = torch.autograd.grad(loss, (*tensors, *leaves.values()), allow_unused=True, materialize_grads=True)
    of_parameters = dict(zip(leaves, found[len(tensors) :], strict=True))
    return tuple(
        _layer_gradient(name, module, gradient, leaves, of_parameters)
        for (name, module, _), gradient in zip(outputs, found[: len(tensors)], strict=True)
    )


def _signal(name: str, module: nn.Module, output: Tensor) -> Signal:
    z = output.detach().reshape(len(output), -1) if output.ndim > 1 else output.detach()[:, None]
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    scale = float(z.square().mean())
    spread = float(z.std(0, correction=0).mean()) / scale**0.5 if scale > 0.0 else 0.0
    return Signal(name, type(module).__name__, scale, _correlation(z), spread)


def _correlation(z: Tensor) -> float | None:
    """The mean cosine over pairs: with unit rows u, ``(|sum u|^2 - sum |u|^2) / (n (n - 1))``."""
    norms = torch.linalg.vector_norm(z, dim=1)
    u = z[norms > 0] / norms[norms > 0, None]
    n = len(u)
    return float((u.sum(0).square().sum() - n) / (n * (n - 1))) if n > 1 else None


def _layer_gradient(name: str, module: nn.Module, gradient: Tensor, leaves: Parameters, of_parameters: Parameters) -> LayerGradient:
    own = [n for n in leaves if n.rpartition(".")[0] == name]
    size = sum(float(of_parameters[n].double().square().sum()) for n in own) ** 0.5
    weight = sum(float(leaves[n].detach().double().square().sum()) for n in own) ** 0.5
    count = max(1, len(gradient)) if gradient.ndim else 1
    output = (float(gradient.double().square().sum()) * count) ** 0.5
    return LayerGradient(name, type(module).__name__, output, size, size / weight if weight else 0.0)


def own_parameters(model: nn.Module) -> Parameters:
    """The model's own parameters, detached."""
    return {n: p.detach() for n, p in model.named_parameters()}


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str] | None, record: Any) -> Iterator[None]:
    """Call ``record(name, module, output)`` for every floating-point tensor that a layer puts out first."""

    def hook(name: str, module: nn.Module, _: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or not first.ndim:
            return None
        instead = record(name, module, first)
        if instead is None:
            return None
        return (instead, *output[1:]) if isinstance(output, tuple) else instead

    picked = [(n, m) for n, m in model.named_modules() if (n in layers if layers is not None else not any(True for _ in m.children()))]
    handles = [m.register_forward_hook(partial(hook, n)) for n, m in picked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
