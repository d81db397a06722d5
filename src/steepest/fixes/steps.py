"""Interventions at the steps of optimizers: their size, their direction, and which gradients they use."""

from __future__ import annotations

import functools
import math
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.fixes.intervention import Intervention
from steepest.fixes.seams import Seams


@dataclass(frozen=True)
class ScaleRate(Intervention):
    """The step size times a factor, whatever a schedule makes of it.

    Args:
        factor: by which each group's rate is multiplied for the duration of each step.
    """

    factor: float = 0.1

    @property
    def words(self) -> str:
        """In words."""
        return f"the step size times {self.factor:g}"

    def attach(self, seams: Seams) -> None:
        """Before each step scale, after it restore."""
        _during_step(seams, "lr", lambda rate: rate * self.factor)


@dataclass(frozen=True)
class WithoutDecay(Intervention):
    """No weight decay."""

    @property
    def words(self) -> str:
        """In words."""
        return "no weight decay"

    def attach(self, seams: Seams) -> None:
        """Zero during each step."""
        _during_step(seams, "weight_decay", lambda decay: 0.0)


@dataclass(frozen=True)
class Decay(Intervention):
    """Decoupled weight decay (Loshchilov & Hutter 2019).

    Args:
        rate: the share of each weight that a step takes away, for a step size of 1.
    """

    rate: float = 0.1

    @property
    def words(self) -> str:
        """In words."""
        return f"decoupled weight decay of {self.rate:g}"

    def attach(self, seams: Seams) -> None:
        """Shrink before each step."""

        def shrink(optimizer: Optimizer) -> None:
            seams.touch()
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        if p.ndim > 1:
                            p.mul_(1 - float(group["lr"]) * self.rate)

        seams.before_step.append(shrink)


@dataclass(frozen=True)
class ClipGradients(Intervention):
    """The norm of the gradient is at most this; steps whose gradient is not finite are left out (Pascanu et al. 2013).

    Args:
        norm: the largest norm of all gradients of an optimizer together.
    """

    norm: float = 1.0

    @property
    def words(self) -> str:
        """In words."""
        return f"gradients clipped to norm {self.norm:g}"

    def attach(self, seams: Seams) -> None:
        """Clip before each step."""

        def clip(optimizer: Optimizer) -> None:
            parameters = [p for p in _parameters(optimizer) if p.grad is not None]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.norm)) if parameters else 0.0
            if not norm <= self.norm:
                seams.touch()
            if not math.isfinite(norm):
                for p in parameters:
                    p.grad = None

        seams.before_step.append(clip)


@dataclass(frozen=True)
class ClearGradients(Intervention):
    """Gradients are cleared before the first backward pass after a step."""

    @property
    def words(self) -> str:
        """In words."""
        return "gradients cleared after each step"

    def attach(self, seams: Seams) -> None:
        """Remember who stepped, clear before the next backward pass."""
        stepped: list[Optimizer] = []

        def clear(root: Tensor) -> None:
            for optimizer in stepped:
                for p in _parameters(optimizer):
                    if p.grad is not None:
                        seams.touch()
                        p.grad = None
            stepped.clear()

        seams.after_step.append(stepped.append)
        seams.backward.append(clear)


@dataclass(frozen=True)
class AverageMicroBatches(Intervention):
    """Gradients that several backward passes have summed are divided by the number of these."""

    @property
    def words(self) -> str:
        """In words."""
        return "accumulated gradients divided by the number of micro-batches"

    def attach(self, seams: Seams) -> None:
        """Count backward passes between steps."""
        passes = [0]

        def count(root: Tensor) -> None:
            passes[0] += 1

        def divide(optimizer: Optimizer) -> None:
            if passes[0] > 1:
                seams.touch()
                for p in _parameters(optimizer):
                    if p.grad is not None:
                        p.grad.div_(passes[0])

        def restart(optimizer: Optimizer) -> None:
            passes[0] = 0

        seams.backward.append(count)
        seams.before_step.append(divide)
        seams.after_step.append(restart)


@dataclass(frozen=True)
class LargerBatches(Intervention):
    """One step on the mean gradient of several batches, in place of a step on each.

    Args:
        batches: how many make one step.
    """

    batches: int = 16

    @property
    def words(self) -> str:
        """In words."""
        return f"one step for every {self.batches} batches, on their mean gradient"

    def attach(self, seams: Seams) -> None:
        """Collect gradients; only every so many calls of ``step`` is one."""

        def made(optimizer: Optimizer) -> None:
            sums: dict[Tensor, Tensor] = {}
            calls = [0]
            step = optimizer.step

            def collected(self_: Optimizer, closure: Any = None) -> Any:
                if closure is not None:
                    return step(closure)
                calls[0] += 1
                for p in _parameters(optimizer):
                    if p.grad is not None:
                        sums[p] = p.grad.clone() if p not in sums else sums[p] + p.grad
                if calls[0] % self.batches:
                    return None
                seams.touch()
                for p, total in sums.items():
                    p.grad = total / self.batches
                sums.clear()
                return step()

            _own_step(optimizer, collected)

        seams.made.append(made)


@dataclass(frozen=True)
class UseAdam(Intervention):
    """Adam (Kingma & Ba 2015) in place of the script's optimizer, on the same parameters.

    Args:
        rate: its step size.
    """

    rate: float = 1e-3

    @property
    def words(self) -> str:
        """In words."""
        return f"Adam with step size {self.rate:g} in place of the optimizer"

    def attach(self, seams: Seams) -> None:
        """The script's optimizer keeps its name and its groups; its ``step`` is Adam's."""
        making = [False]

        def made(optimizer: Optimizer) -> None:
            if making[0]:
                return
            inner: list[torch.optim.Adam] = []

            def adam(self_: Optimizer, closure: Any = None) -> Any:
                if not inner:
                    making[0] = True
                    inner.append(torch.optim.Adam([p for p in _parameters(optimizer)], lr=self.rate))
                    making[0] = False
                    seams.touch()
                loss = None
                if closure is not None:
                    with torch.enable_grad():
                        loss = closure()
                inner[0].step()
                return loss

            _own_step(optimizer, adam)

        seams.made.append(made)


@dataclass(frozen=True)
class StopAt(Intervention):
    """Training stops after some steps; what the script calls afterwards leaves the weights alone.

    Args:
        steps: how many.
    """

    steps: int = 100

    @property
    def words(self) -> str:
        """In words."""
        return f"no steps after step {self.steps}, where the held-out loss was least"

    def attach(self, seams: Seams) -> None:
        """Drop the gradients of later steps."""
        done = [0]

        def made(optimizer: Optimizer) -> None:
            step = optimizer.step

            def limited(self_: Optimizer, *args: Any, **kwargs: Any) -> Any:
                if done[0] >= self.steps:
                    seams.touch()
                    return None
                done[0] += 1
                return step(*args, **kwargs)

            _own_step(optimizer, limited)

        seams.made.append(made)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _during_step(seams: Seams, key: str, change: Any) -> None:
    """An option of all groups, changed from before a step until after it."""
    kept: dict[int, list[Any]] = {}

    def alter(optimizer: Optimizer) -> None:
        kept[id(optimizer)] = [group.get(key) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            if key in group:
                seams.touch()
                group[key] = change(group[key])

    def restore(optimizer: Optimizer) -> None:
        for group, value in zip(optimizer.param_groups, kept.pop(id(optimizer), []), strict=False):
            if key in group:
                group[key] = value

    seams.before_step.append(alter)
    seams.after_step.append(restore)


def _own_step(optimizer: Optimizer, step: Any) -> None:
    """Give one optimizer a ``step`` of its own, a bound method as schedulers expect it."""
    optimizer.step = types.MethodType(functools.wraps(type(optimizer).step)(step), optimizer)  # pyright: ignore[reportAttributeAccessIssue]
