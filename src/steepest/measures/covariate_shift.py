"""Internal covariate shift, as its inventors define it and as Santurkar et al. do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steepest.errors import UsageError
from steepest.measures.landscape import cosine, norm
from steepest.measures.objective import Batch, LossFunction, Objective, Parameters, apply, same_randomness


@dataclass(frozen=True)
class GradientShift:
    """How an update of the layers before it changes a layer's gradient.

    Args:
        layer: its qualified name.
        norm: of its gradient before.
        difference: ``|G' - G|``, where G' is the gradient after all earlier layers have moved.
        cosine: of the angle between both.
    """

    layer: str
    norm: float
    difference: float
    cosine: float


@dataclass(frozen=True)
class InputShift:
    """How an update changes the distribution of a layer's inputs over a batch, averaged over its input units.

    Units that do not vary are left out.

    Args:
        layer: its qualified name.
        mean: ``|change of the mean|``, in standard deviations before.
        scale: ``|log of the ratio of the standard deviations|``.
        distance: the 2-Wasserstein distance of the values before and after, in standard deviations before.
    """

    layer: str
    mean: float
    scale: float
    distance: float


def gradient_step(model: nn.Module, loss_fn: LossFunction, batch: Batch, rate: float) -> Parameters:
    """The parameters after one step of gradient descent, which is not taken; cost: one gradient."""
    objective = Objective(model, loss_fn, batch)
    gradient = objective.gradient()[1]
    return {n: p - rate * gradient[n] for n, p in objective.parameters.items()}


def gradient_shift(
    model: nn.Module, loss_fn: LossFunction, batch: Batch, updated: Mapping[str, Tensor], layers: Sequence[str] | None = None
) -> tuple[GradientShift, ...]:
    """Internal covariate shift as a change of gradients: ``|grad_i(w_1', .., w_(i-1)', w_i, .., w_k) - grad_i(w)|`` of each layer i.

    Cost: one gradient, and one per layer after the first.

    Args:
        updated: parameters after the update, by name; those missing do not move.
        layers: qualified names in the order of the forward pass; by default all modules that own parameters, in
            the order of their first call.

    Source: Santurkar et al. 2018, definition 2.1.
    """
    objective = Objective(model, loss_fn, batch)
    names = tuple(layers) if layers is not None else layers_in_order(model, batch[0])
    _require(model, names)
    gradient = objective.gradient()[1]
    moved: Parameters = {}
    found = []
    for name in names:
        own = [n for n in objective.parameters if n.rpartition(".")[0] == name]
        before = {n: gradient[n] for n in own}
        if moved and own:
            there = objective.gradient(moved)[1]
            after = {n: there[n] for n in own}
        else:
            after = before
        difference = norm({n: after[n] - before[n] for n in own})
        found.append(GradientShift(name, norm(before), difference, cosine(before, after)))
        moved |= {n: updated[n].detach() for n in own if n in updated}
    return tuple(found)


def input_shift(
    model: nn.Module, inputs: Any, updated: Mapping[str, Tensor], layers: Sequence[str] | None = None
) -> tuple[InputShift, ...]:
    """Internal covariate shift as a change of the distribution of each layer's inputs when all parameters move.

    Convolutions are compared by channel, others by the entries of their last axis. Cost: two forward passes and sorting.

    Args:
        inputs: what the model is applied to; a tuple of several arguments, a dict of keywords.
        updated: parameters after the update, by name; those missing do not move.
        layers: as in ``gradient_shift``.

    Source: Ioffe and Szegedy 2015, section 2 (the change in the distribution of activations due to the change in parameters).
    """
    names = tuple(layers) if layers is not None else layers_in_order(model, inputs)
    _require(model, names)
    own = {n: p.detach() for n, p in model.named_parameters()}
    before = _inputs_of(model, own, inputs, names)
    after = _inputs_of(model, {**own, **{n: p.detach() for n, p in updated.items()}}, inputs, names)
    return tuple(_shift(name, before[name], after[name]) for name in names if name in before)


def layers_in_order(model: nn.Module, inputs: Any) -> tuple[str, ...]:
    """The modules that own parameters, in the order in which they are first called; those that are not called, last."""
    owners = {m: n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))}
    called: dict[str, None] = {}
    handles = [m.register_forward_pre_hook(lambda m, _: called.setdefault(owners[m])) for m in owners]
    try:
        with torch.no_grad(), same_randomness():
            apply(model, {n: p.detach() for n, p in model.named_parameters()}, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return (*called, *(n for n in owners.values() if n not in called))


def _require(model: nn.Module, names: Sequence[str]) -> None:
    known = {n for n, _ in model.named_modules()}
    if unknown := [n for n in names if n not in known]:
        raise UsageError(f"the model has no module {unknown[0]!r}; it has {sorted(known)[:20]}")


def _inputs_of(model: nn.Module, parameters: Parameters, inputs: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The input of the first call of each module, as ``[values, units]``."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if name not in kept and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            x = args[0].detach()
            by_channel = x.ndim > 2 and isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm))
            kept[name] = (x.movedim(1, -1) if by_channel else x).reshape(-1, x.shape[1 if by_channel else -1]).clone()

    modules = dict(model.named_modules())
    handles = [modules[n].register_forward_pre_hook(partial(keep, n)) for n in names]
    try:
        with torch.no_grad(), same_randomness():
            apply(model, parameters, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def _shift(name: str, before: Tensor, after: Tensor) -> InputShift:
    # Between samples of equal size in one dimension the optimal transport pairs them in order.
    distance = (before.sort(0).values - after.sort(0).values).double().square().mean(0).sqrt()
    mean = (after.double().mean(0) - before.double().mean(0)).abs()
    old, new = before.double().std(0, correction=0), after.double().std(0, correction=0)
    varied = (old > 1e-6 * (before.double().abs().amax(0) + 1e-30)) & (new > 0)
    if not varied.any():
        return InputShift(name, 0.0, 0.0, 0.0)
    old, new = old[varied], new[varied]
    means = (mean[varied] / old).mean(), (new / old).log().abs().mean(), (distance[varied] / old).mean()
    return InputShift(name, *(float(m) for m in means))
