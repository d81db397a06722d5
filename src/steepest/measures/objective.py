"""The loss of a batch as a function of the parameters alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from steepest.errors import UsageError

Parameters = dict[str, Tensor]
Batch = tuple[Any, Any]
LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Objective:
    """``parameters -> loss_fn(model(x), y)`` for one batch ``(x, y)``, in the mode the model is in.

    Nothing of the model is touched: parameters and buffers are substituted by copies for each evaluation (running statistics of batch norm
    do not move), gradients are returned and never accumulated, random states are put back, so that dropout draws the same mask every time.
    Hooks on modules do run.

    Args:
        model: any module.
        loss_fn: of ``model(x)`` and ``y``, to one number.
        batch: ``(x, y)``; a tuple x is handed over as several arguments, a dict as keywords.
    """

    model: nn.Module
    loss_fn: LossFunction
    batch: Batch

    @cached_property
    def parameters(self) -> Parameters:
        """The parameters that are differentiated, by name; detached views of the model's."""
        return {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}

    def loss(self, parameters: Parameters | None = None) -> Tensor:
        """The loss at these parameters (of the model, where none are given), with its graph where they require gradients.

        Raises:
            UsageError: when it is not one number.
        """
        given = self.parameters if parameters is None else parameters
        with torch.enable_grad(), same_randomness():
            value = self.loss_fn(apply(self.model, given, self.batch[0]), self.batch[1])
            if value.numel() != 1:
                raise UsageError(f"the loss is a tensor of shape {list(value.shape)}: reduce it to one number, by its mean for example")
            return value.reshape(())

    def gradient(self, parameters: Parameters | None = None) -> tuple[float, Parameters]:
        """The loss and its gradient at these parameters; cost: one gradient."""
        given = self.parameters if parameters is None else {**self.parameters, **parameters}
        leaves = {n: given[n].detach().requires_grad_() for n in self.parameters}
        loss = self.loss(leaves)
        return loss.item(), dict(zip(leaves, gradients(loss, tuple(leaves.values())), strict=True))


def apply(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any) -> Any:
    """The model's output with these parameters in place of its own, its buffers as they are and as they stay."""
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    return functional_call(model, {**dict(parameters), **buffers}, args, kwargs)


def gradients(loss: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Its gradient in each parameter, zero where it does not depend on one."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """All entries of all tensors in one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


@contextmanager
def same_randomness() -> Iterator[None]:
    """What is drawn inside is drawn again by whatever comes after: the random states of torch, numpy and Python are put back."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention in its plain form: the fused one has no second derivative. Nor have recurrent layers on cuDNN, which are refused."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
