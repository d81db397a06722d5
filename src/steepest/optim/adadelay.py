"""AdaDelay: steps that shrink with the delay which a gradient has actually had."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, real, require_nonnegative


class AdaDelay(Descent):
    """The server's side of asynchronous descent: gradient t was computed tau_t updates ago, at x_{t - tau_t}.

    Coordinate by coordinate, with t = 1, 2, ...,

        x_{t+1} = x_t - lr g_t / (smoothness + c_t sqrt(t + tau_t) + eps),   c_t^2 = (1/t) sum_{s <= t} s / (s + tau_s) g_s^2

    so that late gradients take smaller steps, and count less in the scale. Without delays this is Adagrad. The paper's rate is
    ``lr = 1`` with ``smoothness`` the Lipschitz constant of the gradient, times a tuned factor in its experiments; its convergence (for
    convex functions, of averages of the iterates, with projection onto a bounded set) needs no bound on the worst delay. There is no
    projection here.

    Args:
        params: parameters or groups.
        lr: the rate, a number or a tensor of one element.
        smoothness: L, added to the denominator.
        eps: added to the denominator.
        weight_decay: lambda; its term lambda x joins the gradient, or
        decoupled_weight_decay: the parameters first shrink by ``1 - lr lambda``, and the scale does not see it.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: S. Sra, A. W. Yu, M. Li, A. J. Smola, AdaDelay: delay adaptive distributed stochastic optimization, AISTATS 2016, sections 2 and
    4.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        smoothness: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "smoothness": smoothness,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        require_nonnegative("smoothness", group["smoothness"])
        require_nonnegative("eps", group["eps"])

    @torch.no_grad()
    def step(self, closure: Closure | None = None, *, delay: float = 0) -> Any:
        """One step.

        Args:
            closure: evaluates the loss and its gradient, or None where the gradients are in place.
            delay: tau, how many updates the parameters have seen since those at which the gradient was computed.

        Returns:
            The closure's value.

        Raises:
            ValueError: for a negative delay.
        """
        require_nonnegative("delay", delay, finite=True)
        loss = evaluate(closure)
        for group, parameters in self._chunks():
            lr, decoupled = float(group["lr"]), group["decoupled_weight_decay"]
            gradients = directions(parameters, group, coupled=not decoupled)
            states = [self._state(p) for p in parameters]
            for state in states:
                state["step"] += 1
            times = [float(state["step"]) for state in states]
            x = real(parameters)
            weighted = real([state["weighted_sq"] for state in states])
            torch._foreach_addcmul_(weighted, gradients, gradients, [t / (t + delay) for t in times])
            scales = torch._foreach_sqrt(torch._foreach_mul(weighted, [(t + delay) / t for t in times]))
            torch._foreach_add_(scales, group["smoothness"] + group["eps"])
            if decoupled and group["weight_decay"]:
                torch._foreach_mul_(x, 1.0 - lr * group["weight_decay"])
            torch._foreach_addcdiv_(x, gradients, scales, -lr)
        return loss

    def _state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["weighted_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state
