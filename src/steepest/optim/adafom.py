"""AdaFom: Adagrad with first-order momentum."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, real, require_fraction, require_nonnegative


class AdaFom(Descent):
    """Adam whose second moment is the mean of all squared gradients instead of a moving average.

    With t = 1, 2, ... the number of the step and m_0 = v_0 = 0,

        m_t = beta1 m_{t-1} + (1 - beta1) g_t
        v_t = (1 - 1/t) v_{t-1} + g_t^2 / t
        x_{t+1} = x_t - lr m_t / (sqrt(v_t) + eps)

    There is no bias correction, as in the paper; its eps is 0. At rates ``lr / sqrt(t)``, that is with
    ``LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)``, min_t E|grad f(x_t)|^2 = O(log T / sqrt T) where gradients are
    bounded from above and, in the first step, from below (corollary 3.2 of the source): the effective step ``lr m_t / sqrt(sum g^2)`` no
    longer oscillates as Adam's does.

    Args:
        params: parameters or groups.
        lr: the rate, a number or a tensor of one element.
        beta1: memory of the gradient, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: lambda; its term lambda x joins the gradient, or
        decoupled_weight_decay: the parameters first shrink by ``1 - lr lambda``, and the moments do not see it.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: X. Chen, S. Liu, R. Sun, M. Hong, On the convergence of a class of Adam-type algorithms for non-convex optimization, ICLR 2019,
    algorithm 1 and table 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        eps: float = 1e-8,
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
                "beta1": beta1,
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
        require_fraction("beta1", group["beta1"])
        require_nonnegative("eps", group["eps"])

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step; returns the closure's value."""
        loss = evaluate(closure)
        for group, parameters in self._chunks():
            lr, decoupled = float(group["lr"]), group["decoupled_weight_decay"]
            gradients = directions(parameters, group, coupled=not decoupled)
            states = [self._state(p) for p in parameters]
            for state in states:
                state["step"] += 1
            times = [float(state["step"]) for state in states]
            x = real(parameters)
            m = real([state["exp_avg"] for state in states])
            v = real([state["mean_sq"] for state in states])
            torch._foreach_lerp_(m, gradients, 1.0 - group["beta1"])
            torch._foreach_mul_(v, [1.0 - 1.0 / t for t in times])
            torch._foreach_addcmul_(v, gradients, gradients, [1.0 / t for t in times])
            denominators = torch._foreach_sqrt(v)
            torch._foreach_add_(denominators, group["eps"])
            if decoupled and group["weight_decay"]:
                torch._foreach_mul_(x, 1.0 - lr * group["weight_decay"])
            torch._foreach_addcdiv_(x, m, denominators, -lr)
        return loss

    def _state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["mean_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state
