"""Small perturbations that do change the answer: how far a certified radius could be from the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph


@dataclass(frozen=True)
class DeepFool:
    """Steps to the nearest linearised decision boundary until the answer changes, then bisection back along the way.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        steps: most linearisations.
        overshoot: factor beyond the linearised boundary.

    Source: Moosavi-Dezfooli, Fawzi, Frossard 2016.
    """

    p: float = 2.0
    steps: int = 50
    overshoot: float = 1.02

    def distance(self, graph: Graph, x: Tensor) -> Tensor:
        """Distance of the nearest point found with another answer (float64, not a proof).

        Args:
            graph: a classifier: the largest entry of its flattened output is the answer.
            x: ``[n, *input_shape]``, float64.

        Returns:
            ``[n]``, infinite where none was found.
        """
        n, classes = len(x), math.prod(graph.shape)

        def logits(z: Tensor) -> Tensor:
            return graph.evaluate(z).reshape(n, classes)

        answer = logits(x).argmax(1)
        moved, fooled = x.clone(), torch.zeros(n, dtype=torch.bool)
        for _ in range(self.steps):
            z = moved.clone().requires_grad_()
            values = logits(z)
            gradients = torch.stack([torch.autograd.grad(values[:, j].sum(), z, retain_graph=True)[0] for j in range(classes)], 1)
            rows = (gradients - gradients[torch.arange(n), answer][:, None]).flatten(2)
            gaps = (values.gather(1, answer[:, None]) - values).detach()
            dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.p]
            lengths = torch.linalg.vector_norm(rows, dual, dim=2)
            distance = (gaps / lengths.clamp(min=1e-30)).scatter(1, answer[:, None], math.inf)
            target = distance.argmin(1)
            step = self._steepest(rows[torch.arange(n), target]) * (self.overshoot * distance.amin(1) + 1e-9)[:, None]
            moved = torch.where(fooled.reshape(-1, *[1] * (x.ndim - 1)), moved, moved + step.reshape(x.shape).nan_to_num(0.0, 0.0, 0.0))
            fooled = logits(moved).argmax(1) != answer
            if fooled.all():
                break
        low, high = torch.zeros(n, dtype=x.dtype), torch.ones(n, dtype=x.dtype)
        for _ in range(30):
            middle = 0.5 * (low + high)
            at = x + (moved - x) * middle.reshape(-1, *[1] * (x.ndim - 1))
            changed = logits(at).argmax(1) != answer
            low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
        length = torch.linalg.vector_norm((moved - x).flatten(1), self.p, dim=1) * high
        return torch.where(fooled, length, math.inf)

    def _steepest(self, row: Tensor) -> Tensor:
        """The direction of unit lp length in which a linear function rises fastest."""
        if self.p == 2:
            return row / torch.linalg.vector_norm(row, dim=1, keepdim=True).clamp(min=1e-30)
        if self.p == math.inf:
            return row.sign()
        top = row.abs().argmax(1, keepdim=True)
        return torch.zeros_like(row).scatter(1, top, row.gather(1, top).sign())
