"""SVRG: stochastic gradients whose variance vanishes, by a snapshot and its full gradient."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, number, real, require_nonnegative
from steepest.optim.randomness import SameRandomness


class SVRG(Descent):
    """Descent on a finite sum f = (1/n) sum f_i along ``grad f_B(x) - grad f_B(s) + grad f(s)``, s a snapshot of the parameters.

    ::

        optimizer = SVRG(model.parameters(), lr=0.1)
        for epoch in range(epochs):
            optimizer.snapshot((criterion(model(x), y), len(x)) for x, y in loader)
            for x, y in loader:
                def closure():
                    optimizer.zero_grad()
                    loss = criterion(model(x), y)
                    loss.backward()
                    return loss
                optimizer.step(closure)

    The direction is unbiased, and its variance falls with the distance of x and s from the minimum: for mu-strongly convex f, convex and
    L-smooth f_i, with single samples, m steps between snapshots, and the next snapshot drawn uniformly from those m iterates,
    ``E f(s_k) - f* <= a^k (f(s_0) - f*)`` with ``a = 1 / (mu lr (1 - 2 L lr) m) + 2 L lr / (1 - 2 L lr)`` (theorem 1). Taking the last
    iterate instead, as above, is common practice. On deep networks the gain is small or none (Defazio and Bottou 2019).

    A step evaluates the closure twice, with the same random numbers (dropout), and leaves the direction, without decay, in ``p.grad``;
    batch norm's running statistics are updated twice. Memory: the snapshot and its gradient (twice the parameters), and a copy of the
    parameters within a step.

    Args:
        params: parameters or groups.
        lr: the rate, a number or a tensor of one element.
        weight_decay: lambda; the full objective is ``f + lambda/2 |x|^2``, whose second gradient is taken exactly.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: R. Johnson, T. Zhang, Accelerating stochastic gradient descent using predictive variance reduction, NeurIPS 2013.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach, "differentiable": differentiable}
        )

    def snapshot(self, losses: Iterable[Tensor | tuple[Tensor, float]]) -> float:
        """Take the parameters as the snapshot, and the mean of the losses' gradients as its full gradient; zeroes the gradients.

        Args:
            losses: made one after another, as by a generator over a loader: the mean loss of a batch, with the number of its samples
                where batches differ in size.

        Returns:
            The mean loss.

        Raises:
            ValueError: where there is no loss, or a weight is negative.
        """
        self.zero_grad()
        total, mean = 0.0, 0.0
        with torch.enable_grad():
            for item in losses:
                loss, weight = item if isinstance(item, tuple) else (item, 1.0)
                require_nonnegative("the weight of a loss", weight, finite=True)
                (loss * weight).backward()
                total += weight
                mean += weight * number(loss)
        if not total:
            raise ValueError(
                "a snapshot needs at least one loss: an iterable of losses, such as (criterion(model(x), y) for x, y in loader)"
            )
        with torch.no_grad():
            for group in self.param_groups:
                self._active(group)
                for p in group["params"]:
                    state = self.state[p]
                    state["snapshot"] = p.detach().clone(memory_format=torch.preserve_format)
                    state["full_gradient"] = torch.zeros_like(p) if p.grad is None else p.grad.div(total)
        self.zero_grad()
        return mean / total

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step.

        Args:
            closure: zeroes the gradients, evaluates the loss of a batch, calls ``backward``.

        Returns:
            The closure's value at the parameters before the step.

        Raises:
            RuntimeError: without a closure, or before the first snapshot.
        """
        if closure is None:
            raise RuntimeError("SVRG needs step(closure): it evaluates the gradient of the batch at two points")
        parameters = [p for group in self.param_groups for p in group["params"]]
        if any("snapshot" not in self.state[p] for p in parameters):
            raise RuntimeError("SVRG needs a snapshot of all its parameters first: optimizer.snapshot(losses of all batches)")
        randomness = SameRandomness(parameters)
        here = [p.clone() for p in parameters]
        torch._foreach_copy_(parameters, [self.state[p]["snapshot"] for p in parameters])
        try:
            evaluate(closure)
            old = [None if p.grad is None else p.grad.clone() for p in parameters]
        finally:
            torch._foreach_copy_(parameters, here)
        randomness.restore()
        loss = evaluate(closure)
        for p, gradient in zip(parameters, old, strict=True):
            if p.grad is not None and not p.grad.is_sparse:
                p.grad.add_(self.state[p]["full_gradient"])
                if gradient is not None:
                    p.grad.sub_(gradient)
        for group, active in self._chunks():
            torch._foreach_add_(real(active), directions(active, group), alpha=-float(group["lr"]))
        return loss
