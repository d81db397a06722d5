"""Barzilai and Borwein's step: the secant equation, solved by a multiple of the identity."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, inner, real

_RULES = ("long", "short", "alternate")


class BarzilaiBorwein(Descent):
    """Gradient descent whose step comes from the last change s of the parameters and y of the gradient.

    ``s's / s'y`` (long), ``s'y / y'y`` (short), or both in turn, long first. For smooth losses whose gradient is that of the whole data in
    each step: between different batches y means nothing. On strictly convex quadratics it converges (Raydan 1993; superlinearly in two
    dimensions), without a monotone decrease; elsewhere nothing guarantees it. Where ``s'y <= 0`` the last step is taken again.

    The rate is the first step alone, and schedulers change nothing after it. Every group's ``step_size`` is the last step. Memory: a copy
    of parameters and gradients.

    Args:
        params: parameters or groups; all take the same step.
        lr: the first step, a number or a tensor of one element.
        rule: "long", "short" or "alternate".
        least: no later step is shorter.
        most: no later step is longer.
        weight_decay: lambda; its term lambda x joins the gradient.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: J. Barzilai, J. M. Borwein, Two-point step size gradient methods, IMA J. Numer. Anal. 8, 1988; the limits on the step after M.
    Raydan, SIAM J. Optim. 7, 1997.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        rule: str = "long",
        least: float = 1e-10,
        most: float = 1e10,
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
                "rule": rule,
                "least": least,
                "most": most,
                "weight_decay": weight_decay,
                "step_size": None,
                "steps": 0,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        if group["rule"] not in _RULES:
            raise ValueError(f"rule is {group['rule']!r}: one of {', '.join(_RULES)} is needed")
        if not 0.0 < group["least"] <= group["most"]:
            raise ValueError(f"least is {group['least']} and most {group['most']}: 0 < least <= most is needed")
        first = self.param_groups[0]
        for option in ("lr", "rule", "least", "most"):
            if group[option] != first[option]:
                raise ValueError(f"{option} is {group[option]} in a group and {first[option]} before: all groups take the same step")

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step; returns the closure's value."""
        loss = evaluate(closure)
        chunks = [(parameters, directions(parameters, group)) for group, parameters in self._chunks()]
        first = self.param_groups[0]
        step = self._step_size(first, chunks)
        for parameters, gradients in chunks:
            for p, gradient in zip(parameters, gradients, strict=True):
                state = self.state[p]
                state["parameter"] = p.clone(memory_format=torch.preserve_format)
                state["gradient"] = torch.empty_like(p)
                real([state["gradient"]])[0].copy_(gradient)
            torch._foreach_add_(real(parameters), gradients, alpha=-step)
        for group in self.param_groups:
            group["step_size"], group["steps"] = step, first["steps"] + (group is first)
        return loss

    def _step_size(self, group: dict[str, Any], chunks: list[tuple[list[Tensor], list[Tensor]]]) -> float:
        if group["step_size"] is None:
            return float(group["lr"])
        ss = sy = yy = 0.0
        for parameters, gradients in chunks:
            known = [i for i, p in enumerate(parameters) if "parameter" in self.state[p]]
            states = [self.state[parameters[i]] for i in known]
            if not known:
                continue
            s = torch._foreach_sub(real([parameters[i] for i in known]), real([state["parameter"] for state in states]))
            y = torch._foreach_sub([gradients[i] for i in known], real([state["gradient"] for state in states]))
            ss, sy, yy = ss + inner(s, s), sy + inner(s, y), yy + inner(y, y)
        if not sy > 0.0:
            return group["step_size"]
        long = group["rule"] == "long" or (group["rule"] == "alternate" and group["steps"] % 2 == 1)
        return min(max(ss / sy if long else sy / yy, group["least"]), group["most"])
