"""A network whose hidden units all begin equal: a saddle that no method leaves by itself which treats them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.studies.digits import load_digits
from steepest.studies.replicas import Replicas, orders

Factory = Callable[[list[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Path:
    """Of each seed.

    Args:
        losses: ``[seeds, steps]``, of the batch before each step.
        spread: how far the units have moved apart at the end, the norm of their differences from their mean over that of their weights.
    """

    losses: Tensor
    spread: list[float]

    def steps_below(self, level: float) -> list[float]:
        """The first step at which the loss is below a level; the number of steps where there is none."""
        below = self.losses < level
        return torch.where(below.any(1), below.long().argmax(1), self.losses.shape[1]).double().tolist()


@dataclass(frozen=True)
class EqualUnits:
    """Tanh units with the same weights, bias and weights to the outputs, on digits, in float64.

    Their gradients are equal, in every batch: so are their steps.

    Args:
        seeds: of the weights and of the order of the data.
        steps: of training.
        train: images.
        width: hidden units.
    """

    seeds: Sequence[int]
    steps: int
    train: int
    width: int

    def train_with(self, optimizer: Factory, batch: int | None = None, perturbation: float = 0.0) -> Path:
        """Train all seeds side by side.

        Args:
            optimizer: goes coordinate by coordinate.
            batch: images in one; None for all of them.
            perturbation: standard deviation of what is added to every parameter before the first step.
        """
        data = load_digits(self.train)
        members = Replicas([self._network(seed) for seed in self.seeds])
        if perturbation:
            for k, seed in enumerate(self.seeds):
                generator = torch.Generator().manual_seed(seed)
                for p in members.parameters.values():
                    p[k] += perturbation * torch.randn(p[k].shape, dtype=p.dtype, generator=generator)
        rows = orders(self.seeds, self.train, batch or self.train, self.steps)
        if batch is None:
            rows = torch.arange(self.train).expand_as(rows)
        losses = members.descend(data.x.double(), data.y, rows, optimizer)
        units = members.parameters["1.weight"]
        apart = units - units.mean(1, keepdim=True)
        return Path(losses, (apart.norm(dim=(1, 2)) / units.norm(dim=(1, 2))).tolist())

    def _network(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        hidden, head = nn.Linear(64, self.width, dtype=torch.float64), nn.Linear(self.width, 10, dtype=torch.float64)
        with torch.no_grad():
            for p in (hidden.weight, hidden.bias):
                p.copy_(p[:1].expand_as(p))
            head.weight.copy_(head.weight[:, :1].expand_as(head.weight))
        return nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), head)
