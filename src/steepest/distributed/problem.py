"""What simulated workers train: a model, its loss, the batches of each worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from steepest.distributed.flat import scatter, trainable
from steepest.errors import UsageError

Batches = Callable[[int, int], tuple[Tensor, Tensor]]


class Shuffled:
    """Batches for every worker from the whole of the data, each worker shuffling on its own; also for the processes of a real run.

    Args:
        x, y: the data; the first axis is the sample.
        size: of a batch; what does not fill one at the end of a pass is left out.
        seed: with the worker's number and the pass it decides the order.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, seed: int = 0) -> None:
        if not 1 <= size <= len(x):
            raise UsageError(f"size is {size}: give a batch size from 1 to {len(x)}, the number of samples")
        self.x, self.y, self.size, self.seed = x, y, size, seed
        self.per_pass = len(x) // size
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def __call__(self, worker: int, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a worker's step, both counted from 0."""
        turn, k = divmod(step, self.per_pass)
        if self._orders.get(worker, (-1,))[0] != turn:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + worker) * 1_000_003 + turn)
            self._orders[worker] = turn, torch.randperm(len(self.x), generator=generator)
        index = self._orders[worker][1][k * self.size : (k + 1) * self.size]
        return self.x[index], self.y[index]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and what it is trained on.

    Args:
        model: deterministic, without buffers that training changes. It is computed with, and changed; its parameters at the start of a
            simulation are the starting point.
        criterion: the loss of the model's output and the targets, a scalar.
        batches: of a worker (from 0) and its step (from 0), inputs and targets.
    """

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    batches: Batches

    @property
    def parameters(self) -> list[Tensor]:
        """Those that are trained."""
        return trainable(self.model.parameters())


class OneByOne:
    """Gradients as a training loop takes them, bit for bit."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._parameters = problem, problem.parameters

    def __call__(self, points: Sequence[Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
        """The gradient at each point on its batch, a tensor per parameter."""
        gradients = []
        for point, (x, y) in zip(points, batches, strict=True):
            scatter(point, self._parameters)
            for p in self._parameters:
                p.grad = None
            self._problem.criterion(self._problem.model(x), y).backward()
            gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        return gradients


class Vectorised:
    """Many gradients in one call (``torch.func.vmap`` over points and batches); equal to ``OneByOne`` up to rounding."""

    def __init__(self, problem: Problem) -> None:
        self._parameters = problem.parameters
        known = {id(p) for p in self._parameters}
        self._names = [name for name, p in problem.model.named_parameters() if id(p) in known]
        self._sizes = [p.numel() for p in self._parameters]
        model, criterion = problem.model, problem.criterion

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return criterion(functional_call(model, values, (x,)), y)

        self._gradients = vmap(grad(loss))

    def __call__(self, points: Sequence[Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
        """The gradient at each point on its batch, a tensor per parameter; batches of the same shape go together."""
        found: list[list[Tensor]] = [[] for _ in points]
        shapes: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for k, (x, y) in enumerate(batches):
            shapes.setdefault((x.shape, y.shape), []).append(k)
        for members in shapes.values():
            pieces = torch.stack([points[k] for k in members]).split(self._sizes, dim=1)
            values = {name: piece.reshape(-1, *p.shape) for name, piece, p in zip(self._names, pieces, self._parameters, strict=True)}
            x, y = (torch.stack(side) for side in zip(*(batches[k] for k in members), strict=True))
            by_name = self._gradients(values, x, y)
            rows = [by_name[name].unbind(0) for name in self._names]
            for k, *row in zip(members, *rows, strict=True):
                found[k] = row
        return found
