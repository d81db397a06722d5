"""What is followed of each optimizer: its steps, and whether its gradients were cleared in between."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer


@dataclass
class OptimizerState:
    """One optimizer under observation.

    Whether gradients were cleared is read off one parameter that has one: ``zero_grad`` either drops its gradient, or fills it with
    zeros, which raises the tensor's version; a gradient whose version is the one after the last step or backward pass was left alone.

    Args:
        optimizer: it, weakly.
        index: 0, 1, ... in the order in which they were first seen.
        steps: that it made.
        fresh: backward passes since its last step.
        backwards: those since its gradients were seen cleared.
        cleared: whether they were, since its last step; None before the first.
    """

    optimizer: weakref.ref[Optimizer]
    index: int
    steps: int = 0
    fresh: int = 0
    backwards: int = 0
    cleared: bool | None = None
    witness: weakref.ref[Tensor] | None = None
    mark: tuple[int, int] | None = None

    def before_backward(self) -> None:
        """Gradients are about to be added to."""
        gradient = self._gradient()
        if self.mark is None or self.witness is None:
            return
        if gradient is None or id(gradient) != self.mark[0]:
            self.cleared, self.backwards = True, 0
        elif gradient._version != self.mark[1]:
            # On an accelerator reading would wait for it; little else than zeroing changes a gradient between two passes.
            if gradient.device.type != "cpu" or not gradient.count_nonzero():
                self.cleared, self.backwards = True, 0

    def after_backward(self) -> None:
        """Gradients were added to."""
        self.backwards += 1
        self.fresh += 1
        self._look()

    def after_step(self) -> None:
        """The optimizer has stepped."""
        self.steps += 1
        self.cleared, self.fresh = False, 0
        if self._gradient() is None:
            self._choose()
        self._look()

    def _look(self) -> None:
        gradient = self._gradient()
        self.mark = (0, 0) if gradient is None else (id(gradient), gradient._version)

    def _gradient(self) -> Tensor | None:
        parameter = None if self.witness is None else self.witness()
        return None if parameter is None else parameter.grad

    def _choose(self) -> None:
        optimizer = self.optimizer()
        if optimizer is None:
            return
        candidates = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None and not p.grad.is_sparse]
        if candidates:
            self.witness = weakref.ref(min(candidates, key=Tensor.numel))
