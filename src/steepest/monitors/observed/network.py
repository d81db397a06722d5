"""Recognises what the theories of special networks speak of: a chain of linear layers, gradient descent, one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from steepest.probes.events import Backward, Criterion, Forward
from steepest.probes.tape import ACTIVATIONS, WEIGHTED, read

# What a chain of linear layers and a squared error leave in the graph beside its layers and activations.
PLAIN = frozenset(("MseLoss", "T", "Transpose", "Permute", "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Alias", "Mul", "Div"))


@dataclass(frozen=True, eq=False)
class Watched:
    """A step of such a run.

    Args:
        weights, biases: of the layers in order, ``[out, in]`` and ``[out]``; no biases or one for every layer but perhaps the last.
        inputs, targets: ``[samples, ...]`` of the batch.
        elements: entries of the error; mean: whether the loss is their mean, else their sum.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    inputs: Tensor
    targets: Tensor
    elements: int
    mean: bool


class WholeBatch:
    """Follows a run until something does not fit.

    Args:
        most: samples.
        activations: of the network, in order.
    """

    def __init__(self, most: int, activations: tuple[str, ...]) -> None:
        self.most, self.activations = most, activations
        self.stopped = False
        self.batch: tuple[Tensor, Tensor] | None = None
        self.given: Tensor | None = None
        self.error: tuple[int, bool] | None = None
        self.layers: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
        self.rates: list[float] | None = None

    def stop(self) -> None:
        """Take no more notice, and let go of everything."""
        self.stopped, self.batch, self.given, self.layers = True, None, None, None

    def forward(self, event: Forward) -> None:
        """A model was applied."""
        if self.stopped or not event.grad:
            return
        x = event.inputs[0] if len(event.inputs) == 1 else None
        if self.given is not None or x is None or x.ndim != 2 or len(x) > self.most or not x.is_floating_point():
            self.stop()
            return
        self.given = x.detach()
        if self.layers is None:
            rows = [p for p in event.module.parameters() if p.ndim == 2]
            self.layers = tuple(rows), tuple(p for p in event.module.parameters() if p.ndim == 1)
            chained = all(v.shape[0] == w.shape[1] for v, w in pairwise(rows))
            if len(rows) < 2 or not chained or len(rows) + len(self.layers[1]) != len(list(event.module.parameters())):
                self.stop()

    def criterion(self, event: Criterion) -> None:
        """A loss was called."""
        if self.stopped or not event.grad:
            return
        x, y = self.given, event.target
        reduction = event.options.get("reduction", "mean")
        fits = event.name == "mse_loss" and reduction in ("mean", "sum") and event.input_shape == event.target_shape
        if not fits or x is None or y is None or event.input is None:
            self.stop()
        elif self.batch is None:
            self.batch, self.error = (x.clone(), y.detach().clone()), (event.input.numel(), reduction == "mean")
        elif not (torch.equal(x, self.batch[0]) and torch.equal(y, self.batch[1])):
            self.stop()

    def backward(self, event: Backward, optimizers: Sequence[Optimizer]) -> Watched | None:
        """A backward pass begins: the step, where all fits."""
        if self.stopped:
            return None
        x, self.given = self.given, None
        if x is None or self.batch is None or self.layers is None or self.error is None or event.value is None or len(optimizers) != 1:
            self.stop()
            return None
        groups = optimizers[0].param_groups
        plain = isinstance(optimizers[0], SGD) and len(groups) == 1 and not (groups[0]["momentum"] or groups[0]["weight_decay"])
        rates = [float(g["lr"]) for g in groups]
        if not plain or rates != (self.rates or rates) or (self.rates is None and not self._reads(event)):
            self.stop()
            return None
        self.rates = rates
        return Watched(*self.layers, *self.batch, *self.error)

    def _reads(self, event: Backward) -> bool:
        """Whether the graph is such a chain."""
        assert self.layers is not None
        tape = read(event.loss.grad_fn)
        if tape is None or not {id(p) for p, _ in tape.parameters} <= {id(p) for p in (*self.layers[0], *self.layers[1])}:
            return False
        names = [op.name for op in tape.ops]
        known = all(n in WEIGHTED or n in ACTIVATIONS or n in PLAIN for n in names)
        return known and tuple(op.name for op in tape.activations) == self.activations and tape.depth == len(self.layers[0])
