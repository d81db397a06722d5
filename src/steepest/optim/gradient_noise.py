"""Gaussian noise on the gradients of any optimizer, annealed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from steepest.optim.descent import require_nonnegative


class GradientNoise:
    """Adds independent noise of variance ``eta / (1 + t)^gamma`` to every gradient before step t = 0, 1, ... of an optimizer.

    ::

        optimizer = torch.optim.Adam(model.parameters())
        noise = GradientNoise(optimizer, eta=0.01)

    A hook: the optimizer remains what it is for schedulers, trainers and checkpoints. ``step(closure)`` receives the noise after every
    evaluation of the closure, fresh each time. Gradients that are None or sparse stay so. Complex gradients receive the variance as
    ``torch.randn`` understands it, half in either part. The noise's own state is not in the optimizer's: keep ``state_dict()`` beside it.

    Args:
        optimizer: any optimizer.
        eta: at least 0; the source takes 0.01, 0.3 or 1.
        gamma: at least 0; 0.55 in the source.
        seed: of the noise's own generators, one per device, which no other random number disturbs.

    Raises:
        ValueError: for an option out of its range.

    Source: A. Neelakantan et al., Adding gradient noise improves learning for very deep networks, 2015 (arXiv 1511.06807), equation 1.
    """

    def __init__(self, optimizer: Optimizer, eta: float = 0.01, gamma: float = 0.55, seed: int = 0) -> None:
        require_nonnegative("eta", eta, finite=True)
        require_nonnegative("gamma", gamma, finite=True)
        self.eta, self.gamma, self.seed, self.steps = eta, gamma, seed, 0
        self._generators: dict[str, torch.Generator] = {}
        self._optimizer = optimizer
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    @property
    def std(self) -> float:
        """The standard deviation in the next step."""
        return (self.eta / (1.0 + self.steps) ** self.gamma) ** 0.5

    def remove(self) -> None:
        """Take the noise off the optimizer."""
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps and the generators' states."""
        return {"steps": self.steps, "generators": {device: g.get_state() for device, g in self._generators.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``: the same noise follows."""
        self.steps = state["steps"]
        for device, generator in state["generators"].items():
            self._generator(torch.device(device)).set_state(generator)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        std = self.std
        self.steps += 1
        if "closure" in kwargs and kwargs["closure"] is not None:
            return args, kwargs | {"closure": self._noisy(kwargs["closure"], std)}
        # The hook receives the optimizer itself as the first of the arguments.
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._noisy(args[1], std), *args[2:]), kwargs
        self._add(std)
        return None

    def _noisy(self, closure: Callable[[], Any], std: float) -> Callable[[], Any]:
        def evaluate() -> Any:
            loss = closure()
            self._add(std)
            return loss

        return evaluate

    @torch.no_grad()
    def _add(self, std: float) -> None:
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and not p.grad.is_sparse:
                    noise = torch.randn(p.grad.shape, dtype=p.grad.dtype, device=p.device, generator=self._generator(p.device))
                    p.grad.add_(noise, alpha=std)

    def _generator(self, device: torch.device) -> torch.Generator:
        if str(device) not in self._generators:
            self._generators[str(device)] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[str(device)]
