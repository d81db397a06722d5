"""Small perturbations that do change the answer: how far a certified radius could be from the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.interval import Interval
from steepest.numerics.matrix_norm import dual_norm_above
from steepest.numerics.rounding import above
from steepest.robustness.decisions import Decisions

_HALVINGS = 40
DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
"""The norm dual to each."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """Points with another answer.

    Args:
        distance: ``[n]``, of the point from the input, rounded up; infinite where none was found.
        point: ``[n, *input_shape]``, float64; the input itself where none was found. Some other class's score is proven to be
            larger there, in real arithmetic.
    """

    distance: Tensor
    point: Tensor


def realise(at: Decisions, candidates: Tensor, p: float) -> Attacked:
    """The nearest point with another answer on the way from each input to its candidates.

    Args:
        at: n inputs.
        candidates: ``[n, count, *input_shape]``; some may have the input's own answer.
        p: the norm of distances.
    """
    n, count = candidates.shape[:2]
    ones = [1] * (at.x.ndim - 1)
    x, z = at.x[:, None], torch.nan_to_num(candidates, nan=0.0, posinf=0.0, neginf=0.0)
    changed = _changed(at, z)
    low, high = torch.zeros(n, count, dtype=torch.float64), torch.ones(n, count, dtype=torch.float64)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        other = _changed(at, x + (z - x) * middle.reshape(n, count, *ones))
        low, high = torch.where(other, low, middle), torch.where(other, middle, high)
    length = torch.linalg.vector_norm((z - x).flatten(2), p, dim=2) * high
    nearest = torch.where(changed, length, math.inf).argmin(1)
    every = torch.arange(n)
    z, high, found = z[every, nearest], high[every, nearest], changed[every, nearest]
    point, proven = at.x, torch.zeros(n, dtype=torch.bool)
    # A hair further on, until the other class is ahead in exact arithmetic too.
    for further in (0.0, 2.0**-36, 2.0**-28, 2.0**-20, 2.0**-12, math.inf):
        share = (high * (1.0 + further)).clamp(max=1.0) if further < math.inf else torch.ones_like(high)
        there = at.x + (z - at.x) * share.reshape(n, *ones)
        here = found & ~proven & _ahead(at, there)
        point = torch.where(here.reshape(n, *ones), there, point)
        proven = proven | here
    distance = dual_norm_above(above((point - at.x).abs()).flatten(1), DUAL[p])
    return Attacked(torch.where(proven, distance, math.inf), point)


def _changed(at: Decisions, z: Tensor) -> Tensor:
    """Whether points ``[n, count, *input_shape]`` have another answer, as computed."""
    return at.graph.evaluate(z).flatten(2).argmax(2) != at.answer[:, None]


def _ahead(at: Decisions, z: Tensor) -> Tensor:
    """Whether some other class is proven to be ahead at ``[n, *input_shape]``."""
    value = at.graph.enclose(Interval.point(z))[-1].map(lambda t: t.flatten(1))
    return value.lo.gather(1, at.others).amax(1) > value.hi.gather(1, at.answer[:, None])[:, 0]


@dataclass(frozen=True)
class DeepFool:
    """Steps to the nearest linearised decision boundary until the answer changes.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        steps: most linearisations.
        classes: of the others, the highest-scoring at the input that are looked at.
        overshoot: factor beyond the linearised boundary.

    Source: Moosavi-Dezfooli, Fawzi, Frossard 2016.
    """

    p: float = 2.0
    steps: int = 50
    classes: int = 10
    overshoot: float = 1.02

    def points(self, at: Decisions) -> Tensor:
        """Where the steps end, ``[n, *input_shape]``: a point with another answer, or the last one reached."""
        ones = [1] * (at.x.ndim - 1)
        others = at.others.gather(1, at.margins.argsort(1)[:, : self.classes])
        moved, fooled = at.x.clone(), torch.zeros(len(at.x), dtype=torch.bool)
        for _ in range(self.steps):
            z = moved.clone().requires_grad_()
            values = at.graph.evaluate(z).flatten(1)
            gaps = values.gather(1, at.answer[:, None]) - values.gather(1, others)
            rows = -torch.stack([torch.autograd.grad(gap.sum(), z, retain_graph=True)[0] for gap in gaps.unbind(1)], 1).flatten(2)
            gaps = gaps.detach()
            distance = gaps / torch.linalg.vector_norm(rows, DUAL[self.p], dim=2).clamp(min=1e-30)
            target = distance.argmin(1, keepdim=True)
            row = rows.gather(1, target[..., None].expand(-1, -1, rows.shape[2]))[:, 0]
            step = steepest(row, self.p) * (self.overshoot * distance.gather(1, target) + 1e-9)
            moved = torch.where(fooled.reshape(-1, *ones), moved, moved + step.reshape(at.x.shape).nan_to_num(0.0, 0.0, 0.0))
            fooled = _changed(at, moved[:, None])[:, 0]
            if bool(fooled.all()):
                break
        return moved


def steepest(row: Tensor, p: float) -> Tensor:
    """The directions of unit lp length in which linear functions ``[n, size]`` rise fastest."""
    if p == 2:
        return row / torch.linalg.vector_norm(row, dim=1, keepdim=True).clamp(min=1e-30)
    if p == math.inf:
        return row.sign()
    top = row.abs().argmax(1, keepdim=True)
    return torch.zeros_like(row).scatter(1, top, row.gather(1, top).sign())
