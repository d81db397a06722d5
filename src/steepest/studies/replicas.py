"""Many copies of one small network trained side by side: seeds and learning rates as one more axis of every tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, func, nn
from torch.nn import functional
from torch.optim import Optimizer

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class Replicas:
    """M networks of one architecture, each with its own weights and, in training, its own learning rate and order of the data.

    Args:
        modules: the networks; they may differ in their parameters alone. They must not change buffers in the forward pass: batch
            normalisation comes with ``track_running_stats=False``.
        loss: of a batch.
    """

    modules: Sequence[nn.Module]
    loss: LossFunction = functional.cross_entropy

    def __post_init__(self) -> None:
        self._base = copy.deepcopy(self.modules[0]).to("meta")
        stacked, self.buffers = func.stack_module_state(list(self.modules))
        self.parameters: dict[str, Tensor] = {n: p.detach() for n, p in stacked.items()}
        self._step = func.vmap(func.grad_and_value(self._loss), in_dims=(0, 0, 0, 0))
        self._values = func.vmap(self._loss, in_dims=(0, 0, None, None))
        self._answers = func.vmap(self._forward, in_dims=(0, 0, None))

    def train(
        self,
        x: Tensor,
        y: Tensor,
        orders: Tensor,
        rates: Tensor,
        momentum: float = 0.0,
        each_step: Callable[[int], None] = lambda step: None,
    ) -> Tensor:
        """Stochastic gradient descent.

        Args:
            x, y: the training set.
            orders: ``[M, steps, batch]``, the samples of each member's batches.
            rates: ``[M]`` or ``[M, steps]``.
            momentum: heavy ball's, in [0, 1).
            each_step: called with the step's number before it.

        Returns:
            ``[M, steps]``, the loss of each batch before the step; not finite where a member diverged.
        """
        losses = torch.empty(orders.shape[:2])
        velocity = {n: torch.zeros_like(p) for n, p in self.parameters.items()} if momentum else {}
        rates = rates.expand(orders.shape[1], -1).T if rates.dim() == 1 else rates
        for step in range(orders.shape[1]):
            each_step(step)
            batch = orders[:, step]
            gradients, losses[:, step] = self._step(self.parameters, self.buffers, x[batch], y[batch])
            for name, p in self.parameters.items():
                move = gradients[name]
                if momentum:
                    move = velocity[name].mul_(momentum).add_(move)
                self.parameters[name] = p - rates[:, step].view(-1, *(1,) * (p.dim() - 1)) * move
        return losses

    def descend(
        self,
        x: Tensor,
        y: Tensor,
        orders: Tensor,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        each_step: Callable[[int], None] = lambda step: None,
        rates: Tensor | None = None,
    ) -> Tensor:
        """The same with an optimizer over the stacked parameters.

        Members stay apart where the method goes coordinate by coordinate: SGD, Adam and their like, not L-BFGS or LARS.

        Args:
            x, y: the training set.
            orders: ``[M, steps, batch]``, the samples of each member's batches.
            optimizer: made of the stacked parameters.
            each_step: called with the step's number before it; it may change ``parameters`` in place.
            rates: ``[M, steps]``, which part of the optimizer's step each member takes: its learning rates, where the optimizer has rate 1
                and its steps are proportional to that.

        Returns:
            ``[M, steps]``, the loss of each batch before the step.
        """
        losses = torch.empty(orders.shape[:2], dtype=x.dtype)
        leaves = {n: nn.Parameter(p) for n, p in self.parameters.items()}
        self.parameters = {n: p.detach() for n, p in leaves.items()}
        made = optimizer(list(leaves.values()))
        for step in range(orders.shape[1]):
            each_step(step)
            batch = orders[:, step]
            gradients, losses[:, step] = self._step(self.parameters, self.buffers, x[batch], y[batch])
            for name, leaf in leaves.items():
                leaf.grad = gradients[name]
            before = {} if rates is None else {n: p.clone() for n, p in self.parameters.items()}
            made.step()
            for name, start in before.items():
                assert rates is not None
                p = self.parameters[name]
                p.copy_(torch.lerp(start, p, rates[:, step].view(-1, *(1,) * (p.dim() - 1))))
        return losses

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """``[M]``, the loss of each member on the whole of ``x``, ``y``."""
        with torch.no_grad():
            return self._values(self.parameters, self.buffers, x, y)

    def accuracies(self, x: Tensor, y: Tensor) -> Tensor:
        """``[M]``, the share answered rightly."""
        with torch.no_grad():
            return (self._answers(self.parameters, self.buffers, x).argmax(-1) == y).double().mean(-1)

    def _forward(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return func.functional_call(self._base, (parameters, buffers), (x,))

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self._forward(parameters, buffers, x), y)


def orders(seeds: Sequence[int], count: int, batch: int, steps: int) -> Tensor:
    """``[len(seeds), steps, batch]``: batches without replacement, epoch after epoch; equal seeds see equal data."""
    made = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps // (count // batch))
        order = torch.cat([torch.randperm(count, generator=generator)[: count // batch * batch] for _ in range(epochs)])
        made.append(order.view(-1, batch)[:steps])
    return torch.stack(made)
