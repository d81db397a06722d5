"""K-FAC: natural gradient descent with a Kronecker-factored curvature, which curvlinops computes."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from steepest.errors import require_extra
from steepest.optim.descent import Closure, Descent, directions, evaluate, inner, require_nonnegative


class KFAC(Descent):
    """Descent along ``(F + damping I)^-1 grad f``, with F the Kronecker-factored Fisher matrix of the batch, one block per weight and bias.

    ::

        optimizer = KFAC(model.parameters(), model=model, criterion=nn.CrossEntropyLoss(), lr=0.1)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step(batch=(x, y))

    The damped inverse is exact (eigenvectors of the factors). The step d is scaled down where ``lr^2 d'g`` exceeds ``trust``: to first
    order it then changes the predictions by so much in Kullback-Leibler divergence at most. Unlike in the paper F is that of one batch,
    without a moving average: batches have to be large enough, or ``damping`` large. Needs curvlinops: ``pip install 'steepest[kfac]'``.

    Args:
        params: weights and biases of ``nn.Linear`` and ``nn.Conv2d`` modules of the model, or groups of them; others go to another
            optimizer.
        model: the network, called on the first part of a batch.
        criterion: ``nn.MSELoss``, ``nn.CrossEntropyLoss`` or ``nn.BCEWithLogitsLoss``, called as ``criterion(model(x), y)``.
        lr: the rate, a number or a tensor of one element.
        damping: added to the eigenvalues of F, above 0.
        trust: see above; infinity: no limit.
        fisher: "mc": the Fisher matrix from targets drawn anew in each step, by the number of the step; "type-2": exact; "empirical": from
            the true targets.
        weight_decay: lambda; its term lambda x joins the gradient.
        maximize: ascend.
        foreach: no effect: blocks are inverted one by one.

    Raises:
        ValueError: for an option out of its range, or a parameter of another kind of module.
        UsageError: where curvlinops is not installed.

    Source: J. Martens, R. Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, ICML 2015; convolutions: Grosse
    and Martens 2016; the trust region: J. Ba, R. Grosse, J. Martens, ICLR 2017, section 5.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        damping: float = 1e-2,
        trust: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        model: nn.Module,
        criterion: nn.Module,
        fisher: str = "mc",
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        require_extra("curvlinops", "kfac")
        if fisher not in ("mc", "type-2", "empirical"):
            raise ValueError(f"fisher is {fisher!r}: one of mc, type-2, empirical is needed")
        self._model, self._criterion, self._fisher = model, criterion, fisher
        super().__init__(
            params,
            {
                "lr": lr,
                "damping": damping,
                "trust": trust,
                "weight_decay": weight_decay,
                "steps": 0,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_model": self._model, "_criterion": self._criterion, "_fisher": self._fisher}

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        require_nonnegative("trust", group["trust"])
        if not 0.0 < group["damping"] < math.inf:
            raise ValueError(f"damping is {group['damping']}: a finite number above 0 is needed")
        kinds = (nn.Linear, nn.Conv2d)
        known = {id(p) for m in self._model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
        for p in group["params"]:
            if id(p) not in known:
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)} is of no nn.Linear or nn.Conv2d of the model: give it to another optimizer"
                )

    @torch.no_grad()
    def step(self, closure: Closure | None = None, *, batch: tuple[Any, Tensor] | None = None) -> Any:
        """One step.

        Args:
            closure: evaluates the loss and its gradient, or None where the gradients are in place.
            batch: inputs and targets, on which the curvature is taken.

        Returns:
            The closure's value.

        Raises:
            RuntimeError: without a batch.
        """
        if batch is None:
            raise RuntimeError("KFAC needs step(batch=(inputs, targets)): it takes the curvature there")
        loss = evaluate(closure)
        for group in self.param_groups:
            parameters = self._active(group)
            if not parameters:
                continue
            gradients = directions(parameters, group)
            steps = self._preconditioned(parameters, gradients, group, batch)
            lr = float(group["lr"])
            change = lr * lr * inner(steps, gradients)
            scale = min(1.0, math.sqrt(group["trust"] / change)) if change > 0.0 else 1.0
            torch._foreach_add_(parameters, steps, alpha=-lr * scale)
            group["steps"] += 1
        return loss

    def _preconditioned(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any], batch: tuple[Any, Tensor]
    ) -> list[Tensor]:
        curvlinops = require_extra("curvlinops", "kfac")
        with torch.enable_grad():
            fisher = curvlinops.KFACLinearOperator(
                self._model,
                self._criterion,
                parameters,
                [batch],
                fisher_type=self._fisher,
                seed=group["steps"],
                check_deterministic=False,
            )
            inverse = curvlinops.KFACInverseLinearOperator(fisher, damping=group["damping"], use_exact_damping=True)
            return list(inverse @ gradients)
