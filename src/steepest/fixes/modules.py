"""Interventions at modules: their first weights, their mode, and which of their parameters learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.fixes.intervention import Intervention
from steepest.fixes.seams import Seams

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Reinitialise(Intervention):
    """New weights before the first step: He et al. 2015 or Glorot & Bengio 2010, zero biases; orthogonal ones between states.

    Args:
        kind: ``he`` for rectifiers, ``xavier`` for bounded activations, ``default`` for torch's own.
    """

    kind: str = "he"

    @property
    def words(self) -> str:
        """In words."""
        return {"he": "He weights and zero biases", "xavier": "Xavier weights and zero biases"}.get(
            self.kind, "the initial weights of torch"
        )

    def attach(self, seams: Seams) -> None:
        """At the first call of each model, with random numbers apart from the script's."""
        done: set[int] = set()

        def fresh(model: nn.Module, args: tuple[Any, ...]) -> None:
            if id(model) in done:
                return
            done.add(id(model))
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(torch.initial_seed() % 2**32)
                for module in model.modules():
                    if isinstance(module, _LAYERS + _RECURRENT):
                        seams.touch()
                        self._renew(module)

        seams.entered.append(fresh)

    def _renew(self, module: nn.Module) -> None:
        if self.kind == "default":
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
            return
        for name, p in module.named_parameters(recurse=False):
            if p.ndim < 2:
                nn.init.zeros_(p)
            elif "weight_hh" in name:
                for block in p.split(p.shape[1]):
                    nn.init.orthogonal_(block)
            elif self.kind == "xavier" or "weight_ih" in name:
                nn.init.xavier_uniform_(p)
            else:
                nn.init.kaiming_normal_(p, nonlinearity="relu")


@dataclass(frozen=True)
class RightMode(Intervention):
    """Training mode in calls with gradients, evaluation mode in calls without."""

    @property
    def words(self) -> str:
        """In words."""
        return "training mode in calls with gradients, evaluation mode in calls without"

    def attach(self, seams: Seams) -> None:
        """For the duration of each outermost call."""
        kept: list[tuple[nn.Module, bool]] = []

        def switch(model: nn.Module, args: tuple[Any, ...]) -> None:
            wanted = torch.is_grad_enabled()
            for module in model.modules():
                kept.append((module, module.training))
                if module.training != wanted:
                    seams.touch()
                    module.training = wanted

        def restore(model: nn.Module) -> None:
            for module, mode in kept:
                module.training = mode
            kept.clear()

        seams.entered.append(switch)
        seams.left.append(restore)


@dataclass(frozen=True)
class TrainAll(Intervention):
    """All parameters of the modules that are called learn, and gradients pass ``detach`` and ``no_grad`` inside of models."""

    @property
    def words(self) -> str:
        """In words."""
        return "all parameters of the modules that are called given to the optimizer, none frozen or cut off"

    def attach(self, seams: Seams) -> None:
        """Collect modules as they are called; before the first step add what is missing."""
        met: dict[int, Tensor] = {}
        grad = [False]

        def meet(module: nn.Module) -> None:
            for p in module.parameters(recurse=False):
                if p.is_floating_point():
                    if not p.requires_grad and grad[0]:
                        seams.touch()
                        p.requires_grad_(True)
                    if torch.is_grad_enabled() or grad[0]:
                        met.setdefault(id(p), p)

        def enter(model: nn.Module, args: tuple[Any, ...]) -> None:
            grad[0] = torch.is_grad_enabled()
            if grad[0]:
                for module in model.modules():
                    meet(module)

        def leave(model: nn.Module) -> None:
            grad[0] = False

        def add(root: Tensor) -> None:
            owned = {id(p) for o in seams.optimizers for g in o.param_groups for p in g["params"]}
            missing = [p for key, p in met.items() if key not in owned]
            if missing and seams.optimizers:
                seams.touch()
                seams.optimizers[-1].param_groups[0]["params"].extend(missing)

        def attached(name: str, proceed: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if grad[0] and seams.depth and tensor.requires_grad:
                seams.touch()
                return tensor
            return proceed(tensor, *args, **kwargs)

        enter_no_grad = torch.no_grad.__enter__

        def ignored(self: torch.no_grad) -> None:
            enter_no_grad(self)
            if grad[0] and seams.depth:
                seams.touch()
                torch.set_grad_enabled(True)

        def forget(optimizer: Optimizer) -> None:
            owned = {id(p) for o in seams.optimizers for g in o.param_groups for p in g["params"]}
            for key in owned & met.keys():
                del met[key]

        seams.called.append(meet)
        seams.entered.append(enter)
        seams.left.append(leave)
        seams.backward.append(add)
        seams.after_step.append(forget)
        seams.around("detach", attached)
        seams.replace(torch.no_grad, "__enter__", ignored)


@dataclass(frozen=True)
class BatchFirst(Intervention):
    """The first axis is the batch: in recurrent and attention modules by ``batch_first``, in a softmax over the first axis by the last."""

    @property
    def words(self) -> str:
        """In words."""
        return "batch_first in recurrent and attention modules, no softmax over the batch"

    def attach(self, seams: Seams) -> None:
        """At the first call."""

        def turn(module: nn.Module) -> None:
            if getattr(module, "batch_first", None) is False:
                seams.touch()
                module.batch_first = True  # pyright: ignore[reportArgumentType]

        def over_units(name: str, proceed: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            axis = kwargs.get("dim", args[0] if args else None)
            if axis == 0 and tensor.ndim > 1:
                seams.touch()
                return proceed(tensor, dim=-1)
            return proceed(tensor, *args, **kwargs)

        seams.called.append(turn)
        seams.around("softmax log_softmax", over_units)
