"""What can be learnt from these data? A kernel method, left one out, answers without any training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.probes.events import Backward, Criterion, Forward
from steepest.probes.examples import Examples
from steepest.probes.handwritten import handwritten
from steepest.probes.probe import Probe
from steepest.results.measured import Measured

RIDGES = (1e-6, 1e-4, 1e-2, 0.1, 1.0)
WIDTHS = (0.5, 1.0, 2.0)
SMALLEST = 30
FEWEST_TOKENS = 100
"""Inputs of few different tokens repeat with different targets, which leaving one out does not see."""


@dataclass(frozen=True)
class Reachable(Measured):
    """The best of linear and Gaussian kernel ridge regression, each sample predicted from all others.

    Args:
        rows: samples used; classes: of the labels (whole numbers of an integer type, or 0/1), 0 for a regression.
        accuracy: share of right classes; explained: R^2 of the regression on targets or on 0/1 codes of classes.
        linear: the same as ``accuracy`` or ``explained`` of the linear kernel alone.
        chance: the share of the most frequent class among the rows.
    """

    rows: int
    classes: int
    accuracy: float
    explained: float
    linear: float
    chance: float


class ReachableProbe(Probe):
    """Keeps at most 768 samples; at the end some eigendecompositions of that size (about half a second on one core)."""

    def __init__(self) -> None:
        """Nothing kept yet."""
        self.examples = Examples()
        self.input: Tensor | None = None
        self.tokens = False

    def on_forward(self, event: Forward) -> None:
        """Remember the rows until their targets are met."""
        self.input = None
        if event.grad and not self.examples.full and event.inputs and event.inputs[0].ndim >= 1:
            self.input = event.inputs[0].detach()
            self.tokens = not self.input.is_floating_point()

    def on_criterion(self, event: Criterion) -> None:
        """The targets of these rows."""
        y, x, self.input = event.target, self.input, None
        if x is not None and y is not None and event.grad and y.ndim and len(y) == len(x):
            self.examples.add(x, y.detach())

    def before_backward(self, event: Backward) -> None:
        """A loss written by hand."""
        criterion = handwritten(event)
        if criterion is not None:
            self.on_criterion(criterion)

    def finish(self) -> Reachable | None:
        """Leave-one-out quality of the kernels."""
        rows = self.examples.stacked()
        if rows is None or len(rows[0]) < SMALLEST or not bool(torch.isfinite(rows[0].double()).all()):
            return None
        x, y = rows
        # A kernel method that is shown the answer is no measure of a network that has to squeeze it through a bottleneck.
        if y.is_floating_point() and x.flatten(1).shape == y.shape and torch.equal(x.flatten(1).to(y.dtype), y):
            return None
        if self.tokens and len(x) < FEWEST_TOKENS:
            return None
        return reachable(bags(x) if self.tokens else x.double(), y)


def bags(x: Tensor) -> Tensor:
    """Counts of each index in a row, damped by their frequency in all rows."""
    values, places = torch.unique(x, return_inverse=True)
    counts = torch.zeros(len(x), len(values), dtype=torch.float64)
    counts.scatter_add_(1, places.reshape(len(x), -1), torch.ones_like(places, dtype=torch.float64).reshape(len(x), -1))
    weight = torch.log(len(x) / (counts > 0).double().sum(0)) + 1e-3
    return counts * weight


def reachable(x: Tensor, y: Tensor) -> Reachable | None:
    """Leave-one-out quality on rows x, y.

    For ridge regression with the hat matrix H the residual of a sample left out is (y - Hy)_i / (1 - H_ii) (Allen 1974), so one
    eigendecomposition of each kernel matrix gives all ridges at once.
    """
    indices = not y.is_floating_point()
    y = y.double()
    if not bool(torch.isfinite(y).all()):
        return None
    x = x - x.mean(0)
    std = x.std(0, correction=0)
    x = x / (std + 0.1 * std.mean() + 1e-300)
    values = torch.unique(y)
    zero_one = bool(((y == 0) | (y == 1)).all())
    one_hot = y.shape[1] > 1 and zero_one and bool((y.sum(1) == 1).all())
    classes = 0
    if one_hot:
        labels, classes = y.argmax(1), y.shape[1]
    elif y.shape[1] == 1 and (indices or zero_one) and 1 < len(values) <= min(50, len(y) // 2):
        labels, classes = torch.searchsorted(values, y[:, 0].contiguous()), len(values)
    else:
        labels = None
    targets = y if labels is None else torch.nn.functional.one_hot(labels, classes).double()
    targets = targets - targets.mean(0)
    spread = float(targets.square().mean())
    if spread <= 0:
        return Reachable(len(x), 1, 1.0, math.nan, 1.0, 1.0)
    inner = x @ x.T
    norms = inner.diagonal()
    distances = (norms[:, None] + norms[None] - 2 * inner).clamp(min=0)
    middle = float(distances[~torch.eye(len(x), dtype=torch.bool)].median()) or 1.0
    kernels = [inner / (float(norms.mean()) or 1.0)] + [torch.exp(-distances / (2 * middle * w * w)) for w in WIDTHS]
    scores = [_best(k, targets, labels, spread) for k in kernels]
    accuracy = max(a for a, _ in scores)
    explained = max(e for _, e in scores)
    linear = scores[0][1] if labels is None else scores[0][0]
    chance = math.nan if labels is None else float(torch.bincount(labels).max()) / len(labels)
    return Reachable(len(x), classes, accuracy, explained, linear, chance)


def _best(kernel: Tensor, targets: Tensor, labels: Tensor | None, spread: float) -> tuple[float, float]:
    """Over all ridges. The intercept is free: it centres the kernel and adds 1/n to the leverage of each sample."""
    n = len(kernel)
    kernel = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp(min=0)
    turned = vectors.T @ targets
    best = (-math.inf, -math.inf)
    for ridge in RIDGES:
        shrink = values / (values + ridge * n**0.5)
        free = 1 - 1 / n - (vectors.square() * shrink).sum(1)
        # Where a sample alone decides its fitted value nothing is left to predict it from.
        if float(free.min()) < 1e-6:
            continue
        left_out = targets - (targets - vectors @ (shrink[:, None] * turned)) / free[:, None]
        explained = 1 - float((targets - left_out).square().mean()) / spread
        accuracy = math.nan if labels is None else float((left_out.argmax(1) == labels).double().mean())
        best = (max(best[0], accuracy), max(best[1], explained))
    return (math.nan, best[1]) if labels is None else best
