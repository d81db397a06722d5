"""Certified radii: balls around inputs in which a classifier provably keeps its answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import ROOT_TINY, below, gamma
from steepest.ops.pullback import pull_back
from steepest.ops.region import enclose_ball


@dataclass(frozen=True, eq=False)
class Radii:
    """Proven for a batch of inputs.

    Args:
        predicted: ``[n]`` int64, the answer at each input.
        margin: ``[n]``, the least ``f_c(x) - f_j(x)`` over the other classes j, rounded down; not above zero where the answer
            itself is in doubt.
        radius: ``[n]``, in units of the input's norm: every x' with ``|x' - x|_p < radius`` has the same answer.
        lipschitz: ``[n]``, the largest local constant of a margin over the ball of that radius, rounded up.
    """

    predicted: Tensor
    margin: Tensor
    radius: Tensor
    lipschitz: Tensor


@dataclass(frozen=True)
class MarginOverConstant:
    """Certified radius from margins and their local Lipschitz constants.

    Over the ball of radius R the margin ``m_j = f_c - f_j`` has a constant L_j(R), the dual norm of the interval around its
    gradient; so no point nearer than ``min(R, min_j m_j(x) / L_j(R))`` has another answer. L_j rises with R, and bisection
    finds the best R.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        halvings: steps of bisection; the radius is within ``2^-halvings`` of the best this bound can give, relatively.
        entries: most numbers in the widest tensor of a batch.

    Source: Hein and Andriushchenko 2017, theorem 2.1.
    """

    p: float = 2.0
    halvings: int = 12
    entries: int = 2**21

    def certify(self, graph: Graph, x: Tensor, progress: Callable[[int], None] = lambda done: None) -> Radii:
        """Radii at each of a batch of inputs.

        Args:
            graph: a classifier: the largest entry of its flattened output is the answer.
            x: ``[n, *input_shape]``, float64.
            progress: told how many inputs are done.
        """
        classes = math.prod(graph.shape)
        assert classes >= 2
        widest = max(math.prod(node.shape) for node in graph.nodes)
        step = max(1, self.entries // (widest * classes))
        parts = []
        for chunk in x.split(step):
            parts.append(self._certify(graph, chunk))
            progress(len(chunk))
        return Radii(
            torch.cat([part.predicted for part in parts]),
            torch.cat([part.margin for part in parts]),
            torch.cat([part.radius for part in parts]),
            torch.cat([part.lipschitz for part in parts]),
        )

    def _certify(self, graph: Graph, x: Tensor) -> Radii:
        n, classes = len(x), math.prod(graph.shape)
        predicted = graph.evaluate(x).reshape(n, classes).argmax(1)
        others = torch.tensor([[j for j in range(classes) if j != c] for c in predicted.tolist()])
        rows = torch.zeros(n, classes - 1, classes, dtype=torch.float64)
        rows[torch.arange(n), :, predicted] = 1.0
        rows.scatter_(2, others[:, :, None], -1.0)

        at_point = graph.enclose(Interval.point(x))[-1].map(lambda t: t.reshape(n, classes))
        margins = below(at_point.lo.gather(1, predicted[:, None]) - at_point.hi.gather(1, others))
        cotangents = Interval.point(rows.reshape(n, classes - 1, *graph.shape))

        def constants(radius: Tensor) -> Tensor:
            gradients = pull_back(graph, cotangents, enclose_ball(graph, x, radius, self.p))
            return _dual_norm_above(gradients.magnitude().flatten(2), self.p)

        def reachable(radius: Tensor) -> tuple[Tensor, Tensor]:
            slopes = constants(radius)
            # A margin that does not change (slope zero) is safe everywhere.
            proven = below(torch.where(slopes > 0, margins / slopes, math.inf)).amin(1)
            return torch.minimum(proven, radius), slopes.amax(1)

        # At radius zero the quotient is the most this bound can ever give.
        high, steepest = _start(margins, constants(torch.zeros(n, dtype=torch.float64)))
        low = torch.zeros(n, dtype=torch.float64)
        best = torch.zeros(n, dtype=torch.float64)
        for _ in range(self.halvings):
            middle = 0.5 * (low + high)
            proven, slopes = reachable(middle)
            better = proven > best
            best, steepest = torch.where(better, proven, best), torch.where(better, slopes, steepest)
            holds = proven >= middle
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
        margin = margins.amin(1)
        return Radii(predicted, margin, torch.where(margin > 0, best, 0.0), steepest)


def _start(margins: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Where bisection starts: the quotient with the slopes at the point itself, kept finite and not below zero."""
    quotient = torch.where(slopes > 0, margins / slopes, math.inf).amin(1)
    return quotient.clamp(min=0.0, max=1e12).nan_to_num(nan=0.0), slopes.amax(1)


def _dual_norm_above(magnitude: Tensor, p: float) -> Tensor:
    """Upper bound of the norm dual to lp of vectors of these magnitudes along the last axis."""
    slack = 1.0 + gamma(magnitude.shape[-1] + 4)
    if p == 1:
        return magnitude.amax(-1)
    if p == 2:
        # Scaled so that squares neither overflow nor vanish.
        largest = magnitude.amax(-1, keepdim=True)
        scale = torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)
        return (magnitude / scale).square().sum(-1).sqrt() * scale.squeeze(-1) * slack + ROOT_TINY
    return magnitude.sum(-1) * slack
