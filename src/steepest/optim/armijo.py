"""Armijo's line search on the loss of the batch."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, inner, number, real, squared_norm
from steepest.optim.randomness import SameRandomness


class Armijo(Descent):
    """Descent along the gradient of the batch with the first step that lowers the same batch's loss enough.

    Beginning at ``min(lr, growth * the last step)``, at ``lr`` in the first step, the step s shrinks by a factor until

        f_B(x - s g) <= f_B(x) - c s |g|^2,   g = grad f_B(x).

    Where all f_i attain their infimum at one point (interpolation), are convex and L-smooth, and mu is the mean of their constants of
    strong convexity, c = 1/2 gives ``E|x_k - x*|^2 <= (1 - mu min(1/L, lr))^k |x_0 - x*|^2`` where each search begins at ``lr`` and the
    step is the longest that passes (theorem 1 of the source; backtracking reaches ``shrink / L`` at least). With the whole data in each
    step this is the deterministic line search of Armijo.

    Every trial evaluates the loss again with the same random numbers (dropout); batch norm's running statistics are updated in each.
    Afterwards ``p.grad`` is the gradient that was followed, and every group's ``step_size`` the step; where no trial passes, the parameters
    stay as they are, the step is 0, and the next search begins at ``lr``. Groups with a smaller ``lr`` move by as much less. Memory: a copy
    of parameters and gradients.

    Args:
        params: parameters or groups.
        lr: eta_max, the longest step, a number or a tensor of one element.
        c: the share of the expected decrease, in (0, 1); 0.1 for deep networks, 1/2 in the theorem.
        shrink: beta, in (0, 1), per failed trial.
        growth: gamma^{b/n} of the source (its gamma is 2): ``2 ** (1 / len(loader))``, or infinity to begin every search at ``lr``.
        trials: how many steps are tried.
        weight_decay: lambda; the objective is ``f + lambda/2 |x|^2``, in the search too.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range.

    Source: S. Vaswani, A. Mishkin, I. Laradji, M. Schmidt, G. Gidel, S. Lacoste-Julien, Painless stochastic gradient: interpolation,
    line-search, and convergence rates, NeurIPS 2019, algorithms 1 and 2. L. Armijo, Pacific J. Math. 16, 1966.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = 1.1,
        trials: int = 100,
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
                "shrink": shrink,
                "growth": growth,
                "trials": trials,
                "weight_decay": weight_decay,
                "step_size": None,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        for option in ("c", "shrink"):
            if not 0.0 < group[option] < 1.0:
                raise ValueError(f"{option} is {group[option]}: a number between 0 and 1 is needed")
        if not group["growth"] >= 1.0:
            raise ValueError(f"growth is {group['growth']}: a factor of at least 1 is needed")
        if group["trials"] < 1:
            raise ValueError(f"trials is {group['trials']}: at least 1 is needed")
        first = self.param_groups[0]
        for option in ("c", "shrink", "growth", "trials", "weight_decay", "maximize"):
            if group[option] != first[option]:
                raise ValueError(f"{option} is {group[option]} in a group and {first[option]} before: there is one loss, and one search")

    @torch.no_grad()
    def step(self, closure: Closure | None = None, *, evaluate_loss: Closure | None = None) -> Any:
        """One step.

        Args:
            closure: zeroes the gradients, evaluates the loss, calls ``backward``.
            evaluate_loss: only evaluates the same loss, without gradients: spares each trial a backward pass.

        Returns:
            The closure's value before the step.

        Raises:
            RuntimeError: without a closure.
        """
        if closure is None:
            raise RuntimeError("Armijo needs step(closure): it evaluates the loss of the batch at several points")
        everything = [p for group in self.param_groups for p in group["params"]]
        randomness = SameRandomness(everything)
        loss = evaluate(closure)
        fastest = max(self.param_groups, key=lambda group: float(group["lr"]))
        longest = float(fastest["lr"])
        moved: list[Tensor] = []
        along: list[Tensor] = []
        slope = 0.0
        for group, parameters in self._chunks():
            gradients = directions(parameters, group)
            share = float(group["lr"]) / longest if longest else 0.0
            scaled = list(torch._foreach_mul(gradients, share))
            slope += inner(gradients, scaled)
            moved += parameters
            along += scaled
        start = [p.clone() for p in moved]
        gradients = [None if p.grad is None else p.grad.clone() for p in everything]
        first = self.param_groups[0]
        value = self._objective(loss)
        passed = None
        step = self._beginning(fastest, longest)
        for _ in range(first["trials"] if moved and step else 0):
            torch._foreach_copy_(moved, start)
            torch._foreach_add_(real(moved), along, alpha=-step)
            randomness.restore()
            trial = self._objective(evaluate(closure) if evaluate_loss is None else evaluate_loss())
            if trial <= value - first["c"] * step * slope:
                passed = step
                break
            step *= first["shrink"]
        if passed is None and moved:
            torch._foreach_copy_(moved, start)
        for p, gradient in zip(everything, gradients, strict=True):
            p.grad = gradient
        for group in self.param_groups:
            group["step_size"] = (passed or 0.0) * (float(group["lr"]) / longest if longest else 0.0)
        return loss

    def _beginning(self, fastest: dict[str, Any], longest: float) -> float:
        last = fastest["step_size"]
        return min(longest, fastest["growth"] * last) if last else longest

    def _objective(self, loss: Any) -> float:
        """What is minimised: the loss, negated under ``maximize``, with its penalty."""
        first = self.param_groups[0]
        value = -number(loss) if first["maximize"] else number(loss)
        if first["weight_decay"]:
            value += 0.5 * first["weight_decay"] * sum(squared_norm(real(group["params"])) for group in self.param_groups)
        return value
