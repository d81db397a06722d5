"""The stochastic Polyak step: as long as the loss is above what it could be."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, number, real, squared_norm


class StochasticPolyak(Descent):
    """Descent along the gradient with the step ``min((f_B(x) - bound) / (c |grad f_B(x)|^2), lr)``: SPS_max.

    The rate is an upper limit that schedulers may move. Over all groups there is one gradient norm, and each group has its own limit. Where
    all f_i attain the bound at one point (interpolation), are convex and L-smooth, and mu is the mean of their constants of strong
    convexity, c = 1/2 gives ``E|x_k - x*|^2 <= (1 - mu min(1/L, lr))^k |x_0 - x*|^2`` (theorem 3.1 of the source);
    otherwise it ends in a neighbourhood that ``lr`` limits. With the whole data in each step, ``c = 1`` and ``lr = inf`` it is
    Polyak's step of 1987.

    The last step is in every group's ``step_size``.

    Args:
        params: parameters or groups.
        lr: gamma_b, the longest step, a number (also infinity) or a tensor of one element.
        c: scales the step down; 1/2 for convex losses, about 0.2 for deep networks (source, section 4).
        bound: a lower bound of every f_B; 0 suits losses without regularisation that a large network can fit. Under ``maximize`` an upper
            bound.
        growth: tau^{b/n} of the source, such as ``2 ** (1 / len(loader))``: the step may be at most so many times the one before it.
            Infinity: no such limit.
        weight_decay: lambda; the objective is ``f + lambda/2 |x|^2`` in loss and gradient, and ``bound`` bounds that.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: N. Loizou, S. Vaswani, I. Laradji, S. Lacoste-Julien, Stochastic Polyak step-size for SGD: an adaptive learning rate for fast
    convergence, AISTATS 2021. B. Polyak, Introduction to optimization, 1987, section 5.3.
    """

    rate_is_limit = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        c: float = 0.5,
        bound: float = 0.0,
        growth: float = math.inf,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "c": c,
                "bound": bound,
                "growth": growth,
                "weight_decay": weight_decay,
                "step_size": None,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        if not group["c"] > 0.0:
            raise ValueError(f"c is {group['c']}: a number above 0 is needed")
        if not group["growth"] >= 1.0:
            raise ValueError(f"growth is {group['growth']}: a factor of at least 1 is needed")
        first = self.param_groups[0]
        for option in ("c", "bound", "weight_decay", "maximize"):
            if group[option] != first[option]:
                raise ValueError(
                    f"{option} is {group[option]} in a group and {first[option]} before: there is one loss, and one step of it"
                )

    @torch.no_grad()
    def step(self, closure: Closure | None = None, *, loss: Any = None) -> Any:
        """One step.

        Args:
            closure: evaluates the loss and its gradient; or
            loss: the loss, after ``backward``.

        Returns:
            The loss.

        Raises:
            RuntimeError: with neither.
            ValueError: for a loss beyond the bound.
        """
        loss = evaluate(closure) if closure is not None else loss
        if loss is None:
            raise RuntimeError("StochasticPolyak needs the loss: step(loss=loss) after backward, or step(closure)")
        first = self.param_groups[0]
        active = {id(group): self._active(group) for group in self.param_groups}
        gradients = {id(group): directions(active[id(group)], group) for group in self.param_groups}
        objective = number(loss)
        if first["weight_decay"]:
            penalty = 0.5 * first["weight_decay"] * sum(squared_norm(real(group["params"])) for group in self.param_groups)
            objective += -penalty if first["maximize"] else penalty
        gap = first["bound"] - objective if first["maximize"] else objective - first["bound"]
        if gap < 0.0:
            raise ValueError(f"the loss {objective} is beyond its bound {first['bound']}: bound has to hold for every batch")
        square = sum(squared_norm(g) for g in gradients.values())
        polyak = gap / (first["c"] * square) if square else 0.0
        for group in self.param_groups:
            limit = float(group["lr"])
            if group["step_size"] is not None:
                limit = min(limit, group["growth"] * group["step_size"])
            # The first argument wins where a comparison fails: a step that is not a number stays one.
            group["step_size"] = min(polyak, limit)
            if active[id(group)]:
                torch._foreach_add_(real(active[id(group)]), gradients[id(group)], alpha=-group["step_size"])
        return loss
