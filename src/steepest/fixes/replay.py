"""More steps: what a script has computed is computed again, on batches it has used before."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.fixes.intervention import Intervention
from steepest.fixes.losses import CRITERIA
from steepest.fixes.seams import Seams
from steepest.watch.hooks import unwatched

_KEPT = 512


@dataclass(frozen=True)
class MoreSteps(Intervention):
    """Several steps in place of each, the further ones on batches used before, as more epochs would take them.

    It needs a loss of ``torch.nn.functional`` of the output of one model called with one tensor; otherwise nothing is done.

    Args:
        times: how many steps for each.
    """

    times: int = 8

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.times} times as many steps"

    def attach(self, seams: Seams) -> None:
        """Keep batches as they are used; after each step take further ones."""
        kept: list[tuple[nn.Module, tuple[Any, ...], Any]] = []
        call: list[tuple[nn.Module, tuple[Any, ...], Tensor | None]] = []
        chance = random.Random(0)
        count = [0]
        busy = [False]

        def enter(model: nn.Module, args: tuple[Any, ...]) -> None:
            if torch.is_grad_enabled() and not busy[0]:
                call[:] = [(model, args, None)]

        def leave(model: nn.Module, output: Any) -> Any:
            if call and call[0][0] is model and call[0][2] is None and isinstance(output, Tensor):
                call[:] = [(model, call[0][1], output)]
            return output

        def loss(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = proceed(input, target, *args, **kwargs)
            if busy[0] or not result.requires_grad or not call:
                return result
            model, given, output = call[0]
            call.clear()
            if output is None or output.numel() != input.numel() or result.numel() != 1:
                return result
            shape = input.shape
            again = proceed(output.detach().reshape(shape), target, *args, **kwargs)
            if not torch.allclose(again, result.detach(), equal_nan=True):
                return result

            def replay() -> Tensor:
                prediction = model(*given)
                return proceed(prediction.reshape(shape), target, *args, **kwargs)

            count[0] += 1
            item = (model, given, replay)
            if len(kept) < _KEPT:
                kept.append(item)
            else:
                kept[count[0] % _KEPT] = item
            return result

        def further(optimizer: Optimizer) -> None:
            plain = getattr(type(optimizer).step, "__wrapped__", None)
            if busy[0] or not kept or plain is None or isinstance(optimizer, torch.optim.LBFGS):
                return
            busy[0] = True
            parameters = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
            held = [p.grad for p in parameters]
            try:
                with unwatched(), torch.enable_grad():
                    for _ in range(self.times - 1):
                        value = chance.choice(kept)[2]()
                        for p, g in zip(parameters, torch.autograd.grad(value, parameters, allow_unused=True), strict=True):
                            p.grad = g
                        plain(optimizer)
                seams.touch()
            finally:
                for p, g in zip(parameters, held, strict=True):
                    p.grad = g
                busy[0] = False

        seams.entered.append(enter)
        seams.outputs.append(leave)
        seams.around(CRITERIA, loss)
        seams.after_step.append(further)
